"""What a call costs: bytes alive at any one time, and moments at which a GPU's host would have to wait or to copy."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Memory(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self._seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage):
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int):
        self._seen.discard(key)
        self.alive -= size


def peak(call) -> int:
    """The most bytes that are alive at any one time of what `call` makes."""
    with _Memory() as memory:
        call()
    return memory.peak


# A number asked for by Python; a shape that hangs on values; numbers drawn or written down on the host.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "randn", "rand", "lift_fresh"}


class _Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        # A mask as an index has a shape that hangs on values, too.
        index = arguments[1] if name.startswith("index") and isinstance(arguments[1], (list, tuple)) else ()
        masked = any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in index)
        self.count += masked or name in _WAITING
        return function(*arguments, **(keywords or {}))


def host_waits(call) -> int:
    """How often `call` would make a GPU's host wait or copy: what the dispatcher sees, and the ways to NumPy."""
    with _Waits() as waits, pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, _counted(waits, getattr(torch.Tensor, name)))
        call()
    return waits.count


def _counted(waits: _Waits, method):
    def counted(self, *arguments, **keywords):
        waits.count += 1
        return method(self, *arguments, **keywords)

    return counted
