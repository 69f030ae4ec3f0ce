"""What a call costs: bytes alive, moments at which a GPU would have to wait, passes through the model."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Counts what a GPU would have to wait for, `waits`, and the bytes that are alive at any one time, `peak`."""

    def __init__(self):
        super().__init__()
        self.waits, self.alive, self.peak, self._seen = 0, 0, 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        masked = name.startswith("index") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in _indices(arguments)
        )
        self.waits += masked or name in _WAITING
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


_WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select", "_unique2", "unique_dim"}


def _indices(arguments):
    return arguments[1] if len(arguments) > 1 and isinstance(arguments[1], (list, tuple)) else ()


def host_waits(call) -> int:
    """How often `call` would make a GPU's host wait: what the dispatcher sees, and copies to Python and NumPy."""
    with Ledger() as ledger, pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, _counted(ledger, getattr(torch.Tensor, name)))
        call()
    return ledger.waits


def _counted(ledger: Ledger, method):
    def counted(self, *arguments, **keywords):
        ledger.waits += 1
        return method(self, *arguments, **keywords)

    return counted
