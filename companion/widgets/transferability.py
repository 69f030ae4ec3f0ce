"""Two lines on the circle that one perturbation fools, to play with."""

from __future__ import annotations

import math

import torch

from companion.circle import Circle, HalfPlane, class_probabilities
from companion.tightness import LinearPartition
from companion.transferability import exact_joint_radius, overlap_transferable_fraction
from companion.widgets._base import Number, Widget
from companion.widgets.circle import half_plane


class TransferabilityWidget(Widget):
    """Two half-planes f and h on the circle: set how often they disagree, and see the one v that fools both.

    h is f, turned anticlockwise about the centre until the two disagree on δ of the data.

    Args:
        angle: direction of f's normal, which points into class 1, in degrees, from -180 to 180.
        offset: distance of either line from the origin along its normal, from -0.8 to 0.8.
        delta: δ, the probability that the labels differ, from 0 to 0.4; h is exact to 1e-8.
        z: the latent of the point x = g(z) of the circle, from -0.5 to 0.5.
        eta: the length that v may have, from 0 to 2, in units of the plane.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Theorem 3; bound, own proof (chapter on transferability).
    """

    _module = "transferability"

    angle = Number(26.0, -180, 180)
    offset = Number(0.25, -0.8, 0.8)
    delta = Number(0.06, 0, 0.4)
    z = Number(0.2, -0.5, 0.5)
    eta = Number(1.2, 0, 2)

    def __init__(
        self, *, angle: float = 26.0, offset: float = 0.25, delta: float = 0.06, z: float = 0.2, eta: float = 1.2
    ):
        super().__init__(angle=angle, offset=offset, delta=delta, z=z, eta=eta)

    @property
    def classifiers(self) -> tuple[HalfPlane, HalfPlane]:
        """f and h as they stand now."""
        return half_plane(self.angle, self.offset), half_plane(self.angle + 180 * self.delta, self.offset)

    @property
    def joint_radius(self) -> float:
        """The length of the shortest v that fools both at x as it stands now."""
        return float(self.joint_radii(Circle()(torch.tensor([[self.z]], dtype=torch.float64))))

    def joint_radii(self, x: torch.Tensor) -> torch.Tensor:
        """The same for any points x (n, 2) of the plane."""
        planes = [
            LinearPartition(torch.stack([-line.normal, line.normal]), [line.offset, -line.offset])
            for line in self.classifiers
        ]
        return exact_joint_radius(*planes, x)

    @property
    def bound(self) -> float:
        """Theorem 3 at `eta`, from the unions: at least this fraction of the data is fooled by one v."""
        # Turning an arc adds the same half of δ to its union with the old one, whichever of the classes it is.
        unions = class_probabilities(self.classifiers[0]) + self.delta / 2
        return float(overlap_transferable_fraction(self.eta, self.delta, unions, Circle.modulus))

    def _sentence(self) -> str:
        return (
            f"Two lines that cut the circle, {180 * self.delta:.3g}° apart, so that their classifiers disagree on "
            f"{100 * self.delta:.3g} % of the data. From the point of z = {self.z:g}, the shortest step that fools "
            f"both is {self.joint_radius:.3g} long. Theorem 3 promises one of length {self.eta:g} at most for "
            f"{100 * self.bound:.3g} % of the data. With JavaScript, or in a live notebook, you can move them."
        )

    def _picture(self) -> str:
        x, y = math.cos(2 * math.pi * self.z), -math.sin(2 * math.pi * self.z)
        across = 'fill="none" stroke="currentColor" stroke-width="0.03"'
        lines = "".join(
            f'<path transform="rotate({-self.angle - turned:g})" d="M{self.offset:g} -1.3V1.3"/>'
            for turned in (0, 180 * self.delta)
        )
        return (
            '<svg viewBox="-1.3 -1.3 2.6 2.6" width="240" height="240" role="img" aria-label="A circle cut by two '
            f'lines" {across}><circle r="1"/>{lines}<circle cx="{x:.3f}" cy="{y:.3f}" r="0.06" fill="currentColor"/>'
            "</svg>"
        )
