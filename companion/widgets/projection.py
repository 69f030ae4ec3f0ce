"""The classifier f̃ of Theorem 2 on the circle, to play with."""

from __future__ import annotations

import math

import torch

from companion import circle
from companion.projection import ProjectedClassifier, Witness
from companion.widgets._base import Number, Widget
from companion.widgets.circle import half_plane


class ProjectionWidget(Widget):
    """A half-plane f beside f̃, which asks f about the nearest point of the circle: move the line, x, and a point y.

    Args:
        angle: direction of the line's normal, which points into class 1, in degrees, from -180 to 180.
        offset: distance of the line from the origin along the normal, from -1 to 1.
        z: the latent of the point x = g(z) of the circle, from -0.5 to 0.5.
        y1: first coordinate of a point y of the plane, from -1.45 to 1.45.
        y2: second coordinate of y, from -1.45 to 1.45.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Theorem 2.
    """

    _module = "projection"

    angle = Number(53.0, -180, 180)
    offset = Number(0.5, -1, 1)
    z = Number(0.22, -0.5, 0.5)
    y1 = Number(0.45, -1.45, 1.45)
    y2 = Number(0.12, -1.45, 1.45)

    def __init__(
        self, *, angle: float = 53.0, offset: float = 0.5, z: float = 0.22, y1: float = 0.45, y2: float = 0.12
    ):
        super().__init__(angle=angle, offset=offset, z=z, y1=y1, y2=y2)

    @property
    def classifier(self) -> circle.HalfPlane:
        """The half-plane f as it stands now."""
        return half_plane(self.angle, self.offset)

    @property
    def radii(self) -> tuple[float, float, float]:
        """(r_unc of f̃, r_in of f, r_unc of f) at x as it stands now; Theorem 2 compares the first two."""
        z = torch.tensor([[self.z]], dtype=torch.float64)
        _, inside, free = circle.exact_radii(self.classifier, z)
        projected = circle.exact_projected_radius(self.classifier, z)
        return float(projected), float(inside), float(free)

    @property
    def witness(self) -> Witness:
        """What the proof of Theorem 2 makes of y (its projection, and whether f changes there), one row."""
        x = circle.Circle()(torch.tensor([[self.z]], dtype=torch.float64))
        y = torch.tensor([[self.y1, self.y2]], dtype=torch.float64)
        return ProjectedClassifier(circle.Circle(), self.classifier).witness(x, y)

    def _sentence(self) -> str:
        projected, inside, free = self.radii
        return (
            f"The circle, cut by a line with normal at {self.angle:g}° and offset {self.offset:g}. From the point of "
            f"z = {self.z:g}, a step of {free:.3g} crosses the line and changes f; to change f̃, which asks about the "
            f"nearest point of the circle, takes {projected:.3g}, and along the circle it is {inside:.3g}. With "
            "JavaScript, or in a live notebook, you can move the line and the points."
        )

    def _picture(self) -> str:
        centre, half = self.angle / 360, math.acos(self.offset) / (2 * math.pi)

        def on(turn: float, radius: float = 1.0) -> str:
            return f"{radius * math.cos(2 * math.pi * turn):.3f} {-radius * math.sin(2 * math.pi * turn):.3f}"

        x, image = on(self.z), on(math.atan2(self.y2, self.y1) / (2 * math.pi))
        (a, b), y = x.split(), f"{self.y1:g} {-self.y2:g}"
        return (
            '<svg viewBox="-1.5 -1.5 3 3" width="240" height="240" role="img" aria-label="A circle, a wedge, '
            'and a point y with the nearest point of the circle" fill="none" stroke="currentColor" stroke-width="0.03">'
            f'<circle r="1"/><path d="M{on(centre - half, 2)}L0 0L{on(centre + half, 2)}"/>'
            f'<path d="M{y}L{image}" stroke-dasharray="0.05"/><circle cx="{a}" cy="{b}" r="0.06" fill="currentColor"/>'
            f'<circle cx="{self.y1:g}" cy="{-self.y2:g}" r="0.06"/></svg>'
        )
