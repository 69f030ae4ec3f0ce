"""Networks of the caller: what tells one from another, and copies that can be sent to other processes."""

from __future__ import annotations

import copy
import functools
import hashlib
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from companion._types import Model

_PLAIN = (str, bytes, int, float, complex, type(None))
# What every module has: parameters are in the state dict, it is in evaluation mode, and hooks are code.
_EVERY_MODULE = vars(nn.Module()).keys() - {"_buffers", "_modules"}


def digest(network: Model) -> str:
    """The SHA-256 of what tells a network from others, the same in every process; of no module, the class alone.

    Of a module these are its class, its printed form, its state dict, and the attributes of it and of all modules
    inside: numbers, buffers that are not saved, functions, modules in a list.
    """
    about: list[Any] = [_name(type(network))]
    if isinstance(network, nn.Module):
        about += [_printed(network), network.state_dict(), network]
    found = hashlib.sha256()
    for fact in _facts(about, {}):
        found.update(f"{fact};".encode())
    return found.hexdigest()


def placed(network: Model, device: str | torch.device) -> Model:
    """A module on that device; a copy, unless it is there already. Parametrizations, which cannot be sent, are taken
    out of the copy, their values left in.
    """
    if not isinstance(network, nn.Module):
        return network
    there = all(value.device == torch.device(device) for value in tensors(network))
    if there and not any(map(parametrize.is_parametrized, network.modules())):
        return network
    network = copy.deepcopy(network).to(device)
    for module in [*filter(parametrize.is_parametrized, network.modules())]:
        names: Any = module.parametrizations
        values = {name: getattr(module, name).detach() for name in names}
        # torch's own remove_parametrizations changes the class, which is that of the caller's module, too.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in values.items():
            module.register_buffer(name, value)
    return network


def tensors(network: Model) -> list[Tensor]:
    """Parameters and buffers; none of what is no module."""
    return [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []


def _facts(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """What can be said of a value and of all that it holds."""
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif id(value) in seen:  # it may hold itself
        yield f"number {seen[id(value)][0]}"
    else:
        if not isinstance(value, (tuple, types.CodeType)):  # of which Python makes one or several as it likes
            seen[id(value)] = len(seen), value  # the value, too, lest another one gets its id
        parts = [*_parts(value)]
        yield f"{_name(type(value))} {len(parts)}"
        for part in parts:
            yield from _facts(part, seen)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), hashlib.sha256(_content(value)).hexdigest()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tolist()
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):  # in no order
        return sorted(map(_printed, value))
    if isinstance(value, nn.Module):
        value = getattr(value, "_orig_mod", value)  # what torch.compile adds depends on the process
        return [each for each in vars(value).items() if each[0] not in _EVERY_MODULE]
    if isinstance(value, types.FunctionType):
        return value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, value.co_consts
    if isinstance(value, types.CellType):
        return [] if value == types.CellType() else [value.cell_contents]
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, (type, types.ModuleType)):
        return [repr(value)]
    return _printed(value), getattr(value, "__dict__", None)


def _content(value: Tensor) -> bytes:
    value = value.detach().cpu()
    value = (value if value.layout == torch.strided else value.to_dense()).resolve_conj().resolve_neg()
    # A copy, since a single number may keep a stride that is no one's.
    value = value.reshape(-1).clone(memory_format=torch.contiguous_format)
    return value.view(torch.uint8).numpy().tobytes()


def _printed(value: Any) -> str:
    """A value as it is printed, without addresses in memory."""
    return re.sub(r"0x[0-9a-fA-F]+", "", repr(value))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
