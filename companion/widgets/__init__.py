"""Two things to play with: the circle cut by a line, and the curve of Theorem 1.

The same JavaScript module draws a widget in a live notebook (through anywidget, where Python can read and set
its values) and on the static page of the book (where a few lines of JavaScript stand in for the kernel).
"""

from __future__ import annotations

import html
import json
import math
from pathlib import Path

import torch

from companion import circle
from companion.smoothness import Lipschitz
from companion.vulnerability import robustness_quantile, vulnerable_fraction

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError(
        "companion.widgets needs anywidget; install it with: pip install 'adversarial-vulnerability[book]'"
    ) from error

__all__ = ["CircleWidget", "Theorem1Widget", "javascript"]

_FOLDER = Path(__file__).parent


def javascript(name: str) -> str:
    """The ES module of a widget, complete in itself: 'circle' or 'theorem1'.

    Raises:
        ValueError: if there is no widget of this name.
    """
    if name not in ("circle", "theorem1"):
        raise ValueError(f"name must be 'circle' or 'theorem1', got {name!r}")
    parts = ("normal", "view", name)
    return "\n".join((_FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in parts)


class _InRange:
    """A synchronised trait from `low` to `high`, ends included."""

    def __init__(self, default: float, low: float, high: float):
        super().__init__(default)
        self.low, self.high = low, high
        self.tag(sync=True, value=True)

    def validate(self, widget, value):
        value = super().validate(widget, value)
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must be from {self.low} to {self.high}, got {value!r}")
        return value


class _Number(_InRange, traitlets.Float):
    pass


class _Count(_InRange, traitlets.Int):
    pass


class _Widget(anywidget.AnyWidget):
    """An anywidget that checks its values and also shows itself as HTML, for pages without a kernel."""

    _module: str

    def _values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.trait_names(value=True)}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        """The placeholder that a static page brings to life, with a picture and a sentence until then."""
        state = html.escape(json.dumps(self._values()))
        return (
            f'<div class="companion-widget" data-module="{self._module}" data-state="{state}">\n'
            f"{self._picture()}\n<p>{self._sentence()}</p>\n</div>"
        )

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/html": self._repr_html_()}, metadata


class CircleWidget(_Widget):
    """The circle, cut in two classes by a line: move the line and the point, see the three radii.

    Args:
        angle: direction of the line's normal, which points into class 1, in degrees, from -180 to 180.
        offset: distance of the line from the origin along the normal, from -1 to 1.
        z: the latent point, from -2.5 to 2.5.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Figure 1.
    """

    _module = "circle"
    _esm = javascript("circle")

    angle = _Number(35.0, -180, 180)
    offset = _Number(0.3, -1, 1)
    z = _Number(0.03, -2.5, 2.5)

    def __init__(self, *, angle: float = 35.0, offset: float = 0.3, z: float = 0.03):
        super().__init__(angle=angle, offset=offset, z=z)

    @property
    def classifier(self) -> circle.HalfPlane:
        """The half-plane as it stands now."""
        angle = math.radians(self.angle)
        return circle.HalfPlane([math.cos(angle), math.sin(angle)], self.offset)

    @property
    def radii(self) -> tuple[float, float, float]:
        """(r_Z, r_in, r_unc) of the point as it stands now."""
        found = circle.exact_radii(self.classifier, torch.tensor([[self.z]], dtype=torch.float64))
        return tuple(float(radius) for radius in found)

    def _sentence(self) -> str:
        latent, inside, free = self.radii
        return (
            f"The circle, cut by a line with normal at {self.angle:g}° and offset {self.offset:g}. The point "
            f"of z = {self.z:g} has r<sub>unc</sub> = {free:.3g}, r<sub>in</sub> = {inside:.3g} and "
            f"r<sub>Z</sub> = {latent:.3g}. With JavaScript, or in a live notebook, you can move the line "
            "and the point."
        )

    def _picture(self) -> str:
        x, y = (math.cos(2 * math.pi * self.z), -math.sin(2 * math.pi * self.z))
        across = math.sqrt(max(0.0, 1 - self.offset**2))
        return (
            '<svg viewBox="-1.2 -1.2 2.4 2.4" width="240" height="240" role="img" '
            'aria-label="A circle cut by a line" fill="none" stroke="currentColor" stroke-width="0.03">'
            f'<circle r="1"/><path transform="rotate({-self.angle:g})" '
            f'd="M{self.offset:g} {-across:.3f}V{across:.3f}"/>'
            f'<circle cx="{x:.3f}" cy="{y:.3f}" r="0.06" fill="currentColor"/></svg>'
        )


class Theorem1Widget(_Widget):
    """Theorem 1 for equally likely classes: how many images a small move takes to another class, at least.

    Args:
        num_classes: K, from 2 to 100,000.
        latent_dim: d, from 1 to 10,000; it enters only the normalised radius t/√d.
        lipschitz: Lipschitz constant L of the generator, from 0.1 to 100, in image units per latent unit.
        eta: size of the move, from 0.01 to 100, in image units.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Theorem 1; deck equations (4) to (6).
    """

    _module = "theorem1"
    _esm = javascript("theorem1")

    num_classes = _Count(10, 2, 100_000)
    latent_dim = _Count(100, 1, 10_000)
    lipschitz = _Number(1.0, 0.1, 100)
    eta = _Number(0.5, 0.01, 100)

    def __init__(
        self, *, num_classes: int = 10, latent_dim: int = 100, lipschitz: float = 1.0, eta: float = 0.5
    ):
        super().__init__(num_classes=num_classes, latent_dim=latent_dim, lipschitz=lipschitz, eta=eta)

    @property
    def bound(self) -> float:
        """The bound (4) at `eta`."""
        return float(vulnerable_fraction(self.eta, self._probabilities(), Lipschitz(self.lipschitz)))

    @property
    def quantile(self) -> float:
        """The bound on the 25 % quantile of r_Z; divide by √latent_dim for the tables' number."""
        return float(robustness_quantile(0.25, self._probabilities(), Lipschitz(1.0)))

    def _probabilities(self) -> torch.Tensor:
        return torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64)

    def _sentence(self) -> str:
        return (
            f"Theorem 1 for K = {self.num_classes} equally likely classes and a generator with Lipschitz "
            f"constant L = {self.lipschitz:g}: whatever the classifier, at least {100 * self.bound:.3g} % of "
            f"the images change class within a distance of η = {self.eta:g}. The 25 % quantile of "
            f"r<sub>Z</sub> is at most {self.quantile:.3g}, or "
            f"{self.quantile / math.sqrt(self.latent_dim):.3g} of √d for d = {self.latent_dim}. "
            "With JavaScript, or in a live notebook, you can move all four numbers."
        )

    def _picture(self) -> str:
        eta = torch.logspace(-2, 2, 41, dtype=torch.float64)
        bound = vulnerable_fraction(eta, self._probabilities(), Lipschitz(self.lipschitz)).tolist()
        points = " ".join(f"{10 * k},{200 - 200 * value:.1f}" for k, value in enumerate(bound))
        mark = 100 * (math.log10(self.eta) + 2)
        return (
            '<svg viewBox="-5 -5 410 210" width="410" height="210" style="max-width: 100%" role="img" '
            'aria-label="The bound of Theorem 1 over η, from 0.01 to 100 on a logarithmic scale" fill="none" '
            f'stroke="currentColor" stroke-width="1"><path d="M0 200H400M0 0V200M{mark:.1f} 0V200"/>'
            f'<polyline points="{points}" stroke-width="3"/></svg>'
        )
