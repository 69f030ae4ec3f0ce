"""A tighter constant for a chain of affine maps and element-wise activations: multipliers, checked by a factorisation.

An activation has slopes in [m − r, m + r]: if its inputs differ by v, its outputs differ by m v + r u with |u| ≤ |v|,
entry by entry. Let latents differ by δ. Then v_1 = A_1 δ, v_{k+1} = A_{k+1} (m v_k + r u_k), and the images differ by
w = A_n (m v_{n−1} + r u_{n−1}). If for some numbers t_ki > 0, the multipliers, the quadratic form in (δ, u_1, u_2, ...)

    L² ‖δ‖² + Σ_k Σ_i t_ki (u_ki² − v_ki²) − ‖w‖²

is nowhere negative, then ‖w‖ ≤ L ‖δ‖, for no term of the sum is positive. Whoever finds the multipliers need not be
trusted: whatever they are, what is proved with them holds.

Source: Fazlyab et al. (2019), with one multiplier a neuron.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import _validation as check
from companion.certificates import rounding
from companion.certificates.layers import Elementwise, Part, input_dimensions
from companion.certificates.network import Dense, dense, parts, pieces


class _Chain(NamedTuple):
    """A_1, ..., A_n; the middles m and half-widths r of the slopes between them; the largest slope after the last."""

    matrices: list[Dense]
    slopes: list[tuple[float, float]]
    last: float

    @property
    def units(self) -> list[int]:
        """The numbers of multipliers, one a neuron of each activation."""
        return [len(matrix.matrix) for matrix in self.matrices[:-1]]


def semidefinite_bound(found: list[Part], multipliers: Sequence[Tensor]) -> float:
    """The smallest L that the multipliers prove, rounded up, times the largest slope of an activation at the end.

    Args:
        found: the parts of a network, not constant (from `network.parts`).
        multipliers: a tensor (n_k,) of positive numbers for each activation between two affine maps, in their order.

    Raises:
        ValueError: if the network is no such chain, the shapes differ, or the multipliers prove nothing.
    """
    links = _chain(found)
    t = _checked(multipliers, links)
    d = links.matrices[0].matrix.shape[1]
    guess = _schur(_form(links, t, 1.0)[0], d)
    # δ in units in which the form is of order 1, as `_form` does with u: rounding then matters least.
    unit = 1 / math.sqrt(guess)
    form, error = _form(links, t, unit)

    def holds(square: float) -> bool:
        whole, added = form.clone(), square * unit**2
        whole.diagonal()[:d] += added
        return rounding.positive(whole, error + rounding.gamma(16 * d) * added)

    try:
        return rounding.product(rounding.root(rounding.least(guess, holds)), links.last)
    except ArithmeticError as reason:
        raise ValueError(f"multipliers must leave room for rounding: {reason}") from reason


def fit_multipliers(network: nn.Module, input_shape: Sequence[int], *, gap: float = 1e-5) -> list[Tensor]:
    """Multipliers for `certified_lipschitz` that are nearly the best; seconds for a few hundred neurons.

    A primal-dual interior-point method for the smallest L² that leaves the form positive.

    Args:
        network, input_shape: as in `certified_lipschitz`; the network a chain of affine layers and activations.
        gap: how near L² has to come to the best, as a fraction of it.

    Returns:
        One float64 tensor (n_k,) for each activation that stands between two affine maps.

    Raises:
        ValueError: if the network is no such chain, or constant.
        ArithmeticError: if the gap is not reached.

    Source: the search direction of Helmberg, Rendl, Vanderbei and Wolkowicz (1996).
    """
    check.network("network", network)
    gap = check.positive("gap", gap)
    links = _chain(parts(network, input_dimensions(input_shape)))
    d = links.matrices[0].matrix.shape[1]
    v, u, w = (rows[0] for rows in _rows(links, torch.ones(d + sum(links.units), dtype=torch.float64)))
    problem = _Problem(torch.eye(d, v.shape[1], dtype=torch.float64), u - v, u + v, w)
    y = _start(links)
    form = problem.form(y) - w.mT @ w
    dual = torch.cholesky_inverse(torch.linalg.cholesky(form)) * y[0] / len(form)
    for _ in range(200 if links.units else 0):
        if (dual * form).sum() <= gap * y[0]:
            break
        dy, dual = problem.step(form, dual)
        y = y + dy
        form = problem.form(y) - w.mT @ w
    else:
        if links.units:
            raise ArithmeticError(f"the gap is still {float((dual * form).sum() / y[0]):.1e} after 200 steps")
    return [part.clone() for part in y[1:].split(links.units)]


def _chain(found: list[Part]) -> _Chain:
    gathered = pieces(found)
    runs, activations = gathered[::2], gathered[1::2]
    for part in activations:
        if not isinstance(part, Elementwise):
            name = getattr(part, "name", "Residual")
            raise ValueError(f"network must be a chain of affine layers and activations for multipliers, got {name}")
    last = 1.0
    if activations and all(part.keeps_norm for part in runs[-1]):
        last, runs, activations = activations[-1].constant, runs[:-1], activations[:-1]
    if not runs[0]:
        raise ValueError("network must begin with an affine layer for multipliers, and does not")
    slopes = []
    for part in activations:
        middle = (part.low + part.high) / 2
        # Two units in the last place above: both differences are rounded.
        slopes.append((middle, (1 + rounding.gamma(4)) * max(part.high - middle, middle - part.low)))
    return _Chain([dense(run) for run in runs], slopes, last)


def _checked(multipliers: Sequence[Tensor], links: _Chain) -> Tensor:
    """All multipliers in one float64 tensor on the CPU."""
    given = [check.tensor("multipliers", part).detach().to("cpu", torch.float64) for part in multipliers]
    if [tuple(part.shape) for part in given] != [(count,) for count in links.units]:
        found = [tuple(part.shape) for part in given]
        raise ValueError(f"multipliers must have shapes {[(count,) for count in links.units]}, got {found}")
    t = torch.cat([torch.zeros(0, dtype=torch.float64), *given])
    if (t <= 0).any():
        raise ValueError(f"multipliers must be positive, got {t.min().item():g}")
    return t


def _rows(links: _Chain, units: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The coefficients of all v, all u and w in (δ, u_1, u_2, ...), and majorants of their rounding errors.

    Args:
        units: (d + Σ n_k,) in which unit each variable is measured.
    """
    d, size = links.matrices[0].matrix.shape[1], len(units)
    unit_rows = torch.diag(units)
    state = majorant = unit_rows[:d]
    v, u = [torch.zeros(0, size, dtype=torch.float64)], unit_rows[d:]
    majorants, done = [v[0]], 0
    for matrix, (middle, half) in zip(links.matrices, links.slopes, strict=False):
        v.append(matrix.matrix @ state)
        majorants.append(matrix.majorant @ majorant)
        own = u[done : done + len(v[-1])]
        state, majorant = middle * v[-1] + half * own, abs(middle) * majorants[-1] + half * own
        done += len(own)
    w = links.matrices[-1]
    return [(torch.cat(v), torch.cat(majorants)), (u, u), (w.matrix @ state, w.majorant @ majorant)]


