"""Real and generated points, their cheapest pairing and the bias of samples, to play with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets

from companion.approximation import Transport, transport
from companion.circle import HalfPlane
from companion.widgets._base import Count, Number, Widget

_MOST, _REACH = 12, 2.6
# Of the first 1,000 pairs of samples, one inside the frame whose points do not hide each other.
_SEED = 962


def _drawn(seed: int) -> list[list[float]]:
    """Twelve points of the law N(0, I), rounded."""
    draws = torch.Generator("cpu").manual_seed(seed)
    points = torch.randn(_MOST, 2, generator=draws, dtype=torch.float64)
    return [[round(v, 2) for v in point] for point in points.tolist()]


class _Points(traitlets.List):
    """A synchronised list of twelve points [x, y]."""

    def __init__(self, default: list[list[float]]):
        super().__init__(default_value=default)
        self.tag(sync=True, value=True)

    def validate(self, widget, value):
        points = torch.as_tensor(value, dtype=torch.float64)
        if points.shape != (_MOST, 2) or not (points.abs() <= _REACH).all():
            raise ValueError(
                f"{self.name} must be {_MOST} points [x, y] with numbers from {-_REACH} to {_REACH}, got {value!r}"
            )
        return points.tolist()


class ApproximationWidget(Widget):
    """Real and generated points of the plane: drag them, and the cheapest pairing and W₁ follow.

    Args:
        n: how many points of each sample count, from 1 to 12.
        shift: how far the generated points, and their law, are moved to the right, from 0 to 1: W₁ of the laws.
        real: 12 points [x, y] with numbers from -2.6 to 2.6; by default drawn from N(0, I).
        generated: 12 others of the same law, before they are moved.
        point: which point the sliders of the page move, from 0 to 23, the real ones first.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), section 3 (Theorem 4).
    """

    _module = "approximation"

    n = Count(6, 1, _MOST)
    shift = Number(0.0, 0, 1)
    real = _Points(_drawn(_SEED))
    generated = _Points(_drawn(_SEED + 1))
    point = Count(0, 0, 2 * _MOST - 1)

    def __init__(
        self,
        *,
        n: int = 6,
        shift: float = 0.0,
        real: Sequence[Sequence[float]] | None = None,
        generated: Sequence[Sequence[float]] | None = None,
        point: int = 0,
    ):
        real = _drawn(_SEED) if real is None else real
        generated = _drawn(_SEED + 1) if generated is None else generated
        super().__init__(n=n, shift=shift, real=real, generated=generated, point=point)

    @property
    def samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The real and the generated points as they stand now, each (n, 2)."""
        real, generated = (torch.tensor(points, dtype=torch.float64) for points in (self.real, self.generated))
        return real[: self.n], generated[: self.n] + torch.tensor([self.shift, 0.0], dtype=torch.float64)

    @property
    def transport(self) -> Transport:
        """W₁ of the two samples, and the partner of each real point."""
        return transport(*self.samples)

    @property
    def mean_radii(self) -> tuple[float, float]:
        """The mean r_unc of f on real and on generated points; f says 1 to the right of the middle."""
        f = HalfPlane([1.0, 0.0])
        real, generated = (float(f(points)[:, 1].abs().mean()) for points in self.samples)
        return real, generated

    def _sentence(self) -> str:
        real, generated = self.mean_radii
        return (
            f"{self.n} real and {self.n} generated points, paired so that the mean distance of partners is least: "
            f"it is W₁ = {self.transport.distance:.3g}, while W₁ of the laws is {self.shift:g}. Their mean distances "
            f"to the line in the middle, {real:.3g} and {generated:.3g}, differ by no more than W₁. With JavaScript, "
            "or in a live notebook, you can move the points."
        )

    def _picture(self) -> str:
        real, generated = self.samples
        partner = generated[self.transport.partner]
        marks = "".join(
            f'<path d="M{a:g} {-b:g}L{c:g} {-d:g}"/><circle cx="{a:g}" cy="{-b:g}" r="0.12" fill="currentColor"/>'
            f'<rect x="{c - 0.1:.2f}" y="{-d - 0.1:.2f}" width="0.2" height="0.2" fill="currentColor"/>'
            for (a, b), (c, d) in zip(real.tolist(), partner.tolist(), strict=True)
        )
        return (
            '<svg viewBox="-3.9 -3.9 7.8 7.8" width="240" height="240" role="img" aria-label="Points joined in pairs" '
            f'fill="none" stroke="currentColor" stroke-width="0.06">{marks}</svg>'
        )
