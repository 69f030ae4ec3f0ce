"""Tripod, slabs and half-space against the bound of Theorem 1, to play with."""

from __future__ import annotations

import math

import torch
from scipy.integrate import quad

from companion.smoothness import Lipschitz
from companion.tightness import LinearPartition
from companion.vulnerability import vulnerable_fraction
from companion.widgets._base import Choice, Number, Widget

# Slabs of equal shares meet at ±THIRD.
_THIRD = float(torch.special.ndtri(torch.tensor(2 / 3, dtype=torch.float64)))


class TightnessWidget(Widget):
    """Three partitions of the latent plane: turn and move them, and hold P(r_Z ≤ t) against the bound (4).

    Args:
        shape: 'tripod' (the simplex partition of three classes), 'slabs' (three, by parallel lines), or 'half-space'.
        turn: by how much it is turned, in degrees, from -180 to 180.
        shift_x: where its middle is, from -2 to 2; in the middle of the plane all classes are equally likely.
        shift_y: the same, upwards, from -2 to 2.
        t: how near another class a latent is vulnerable, from 0 to 2.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: chapter on tightness; the tripod is best for thin strips, Milman & Neeman (2022).
    """

    _module = "tightness"

    shape = Choice("tripod", "slabs", "half-space")
    turn = Number(90.0, -180, 180)
    shift_x = Number(0.0, -2, 2)
    shift_y = Number(0.0, -2, 2)
    t = Number(0.25, 0, 2)

    def __init__(
        self, *, shape: str = "tripod", turn: float = 90.0, shift_x: float = 0.0, shift_y: float = 0.0, t: float = 0.25
    ):
        super().__init__(shape=shape, turn=turn, shift_x=shift_x, shift_y=shift_y, t=t)

    @property
    def partition(self) -> LinearPartition:
        """The partition of the latent plane as it stands now."""
        turns = {"tripod": [0, 120, 240], "slabs": [0, 0, 0], "half-space": [0, 0]}[self.shape]
        lengths = {"tripod": [1, 1, 1], "slabs": [-1, 0, 1], "half-space": [-1, 1]}[self.shape]
        angles = torch.deg2rad(torch.tensor(turns, dtype=torch.float64) + self.turn)
        weights = torch.tensor(lengths)[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
        edges = torch.tensor({"slabs": [-_THIRD, 0, -_THIRD]}.get(self.shape, [0.0] * len(turns)), dtype=torch.float64)
        shift = torch.tensor([self.shift_x, self.shift_y], dtype=torch.float64)
        return LinearPartition(weights, edges - weights @ shift)

    @property
    def class_probabilities(self) -> torch.Tensor:
        """The shares of the cells under N(0, I), by quadrature; errors about 1e-12."""
        shares = torch.tensor(self._cores(0.0), dtype=torch.float64)
        return shares / shares.sum()

    @property
    def law(self) -> float:
        """P(r_Z ≤ t), the weight of the strip, by quadrature."""
        return max(0.0, 1 - sum(self._cores(self.t)))

    @property
    def bound(self) -> float:
        """The bound (4) of Theorem 1 for classes of these probabilities."""
        return float(vulnerable_fraction(self.t, self.class_probabilities, Lipschitz(1.0)))

    def _cores(self, t: float) -> list[float]:
        """The probabilities of {r_Z > t} in each cell: where two linear functions of z exceed t."""
        partition, found = self.partition, []
        for i in range(partition.num_classes):
            others = [j for j in range(partition.num_classes) if j != i]
            normals = partition.weights[i] - partition.weights[others]
            length = normals.norm(dim=1)
            edges = (partition.biases[others] - partition.biases[i]) / length + t
            # One of the functions is u; given u, the other is normal with mean `cosine` u.
            normals = normals / length[:, None]
            cosine, edge, other = float(normals[0] @ normals[-1]), float(edges[0]), float(edges[-1])
            spread = math.sqrt(max(0.0, 1 - cosine**2))
            found.append(_tail_of_two(edge, other, cosine, spread))
        return found

    def _sentence(self) -> str:
        shares = ", ".join(f"{100 * share:.3g} %" for share in self.class_probabilities.tolist())
        return (
            f"The latent plane in cells (shape: {self.shape}), classes of {shares}. Within t = {self.t:g} of another "
            f"class are {100 * self.law:.3g} % of the latents; Theorem 1 says at least {100 * self.bound:.3g} %. With "
            "JavaScript, or in a live notebook, you can turn, move and exchange the shape."
        )

    def _picture(self) -> str:
        turns = {"tripod": [60, 180, 300], "slabs": [90, 270], "half-space": [90, 270]}[self.shape]
        starts = {"slabs": [-_THIRD, _THIRD]}.get(self.shape, [0.0])
        rays = "".join(f'<path transform="rotate({-turn})" d="M0 0H9"/>' for turn in turns)
        shape = "".join(f'<g transform="translate({start:.3f} 0)">{rays}</g>' for start in starts)
        return (
            '<svg viewBox="-3 -3 6 6" width="240" height="240" role="img" aria-label="A plane cut into cells" '
            'fill="none" stroke="currentColor" stroke-width="0.06">'
            f'<g transform="translate({self.shift_x:g} {-self.shift_y:g}) rotate({-self.turn:g})">{shape}</g>'
            '<circle r="1" stroke-dasharray="0.1"/><circle r="2" stroke-dasharray="0.1"/></svg>'
        )


def _tail_of_two(edge: float, other: float, cosine: float, spread: float) -> float:
    """P(U > edge, V > other) for standard normal U and V of this correlation; `spread` = √(1 − cosine²)."""

    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    if spread < 1e-6:
        return tail(max(edge, other)) if cosine > 0 else max(0.0, tail(edge) - tail(-other))

    def density(u: float) -> float:
        return math.exp(-u * u / 2) / math.sqrt(2 * math.pi) * tail((other - cosine * u) / spread)

    return quad(density, edge, max(edge, 0.0) + 12, epsabs=1e-13, limit=200)[0]
