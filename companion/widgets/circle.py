"""The circle cut by a line, to play with."""

from __future__ import annotations

import math

import torch

from companion import circle
from companion.widgets._base import Number, Widget


def half_plane(angle: float, offset: float) -> circle.HalfPlane:
    """The half-plane whose normal has the direction `angle`, in degrees."""
    turned = math.radians(angle)
    return circle.HalfPlane([math.cos(turned), math.sin(turned)], offset)


class CircleWidget(Widget):
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

    angle = Number(35.0, -180, 180)
    offset = Number(0.3, -1, 1)
    z = Number(0.03, -2.5, 2.5)

    def __init__(self, *, angle: float = 35.0, offset: float = 0.3, z: float = 0.03):
        super().__init__(angle=angle, offset=offset, z=z)

    @property
    def classifier(self) -> circle.HalfPlane:
        """The half-plane as it stands now."""
        return half_plane(self.angle, self.offset)

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