def _form(links: _Chain, t: Tensor, unit: float) -> tuple[Tensor, float]:
    """The form without L² ‖δ‖², δ measured in `unit` and u_ki in 1/√t_ki, and a bound on the norm of its error.

    A form xᵀBᵀTBx has norm at most its trace; its rounding error is at most γ times that of the majorant of B. 1.01
    covers the rounding of majorant and trace.
    """
    d = links.matrices[0].matrix.shape[1]
    units = torch.cat([torch.full((d,), unit, dtype=torch.float64), t.rsqrt()])
    v, u, w = _rows(links, units)
    form = torch.diag((t[:, None] * u[0].square()).sum(0)) - v[0].mT @ (t[:, None] * v[0]) - w[0].mT @ w[0]
    traces = sum((t[:, None] * rows[1].square()).sum().item() for rows in (v, u)) + w[1].square().sum().item()
    # On the way to an entry: each matrix, made and multiplied, and a sum of two; twice; then the products of rows.
    roundings = 2 * sum(matrix.roundings + matrix.matrix.shape[1] + 4 for matrix in links.matrices)
    return form, 1.01 * traces * rounding.gamma(roundings + len(t) + len(w[0]) + 8)


def _schur(form: Tensor, d: int) -> float:
    """The smallest L² that makes the form positive, as far as rounding lets one see."""
    factor, info = torch.linalg.cholesky_ex(form[d:, d:])
    if info or not factor.isfinite().all():
        raise ValueError("multipliers must make the form of the activations positive, and do not")
    mixed = form[d:, :d]
    return torch.linalg.eigvalsh(mixed.mT @ torch.cholesky_solve(mixed, factor) - form[:d, :d])[-1].item()


