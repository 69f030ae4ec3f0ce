"""How the bound B(t) = Σ_i [Φ(a_i + t) − Φ(a_i)] of Theorem 1 is evaluated, and moduli are asked and checked.

Everything is in float64 and stable in the tails: relative errors are at most 1e-10 in the
tests, for t from 1e-8 to 30 and K up to 10⁶.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.special import roots_legendre
from torch import Tensor

from companion import _validation as check
from companion._normal import cdf, density, upper_quantile
from companion._types import Modulus

# Entries of the (η, class) table that are in memory at a time, unless gradients need them all.
TABLE_ENTRIES = 2**20
# Gauss-Legendre nodes and weights on [0, 1]; ten of them integrate what `_class_terms` needs to rounding.
_NODES, _WEIGHTS = ((1 + roots_legendre(10)[0]) / 2).tolist(), (roots_legendre(10)[1] / 2).tolist()


def latent_reach(modulus: Modulus, eta: Tensor) -> Tensor:
    """t = ω⁻¹(η) in float64, checked: a modulus of one's own may be anything."""
    if not callable(getattr(modulus, "inverse", None)):
        raise ValueError(f"modulus must have a method inverse, as smoothness.Lipschitz has; got {modulus!r}")
    return _increasing("modulus.inverse(eta)", modulus, modulus.inverse(eta.to(torch.float64)), eta)


def image_reach(modulus: Any, t: Tensor) -> Tensor:
    """η = ω(t), checked likewise."""
    if not callable(modulus):
        raise ValueError(f"modulus must be callable, as smoothness.Lipschitz is; got {modulus!r}")
    return _increasing("modulus(t)", modulus, modulus(t), t)


def _increasing(name: str, modulus: Any, value: Any, argument: Tensor) -> Tensor:
    """`value` as a non-negative tensor in the shape of `argument` that increases with it."""
    value = check.tensor(name, value, minimum=0.0, finite=False)
    if value.shape != argument.shape:
        raise ValueError(f"{name} must keep the shape {tuple(argument.shape)}, got {tuple(value.shape)}")
    in_order = value.detach().flatten()[argument.detach().flatten().argsort()]
    if (in_order.diff() < -1e-12 * in_order[1:]).any():
        raise ValueError(f"modulus must be increasing, but {name} decreases: {modulus!r}")
    return value


def isoperimetric_bound(t: Tensor, p: Tensor) -> Tensor:
    """B(t) = Σ_i [Φ(a_i + t) − Φ(a_i)] in float64, in the shape of t ≥ 0."""
    p, count = distinct(p.to(device=t.device, dtype=torch.float64))
    return weighted_bound(t, p, count).clamp(max=1.0)


def distinct(p: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities that occur and how often: classes of equal probability have equal terms."""
    if p.requires_grad:
        return p, torch.ones_like(p)
    values, count = p.unique(return_counts=True)
    return values, count.to(p)


def weighted_bound(t: Tensor, p: Tensor, count: Tensor) -> Tensor:
    """B(t) for `count` classes of each probability in `p`."""
    flat = t.to(torch.float64).reshape(-1)
    rows = max(1, TABLE_ENTRIES // p.numel())
    parts = []
    for part in flat.split(rows):
        total = part.new_zeros(part.shape)
        for block, times in zip(p.split(TABLE_ENTRIES), count.split(TABLE_ENTRIES), strict=True):
            total = total + _class_terms(part[:, None], block) @ times
        parts.append(total)
    return torch.cat(parts).reshape(t.shape)


def _class_terms(t: Tensor, p: Tensor) -> Tensor:
    """Φ(a + t) − Φ(a) for a = Φ⁻¹(1 − p), to a relative error near rounding for every t ≥ 0 and 0 ≤ p ≤ 1.

    Where the two are close their difference would cancel, so it is integrated: Φ(a + t) − Φ(a) =
    φ(a) ∫₀ᵗ exp(−a s − s²/2) ds. Elsewhere the two differ by a factor, and the smaller pair of Φ(a + t) − (1 − p) and
    p − Φ(−(a + t)) keeps the digits.
    """
    inner = (p > 0) & (p < 1)
    a = upper_quantile(torch.where(inner, p, 0.5))
    t, a, p = torch.broadcast_tensors(t, a, p)
    near = (a.abs() + t / 2) * t < 1
    difference = _far_difference(a[~near], t[~near], p[~near])
    # Both masks together cover the table, in the row-major order that masked_scatter reads.
    terms = torch.zeros_like(a).masked_scatter(~near, difference)
    terms = terms.masked_scatter(near, _near_difference(a[near], t[near]))
    return torch.where(inner, terms, 0.0)


def _near_difference(a: Tensor, t: Tensor) -> Tensor:
    """φ(a) ∫₀ᵗ exp(−a s − s²/2) ds by Gauss-Legendre quadrature."""
    nodes = zip(_NODES, _WEIGHTS, strict=True)
    return density(a) * t * sum(weight * torch.exp(-(a + t * (x / 2)) * (t * x)) for x, weight in nodes)


def _far_difference(a: Tensor, t: Tensor, p: Tensor) -> Tensor:
    """Φ(a + t) − (1 − p) where a + t < 0, else p − Φ(−(a + t)): both use the tail on the side of the end point."""
    # Beyond 60 the tail is zero in float64; the clamp keeps t = inf out of the gradients.
    end = a + t.clamp(max=60.0)
    tail = cdf(-end.abs())
    return torch.where(end < 0, tail - (1 - p), p - tail)


def slope(t: Tensor, p: Tensor) -> Tensor:
    """B'(t) = Σ_i φ(a_i + t)."""
    inner = (p > 0) & (p < 1)
    return density(upper_quantile(p[inner]) + t[..., None]).sum(-1)


def solve(q: Tensor, p: Tensor) -> Tensor:
    """t ≥ 0 with B(t) = q, by bisection in log t."""
    # B is at least the term of any one class: 1e-300 and 80 enclose every solution that float64 can tell.
    low, high = torch.full_like(q, 1e-300).log(), torch.full_like(q, 80.0).log()
    p, count = distinct(p[p > 0])
    a = upper_quantile(p)
    for _ in range(64):
        middle = (low + high) / 2
        t = middle.exp()
        # Near 1 compare complements, which do not round to zero.
        missing = cdf(-(a + t[..., None])) @ count > 1 - q
        short = torch.where(q < 0.5, weighted_bound(t, p, count) < q, missing)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return ((low + high) / 2).exp()
