"""The standard normal law, accurate in both tails: density φ, distribution function Φ and upper quantile."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def density(x: Tensor) -> Tensor:
    """φ(x)."""
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def cdf(x: Tensor) -> Tensor:
    """Φ(x), by erfc: `torch.special.ndtr` loses the digits of the lower tail."""
    return torch.special.erfc(-x / math.sqrt(2)) / 2


def upper_quantile(p: Tensor) -> Tensor:
    """Φ⁻¹(1 − p), from the smaller of the two tails; 1 − p is exact in floating point for p ≥ 1/2."""
    small = p <= 0.5
    # Each branch sees only arguments of its own, so that neither puts an infinity into the other's gradient.
    lower = torch.special.ndtri(torch.where(small, p, 0.5))
    upper = torch.special.ndtri(torch.where(small, 0.5, 1 - p))
    return torch.where(small, -lower, upper)
