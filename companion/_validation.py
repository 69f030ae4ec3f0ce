"""Checks shared by every public function: an error names the argument, its value and what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion._types import Model


def tensor(name: str, value: Any, *, minimum: float | None = None, finite: bool = True) -> Tensor:
    """`value` as a floating tensor, dtype and device kept; Python numbers and integers become float64."""
    try:
        # NumPy reads Python floats in double precision, where torch would take its default dtype. A copy in C order and
        # this machine's byte order: torch wants both, and may write where the array is read-only.
        result = value if isinstance(value, Tensor) else _from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number, an array or a tensor, got {value!r}") from error
    if result.is_complex():
        raise ValueError(f"{name} must be real, got {_show(result)}")
    if not result.is_floating_point():
        result = result.to(torch.float64)
    if torch.isnan(result).any():
        raise ValueError(f"{name} must not contain NaN, got {where(result, torch.isnan(result))}")
    if finite and torch.isinf(result).any():
        raise ValueError(f"{name} must be finite, got {where(result, torch.isinf(result))}")
    if minimum is not None and (result < minimum).any():
        raise ValueError(f"{name} must be at least {minimum:g}, got {where(result, result < minimum)}")
    return result


def _from_numpy(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False), device="cpu")


def positive(name: str, value: Any) -> float:
    """`value` as one positive finite Python float."""
    number = tensor(name, value)
    if number.numel() != 1 or number <= 0:
        raise ValueError(f"{name} must be one positive number, got {value!r}")
    return float(number)


def integer(name: str, value: Any, *, minimum: int) -> int:
    """`value` as an int of at least `minimum`."""
    try:
        whole = not isinstance(value, bool) and int(value) == value and value >= minimum
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def fraction(name: str, value: Any) -> Tensor:
    """`value` as a tensor strictly between 0 and 1."""
    result = tensor(name, value)
    if ((result <= 0) | (result >= 1)).any():
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {_show(result)}")
    return result


def probabilities(name: str, value: Any) -> Tensor:
    """`value` as a (K,) tensor of K >= 2 non-negative numbers that sum to 1."""
    result = tensor(name, value, minimum=0.0)
    if result.ndim != 1 or result.numel() < 2:
        raise ValueError(f"{name} must have shape (K,) with K >= 2 classes, got shape {tuple(result.shape)}")
    total = result.detach().to(torch.float64).sum().item()
    # Rounding K numbers to `eps` moves their sum by at most about eps; allow ten times that.
    if abs(total - 1) > 10 * max(torch.finfo(result.dtype).eps, 1e-10):
        raise ValueError(f"{name} must sum to 1, got a sum of {total!r}")
    return result


def latents(generator: Any, z: Any, name: str = "z") -> Tensor:
    """`z` as an (n, latent_dim) tensor of finite numbers; `generator` is checked to be one."""
    dim = latent_dim(generator)
    result = tensor(name, z)
    if result.ndim != 2 or result.shape[1] != dim:
        raise ValueError(f"{name} must have shape (n, latent_dim) = (n, {dim}), got {tuple(result.shape)}")
    return result


def latent_dim(generator: Any) -> int:
    """The generator's `latent_dim`, after checking that it is callable and in evaluation mode."""
    network("generator", generator)
    dim: Any = getattr(generator, "latent_dim", None)
    try:
        # What counts as an index is an integer, NumPy's kinds among them; True is none.
        whole = operator.index(dim) if not isinstance(dim, bool) else 0
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"generator must have a positive integer attribute latent_dim, got {dim!r}")
    return whole


def network(name: str, value: Any) -> None:
    """Refuse what cannot be called, and a module left in training mode: its output depends on the batch."""
    if not callable(value):
        raise ValueError(f"{name} must be callable, got {value!r}")
    if isinstance(value, nn.Module) and any(module.training for module in value.modules()):
        raise ValueError(f"{name} must be in evaluation mode, got training=True; call {name}.eval() first")


def images(name: str, value: Any) -> Tensor:
    """`value` as a batch (n, *image) of finite numbers."""
    result = tensor(name, value)
    if result.ndim < 2:
        raise ValueError(f"{name} must be a batch of shape (n, *image), got shape {tuple(result.shape)}")
    return result


def generate(generator: Model, z: Tensor) -> Tensor:
    """The images g(z), checked to be a batch (n, *image) of finite numbers."""
    x = generator(z)
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[0] != z.shape[0]:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"generator must return shape ({z.shape[0]}, *image), got {found}")
    if not torch.isfinite(x).all():
        raise ValueError(f"generator must return finite numbers, got {where(x, ~torch.isfinite(x))}")
    return x


def classify(classifier: Callable[..., Any], x: Tensor, *rows: Tensor) -> Tensor:
    """The logits f(x), checked to have shape (n, K) with K >= 2 and no NaN."""
    logits = classifier(x, *rows)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"classifier must return logits of shape ({x.shape[0]}, K), K >= 2, got {found}")
    if torch.isnan(logits).any():
        raise ValueError(f"classifier must return logits without NaN, got {where(logits, torch.isnan(logits))}")
    return logits


def labels(name: str, value: Any, x: Tensor) -> Tensor:
    """`value` as (n,) integer labels, one for each row of `x`."""
    result = (value if isinstance(value, Tensor) else _from_numpy(np.array(value, order="C"))).to(x.device)
    if result.shape != (x.shape[0],) or result.is_floating_point() or result.dtype == torch.bool:
        raise ValueError(
            f"{name} must hold {x.shape[0]} integer labels, got shape {tuple(result.shape)} of {result.dtype}"
        )
    if (result < 0).any():
        raise ValueError(f"{name} must hold labels of at least 0, got {where(result, result < 0)}")
    return result.long()


def box(name: str, value: Any, x: Tensor) -> tuple[float, float] | None:
    """`value` as (low, high) with low < high that holds every entry of `x`, or None for no box."""
    if value is None:
        return None
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be None or a pair (low, high), got {value!r}") from error
    if not low < high:
        raise ValueError(f"{name} must satisfy low < high, got {value!r}")
    if x.numel() and (x.min() < low or x.max() > high):
        raise ValueError(f"{name} = {value!r} must hold x, got {where(x, (x < low) | (x > high))}")
    return low, high


def where(value: Tensor, wrong: Tensor) -> str:
    """The first wrong number of a tensor and the rows that hold such, for an error message."""
    places = torch.nonzero(wrong)
    entry = value[tuple(places[0])].detach().cpu()
    # As few digits as tell it from its neighbours; NumPy does not know bfloat16.
    number = f"{entry.item():.4g}" if entry.dtype == torch.bfloat16 else str(entry.numpy())
    if value.numel() == 1:
        return number
    rows = places[:, 0].unique().tolist()
    named = ", ".join(map(str, rows[:5])) + (f", ... ({len(rows)} rows)" if len(rows) > 5 else "")
    return f"{number} in row{'s' if len(rows) > 1 else ''} {named}"


def _show(value: Tensor) -> str:
    """A tensor in a few characters, for an error message."""
    flat = value.detach().flatten()
    text = ", ".join(f"{number:g}" for number in flat[:3].tolist())
    return text if value.numel() == 1 else f"[{text}{', ...' if flat.numel() > 3 else ''}]"
