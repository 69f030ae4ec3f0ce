"""From a network to the maps it is made of, and from these to the product of their norms."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from companion.certificates import activations, convolutions, linear, rounding
from companion.certificates.layers import Affine, Part, Shape, Sum, refuse
from companion.models.architectures import Generator, Residual

# From the exact type of a layer to what is known about it. A subclass may do anything in its forward.
_TABLE = activations.TABLE | linear.TABLE | convolutions.TABLE
_CHAINS = (nn.Sequential, Generator)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{kind}" for kind in _HOOKS)


def parts(network: nn.Module, shape: Shape) -> list[Part]:
    """The maps of a network in the order in which they run, batch norm taken into the weights before it.

    Raises:
        ValueError: for whatever does not surely do what its type says; it is named.
    """
    if any(getattr(torch_module, name) for name in _GLOBAL_HOOKS):
        raise ValueError("network must run without hooks, got some registered for every module")
    found: list[Part] = []
    _collect(network, shape, found, inside=False)
    return found


def _plain(module: nn.Module) -> None:
    """Refuse a module that may do something else than the forward of its class says."""
    if module.training:
        raise refuse("be in evaluation mode", module)
    if any(getattr(module, name) for name in _HOOKS):
        raise refuse("have no hooks, which may change what it computes", module)
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    if replaced or vars(module).get("_compiled_call_impl"):
        name = replaced[0] if replaced else "compiled call"
        raise refuse(f"run as its classes say, without a {name} of an object's own", module)


def _collect(module: nn.Module, shape: Shape, found: list[Part], inside: bool) -> Shape:
    """Append the parts of `module`; `inside` a Residual nothing may overwrite its input. Returns the output's shape."""
    _plain(module)
    part: Part
    if isinstance(module, nn.Sequential) and type(module) in _CHAINS:
        for child in module:
            shape = _collect(child, shape, found, inside)
        return shape
    if type(module) is Residual:
        part = _residual(module, shape)
    elif type(module) not in _TABLE:
        raise _unknown(module)
    elif inside and getattr(module, "inplace", False):
        raise refuse("have no in-place layers inside a Residual, whose shortcut may see what they write", module)
    else:
        try:
            part = _TABLE[type(module)](module, shape)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(f"input_shape must suit the network, but {module} got {shape}: {error}") from error
    before = found[-1] if found else None
    if isinstance(part, Affine) and part.scale is not None and isinstance(before, Affine) and before.rescaled:
        found[-1] = before.rescaled(part.scale)
    else:
        found.append(part)
    return part.out


def _residual(module: Residual, shape: Shape) -> Sum:
    body: list[Part] = []
    shortcut: list[Part] = []
    outputs = [_collect(module.body, shape, body, True), _collect(module.shortcut, shape, shortcut, True)]
    if outputs[0] != outputs[1]:
        raise refuse(f"add outputs of the same shape in a Residual, not {outputs[0]} and {outputs[1]}", module)
    return Sum(shape, outputs[0], body, shortcut)


def _unknown(module: nn.Module) -> ValueError:
    kinds = ", ".join(sorted(kind.__name__ for kind in [*_TABLE, *_CHAINS, Residual]))
    hint = ""
    if nn.utils.parametrize.is_parametrized(module):
        hint = "; torch.nn.utils.parametrize.remove_parametrizations(..., leave_parametrized=True) makes weights plain"
    elif isinstance(module, (*_TABLE, *_CHAINS, Residual)):
        hint = ", a subclass, which may compute something else"
    return refuse(f"consist of layers of exactly these types: {kinds}", f"{type(module).__name__}{hint}")


def product_bound(found: list[Part], largest_matrix: int) -> float:
    """The product of the constants of the parts, neighbouring affine ones taken as one map, rounded up."""
    constant = 1.0
    for piece in pieces(found):
        constant = rounding.product(constant, _constant(piece, largest_matrix))
    return constant


def pieces(found: list[Part]) -> list[Any]:
    """The parts, runs of affine ones gathered in lists; a list stands before, between and behind all others."""
    gathered: list[Any] = [[]]
    for part in found:
        if isinstance(part, Affine):
            gathered[-1].append(part)
        else:
            gathered += [part, []]
    return gathered


def _constant(piece: Any, largest_matrix: int) -> float:
    if isinstance(piece, list):
        return _run_norm(piece, largest_matrix)
    if isinstance(piece, Sum):
        return rounding.total(*(product_bound(branch, largest_matrix) for branch in (piece.body, piece.shortcut)))
    return piece.constant


def _run_norm(run: list[Affine], largest_matrix: int) -> float:
    """An upper bound on the norm of affine maps in a row: of their product, or that of the first times the others."""
    if all(part.keeps_norm for part in run):
        return 1.0
    if torch.Size(run[0].shape).numel() * torch.Size(run[-1].out).numel() <= largest_matrix:
        return rounding.spectral_norm(*dense(run))
    if len(run) == 1:
        return run[0].norm()
    return rounding.product(_run_norm(run[:1], largest_matrix), _run_norm(run[1:], largest_matrix))


class Dense(NamedTuple):
    """A matrix (out, in) within γ_roundings · majorant, entry by entry, of the product of affine maps."""

    matrix: Tensor
    majorant: Tensor
    roundings: int


def dense(run: list[Affine]) -> Dense:
    """Affine maps written out as one matrix.

    An entry of a product of matrices A_k ... A_1 is computed to within γ_K |A_k| ... |A_1|, K all roundings on its way.
    """
    roundings = sum(part.roundings for part in run)
    matrix = _written_out(run, "apply")
    several = sum(not part.keeps_norm for part in run) > 1
    # 1.001 for what rounding has taken from the majorant itself.
    return Dense(matrix, 1.001 * (_written_out(run, "absolute") if several else matrix.abs()), roundings)


def _written_out(run: list[Affine], which: str) -> Tensor:
    shape = run[0].shape
    inputs = torch.Size(shape).numel()
    widest = max(torch.Size(part.out).numel() for part in run)
    columns = []
    with torch.no_grad():
        for rows in torch.arange(inputs).split(max(1, 2**22 // max(inputs, widest))):
            x = torch.zeros(len(rows), inputs, dtype=torch.float64)
            x[torch.arange(len(rows)), rows] = 1
            x = x.reshape(-1, *shape)
            for part in run:
                x = getattr(part, which)(x)
            columns.append(x.flatten(1))
    return torch.cat(columns).mT
