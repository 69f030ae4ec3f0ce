"""Whether a device computes what float64 on the CPU computes: `python -m companion check --device cuda` prints it.

Digits networks that come with the package are asked for bounds, derivatives, attacks, radii and defences. Their latents
and images are numbers that float32 holds exactly, so that both precisions get the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from companion import _validation
from companion.check import cases

# What two right computations may differ by, in float64 and in float32.
# Formulas promise 1e-10, and most work in float64 inside; float32 rounds inputs and results (6e-8), which a bound
# multiplies by at most some ten, and the exact radii add up to 16 products of such numbers.
FORMULA = {torch.float64: 1e-10, torch.float32: 1e-5}
# Matrix products add up to 256 numbers in another order: 256 roundings of 1e-16 or 6e-8 a layer, of which most cancel.
NETWORK = {torch.float64: 1e-10, torch.float32: 1e-4}
# cuDNN convolutions compute with 10 bits (TF32) unless told otherwise, 1e-3, and what is no search leaves them to it.
CONVOLUTION = {torch.float64: 1e-10, torch.float32: 5e-3}
# A search takes another path where two candidates are equal but for rounding, so a row may differ, but not half of the
# rows. Those agree to 1e-4 on a CPU; ten times TF32's 1e-3 leaves room for attacks that keep to the caller's settings.
SEARCH = {torch.float64: 1e-2, torch.float32: 1e-2}


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: precision and function, or the promise that was put to the test.
        difference: from float64 on the CPU, relative; of a promise, the share of rows that break it, or a count.
        tolerance: the largest difference that is right.
        seconds: how long the device took; 0 if it raised.
        error: what was raised, "" if nothing.
    """

    name: str
    difference: float
    tolerance: float
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and self.difference <= self.tolerance


def usable(device: str | torch.device, dtype: torch.dtype = torch.float64) -> torch.device:
    """The device, if this PyTorch can compute in `dtype` on it.

    Raises:
        ValueError: if not, with PyTorch's reason.
    """
    try:
        if torch.ones(2, dtype=dtype, device=device).sum().item() == 2:
            return torch.device(device)
        reason = "1 + 1 is not 2 there"
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
    name = str(dtype).removeprefix("torch.")
    raise ValueError(f"device must be one that this PyTorch computes in {name} on, got {str(device)!r}: {reason}")


def run(device: str | torch.device = "cpu", *, samples: int = 16) -> Iterator[Row]:
    """The rows of the table, each as soon as it is measured: about a minute on one CPU core.

    On the CPU itself float64 is the reference, and only float32 is compared with it.

    Args:
        device: such as "cuda".
        samples: points, at least 4.

    Raises:
        ValueError: if the device cannot be used; for fewer samples.
    """
    device, samples = usable(device), _validation.integer("samples", samples, minimum=4)
    reference = cases.Place(torch.float64, torch.device("cpu"), samples)
    for dtype in (torch.float32,) if device.type == "cpu" else (torch.float64, torch.float32):
        here = cases.Place(dtype, device, samples)
        for group, difference, tolerance in (
            (cases.formulas, _largest, FORMULA),
            (cases.networks, _largest, NETWORK),
            (cases.convolutions, _largest, CONVOLUTION),
            (cases.searches, _typical, SEARCH),
        ):
            expected = group(reference)
            for name, call in group(here).items():
                yield _compared(f"{here} {name}", call, expected[name], difference, tolerance[dtype], device)
        for name, (call, allowed) in cases.promises(here).items():
            yield _measured(f"{here} {name}", call, float, allowed)


def _compared(name: str, call, expected, difference, tolerance: float, device: torch.device) -> Row:
    def against(result) -> float:
        found = _tensors(result)
        away = {part.device.type for part in found} - {device.type}
        if away:
            raise ValueError(f"the result is on {away.pop()}, not on {device.type}")
        pairs = zip(found, _tensors(expected()), strict=True)
        return max(difference(one.detach().cpu().double(), two.detach().double()) for one, two in pairs)

    return _measured(name, call, against, tolerance)


def _measured(name: str, call: Callable, judge: Callable, tolerance: float) -> Row:
    start, seconds = time.perf_counter(), 0.0
    try:
        result = call()
        for part in _tensors(result):
            part.cpu()  # waits for the device
        seconds = time.perf_counter() - start
        return Row(name, judge(result), tolerance, seconds)
    except Exception as error:  # whatever a new device raises is what the table is there to tell
        return Row(name, float("nan"), tolerance, seconds, f"{type(error).__name__}: {error}".splitlines()[0])


def _tensors(result) -> list[Tensor]:
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [part for part in parts if isinstance(part, Tensor)]


def _largest(one: Tensor, two: Tensor) -> float:
    """The largest difference of two entries, as a share of the largest entry; `inf` for NaN or only one infinite."""
    if not _comparable(one, two):
        return float("inf")
    one, two = one[one.isfinite()], two[two.isfinite()]
    return ((one - two).abs().max() / two.abs().max().clamp(min=1e-300)).item()


def _typical(one: Tensor, two: Tensor) -> float:
    """The median over rows of how long the difference is, as a share; `inf` where only one of them found anything."""
    if not _comparable(one, two):
        return float("inf")
    one, two = (part.reshape(len(part), -1).nan_to_num(posinf=0) for part in (one, two))
    return ((one - two).norm(dim=1) / two.norm(dim=1).clamp(min=1e-300)).median().item()


def _comparable(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one.isinf(), two.isinf()) and not (one.isnan() | two.isnan()).any()