def _start(links: _Chain) -> Tensor:
    """An x = (L², t) with a positive form, from ‖A (m v + r u)‖² ≤ 2 ‖A‖² (m² ‖v‖² + r² ‖u‖²) layer by layer."""
    t: list[Tensor] = []
    norms = [torch.linalg.matrix_norm(matrix.matrix, 2).item() ** 2 for matrix in links.matrices]
    needed = 1.01 * norms[-1]
    for square, (middle, half), count in zip(norms[-2::-1], links.slopes[::-1], links.units[::-1], strict=True):
        own = 2.02 * needed * (half**2 + 1e-3)
        t.insert(0, torch.full((count,), own, dtype=torch.float64))
        needed = 1.01 * square * (2 * needed * middle**2 + own)
    if needed == 0:
        raise ValueError("network must not be constant: its Lipschitz constant is 0 without multipliers")
    return torch.cat([torch.tensor([needed], dtype=torch.float64), *t])


class _Problem(NamedTuple):
    """min y_0 such that S(y) = y_0 eᵀe + Σ_i y_i (uᵢᵀuᵢ − vᵢᵀvᵢ) − wᵀw is positive, in p = u − v and q = u + v.

    uᵀu − vᵀv = (pᵀq + qᵀp)/2, where nothing cancels: near the optimum u and v nearly agree as the dual sees them.
    """

    e: Tensor
    p: Tensor
    q: Tensor
    w: Tensor

    def form(self, y: Tensor) -> Tensor:
        crossed = self.p.mT @ (y[1:, None] * self.q)
        return y[0] * self.e.mT @ self.e + (crossed + crossed.mT) / 2

    def traces(self, matrix: Tensor) -> Tensor:
        """tr(A_i M) for the coefficient A_i of each y_i."""
        first = ((self.e @ matrix) * self.e).sum()
        return torch.cat([first[None], ((self.p @ matrix) * self.q).sum(1)])

    def step(self, form: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """The step of y and the new dual X, towards X S = μ I/10 and the constraints tr(A_0 X) = 1, tr(A_i X) = 0."""
        e, p, q, n = self.e, self.p, self.q, len(form)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(form))
        target = 0.1 * (dual * form).sum() / n * inverse
        # tr(A_i X A_j S⁻¹), the rows' products in the metrics of X and of S⁻¹ multiplied.
        xp, xq, sp, sq = (metric @ rows.mT for metric in (dual, inverse) for rows in (p, q))
        mixed = (q @ xp) * (p @ sq)
        system = torch.empty(len(p) + 1, len(p) + 1, dtype=torch.float64)
        system[1:, 1:] = (mixed + mixed.mT + (q @ xq) * (p @ sp) + (p @ xp) * (q @ sq)) / 4
        system[0, 1:] = system[1:, 0] = ((e @ xp) * (e @ sq) + (e @ xq) * (e @ sp)).sum(0) / 2
        system[0, 0] = ((e @ dual @ e.mT) * (e @ inverse @ e.mT)).sum()
        right = self.traces(target)
        right[0] -= 1
        scale = system.diagonal().rsqrt()
        dy = scale * torch.linalg.solve(scale[:, None] * system * scale, scale * right)
        change = dual @ self.form(dy) @ inverse
        change = target - dual - (change + change.mT) / 2
        return _length(form, self.form(dy)) * dy, dual + _length(dual, change) * change


def _length(matrix: Tensor, change: Tensor) -> float:
    """The largest s ≤ 1 that leaves matrix + s·change a twentieth away from the border of the positive ones."""
    factor = torch.linalg.cholesky(matrix)
    half = torch.linalg.solve_triangular(factor, change, upper=False)
    lowest = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.mT, upper=False))[0].item()
    return min(1.0, 0.95 / max(-lowest, 1e-3))
