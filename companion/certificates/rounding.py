"""Numbers that are surely not too small: what float64 arithmetic rounds away is added again.

u = 2⁻⁵³ is the unit roundoff and γ_k = k u / (1 − k u). k roundings in a row, or a sum of k products in whatever order,
err by at most γ_k times the same expression of absolute values (Higham 2002, section 3.1); 4 k in place of k covers
complex arithmetic (section 3.6). Nothing here relies on how well an eigenvalue or a singular value was computed:
these are guesses, and what is returned has passed a Cholesky factorisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def gamma(roundings: int) -> float:
    """An upper bound on γ_k for k < 10¹³ roundings; 1.1 u also covers the rounding of this product."""
    return 1.1 * roundings * 2.0**-53


def product(a: float, b: float) -> float:
    """a b for a, b ≥ 0, rounded up; with 0 and 1 it is exact."""
    return a * b if {a, b} & {0.0, 1.0} else math.nextafter(a * b, math.inf)


def total(a: float, b: float) -> float:
    """a + b for a, b ≥ 0, rounded up."""
    return math.nextafter(a + b, math.inf) if a and b else a + b


def positive(matrix: Tensor, error: float) -> bool:
    """Whether every S with ‖S − matrix‖₂ ≤ error is positive semidefinite: True is a proof, False is none.

    Args:
        matrix: (..., n, n) float64 or complex128, Hermitian; only the lower triangle is read.
        error: at least 0.

    Proof: let T be the matrix minus s on the diagonal, as computed, off by at most u T_ii. If Cholesky's factorisation
    of T runs to its end, its factor R satisfies RᴴR = T + E with ‖E‖₂ ≤ γ/(1 − γ) tr T, γ = γ_{n+1} (Higham 2002,
    theorem 10.3, and ‖R‖_F² ≤ tr T/(1 − γ)). So the smallest eigenvalue of the matrix is at least s − u max T_ii −
    γ/(1 − γ) tr T, which s = error + γ_{8(n+4)} Σ |matrix_ii| makes more than error, in complex arithmetic too.
    """
    n = matrix.shape[-1]
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).real
    shift = error + gamma(8 * (n + 4)) * (diagonal.abs().sum(-1, keepdim=True) + error)
    shifted = matrix.clone()
    shifted.diagonal(dim1=-2, dim2=-1).sub_(shift)
    factor, info = torch.linalg.cholesky_ex(shifted)
    return bool((info == 0).all() and factor.isfinite().all())


def least(estimate: float, holds: Callable[[float], bool]) -> float:
    """The first of estimate·(1 + 1e-15 · 4^k), k = 0, 1, ... for which `holds`: near the estimate if that is good.

    Raises:
        ArithmeticError: if none of 60 holds, of which the last are far above the estimate.
    """
    for k in range(60):
        value = estimate * (1 + 1e-15 * 4**k)
        if holds(value):
            return value
    raise ArithmeticError(f"nothing near {estimate!r} could be proved")


def root(square: float) -> float:
    """√square, rounded up."""
    return math.nextafter(math.sqrt(square), math.inf)


def scaled(values: Tensor) -> tuple[Tensor, int]:
    """Values of order 1 and the exponent e with values = scaled · 2^e, exact; e = 0 if all are zero."""
    exponent = math.frexp(values.abs().max().item() if values.numel() else 0.0)[1]
    # In two steps: 2^-e itself may overflow.
    half = -exponent // 2
    return values * 2.0**half * 2.0 ** (-exponent - half), exponent


def spectral_norm(matrix: Tensor, majorant: Tensor | None = None, roundings: int = 0) -> float:
    """An upper bound on ‖A‖₂ for every A with |A − matrix| ≤ γ_roundings · majorant, entry by entry.

    Args:
        matrix: (m, n) float64.
        majorant: (m, n), not negative; not needed without roundings.

    c² I − AᵀA ⪰ 0 is proved by `positive`; the smaller of AᵀA and AAᵀ is formed, with an error of at most
    γ_m ‖|A|ᵀ|A|‖₂ ≤ γ_m ‖A‖_F². What rounding has left out of `matrix` has norm at most √(‖·‖₁ ‖·‖_∞).
    """
    if roundings and majorant is not None and majorant.any():
        scaled_majorant, exponent = scaled(majorant)
        sums = scaled_majorant.sum(0).max().item() * scaled_majorant.sum(1).max().item()
        missing = math.ldexp(2 * gamma(roundings) * math.sqrt(sums), exponent)
        return total(spectral_norm(matrix), missing)
    if not matrix.any():
        return 0.0
    matrix, exponent = scaled(matrix)
    long, short = max(matrix.shape), min(matrix.shape)
    gram = matrix.mT @ matrix if matrix.shape[1] == short else matrix @ matrix.mT
    error = 2 * gamma(long + short) * gram.trace().item()
    identity = torch.eye(short, dtype=torch.float64)
    square = least(_guess(gram) + error, lambda c: positive(c * identity - gram, error))
    return math.ldexp(root(square), exponent)


def _guess(gram: Tensor, steps: int = 60) -> float:
    """Nearly the largest eigenvalue of a positive matrix; of a large one, only that of a Krylov space."""
    basis = torch.eye(len(gram), dtype=torch.float64)
    if len(gram) > 512:
        start = torch.randn(len(gram), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        basis = start / start.norm()
        for _ in range(steps):
            following = gram @ basis[:, -1:]
            size = following.norm()
            for _ in range(2):  # once leaves rounding that a second pass removes
                following = following - basis @ (basis.mT @ following)
            if following.norm() < 1e-10 * size:  # nothing new but rounding
                break
            basis = torch.cat([basis, nn.functional.normalize(following, dim=0)], dim=1)
    return torch.linalg.eigvalsh(basis.mT @ gram @ basis)[-1].item()
