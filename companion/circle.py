"""The paper's toy example: a Gaussian wrapped around the circle, cut by a line. Everything is in closed form.

The generator g(z) = (cos 2πz, sin 2πz) wraps z ~ N(0, 1) around the unit circle; a half-plane colours the circle in
two classes. Every radius, probability and modulus is known exactly, so this is the test bench of the package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from companion import _validation as check
from companion._normal import cdf
from companion._types import Numbers
from companion.smoothness import CircleModulus

# N(0, 1) leaves [-40, 40] with a probability below 1e-300: forty turns each way are all of them.
_TURNS = 40


class Circle:
    """The generator g(z) = (cos 2πz, sin 2πz), from R to the unit circle.

    Calling it maps latents of shape (n, 1) to points of shape (n, 2).

    Attributes:
        latent_dim: 1.
        modulus: its exact modulus of continuity, ω(t) = 2 sin(π min(t, ½)).

    Source: Fawzi et al. (2018), Figure 1.
    """

    latent_dim = 1
    modulus = CircleModulus()

    def __call__(self, z: Tensor) -> Tensor:
        angle = 2 * math.pi * z
        return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)

    def project(self, x: Tensor) -> Tensor:
        """The latents (n, 1), in (−½, ½], of the points of the circle nearest to x (n, 2)."""
        return torch.atan2(x[:, 1:2], x[:, 0:1]) / (2 * math.pi)

    def __repr__(self) -> str:
        return "Circle()"


class HalfPlane:
    """The classifier that says 1 where ⟨normal, x⟩ > offset and 0 elsewhere.

    Calling it maps points of shape (n, m) to logits of shape (n, 2): (−s, s) with s = (⟨normal, x⟩ − offset)/‖normal‖,
    the signed distance to the dividing line. On the circle m = 2, but any m is allowed.

    Args:
        normal: (m,) vector, not zero; it points into class 1. Its length does not matter.
        offset: a number; with a unit `normal` it is the distance of the line from the origin.

    Raises:
        ValueError: if `normal` is zero, not a vector or not finite, or `offset` is not one finite number.
    """

    def __init__(self, normal: Numbers, offset: Numbers = 0.0) -> None:
        normal = check.tensor("normal", normal)
        shift = check.tensor("offset", offset)
        if normal.ndim != 1 or normal.norm() == 0:
            raise ValueError(f"normal must be a non-zero vector of shape (m,), got {normal.tolist()}")
        if shift.numel() != 1:
            raise ValueError(f"offset must be one number, got shape {tuple(shift.shape)}")
        length = normal.norm()
        self.normal = normal / length
        self.offset = float(shift) / float(length)

    def __call__(self, x: Tensor) -> Tensor:
        distance = x @ self.normal.to(x) - self.offset
        return torch.stack([-distance, distance], dim=-1)

    def __repr__(self) -> str:
        return f"HalfPlane(normal={self.normal.tolist()}, offset={self.offset:g})"


def class_probabilities(classifier: HalfPlane) -> Tensor:
    """The exact class probabilities (2,) of a half-plane on the circle: the mass of a wrapped normal on an arc.

    Args:
        classifier: a `HalfPlane` of the plane.

    Returns:
        (2,) float64 probabilities of class 0 and class 1; they sum to 1.
    """
    centre, half_width = _arc(classifier)
    inside = _mass_within(centre, torch.tensor(half_width, dtype=torch.float64))
    return torch.stack([1 - inside, inside])


def exact_radii(classifier: HalfPlane, z: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """The three robustness radii of the points g(z) of the circle, in closed form.

    Args:
        classifier: a `HalfPlane` of the plane.
        z: (n, 1) latents.

    Returns:
        (r_Z, r_in, r_unc), each (n,): the distance in latent space to the nearest boundary point, the chord to it,
        and the distance in the plane to the dividing line. Where the line misses the circle, or touches it in one
        point, one class has all the mass: r_Z and r_in are `inf`.

    Raises:
        ValueError: if `z` has not shape (n, 1).
    """
    z = check.latents(Circle(), z)
    centre, half_width = _arc(classifier)
    turns = z[:, 0] - centre
    from_centre = (turns - turns.round()).abs()
    latent = (from_centre - half_width).abs()
    if half_width in (0.0, 0.5):
        latent = torch.full_like(latent, torch.inf)
    in_distribution = torch.where(latent.isinf(), latent, 2 * torch.sin(math.pi * latent.clamp(max=0.5)))
    unconstrained = (Circle()(z) @ classifier.normal.to(z) - classifier.offset).abs()
    return latent, in_distribution, unconstrained


def exact_projected_radius(classifier: HalfPlane, z: Numbers) -> Tensor:
    """The radius r_unc(f̃; x) of Theorem 2's classifier f̃ at points g(z) of the circle, in closed form.

    f̃ sees only the angle of a point: its boundary is two rays from the centre. The nearest of them, at the
    angle θ = 2π r_Z, is sin θ away while θ ≤ π/2; beyond, its end, the centre, at distance 1.

    Args:
        classifier: a `HalfPlane` of the plane.
        z: (n, 1) latents.

    Returns:
        (n,) radii in units of the plane, `inf` where the line misses the circle.

    Raises:
        ValueError: if `z` has not shape (n, 1).
    """
    latent = exact_radii(classifier, z)[0]
    return torch.where(latent.isinf(), latent, torch.sin(2 * math.pi * latent.clamp(max=0.25)))


def exact_law(classifier: HalfPlane, eta: Numbers) -> Tensor:
    """The exact vulnerable fraction P(r_in ≤ eta) on the circle, to hold against Theorem 1.

    Args:
        classifier: a `HalfPlane` of the plane.
        eta: any shape, at least 0, in units of the plane.

    Returns:
        Probabilities in the shape of `eta`.
    """
    eta = check.tensor("eta", eta, minimum=0.0, finite=False)
    centre, half_width = _arc(classifier)
    if half_width in (0.0, 0.5):
        return torch.zeros_like(eta)
    reach = torch.asin((eta.to(torch.float64) / 2).clamp(max=1.0)) / math.pi
    # r_in <= eta exactly where the arc distance to the centre is within `reach` of the boundary's.
    outer = (half_width + reach).clamp(max=0.5)
    inner = (half_width - reach).clamp(min=0.0)
    return (_mass_within(centre, outer) - _mass_within(centre, inner)).to(eta.dtype)


def _arc(classifier: HalfPlane) -> tuple[float, float]:
    """Class 1 on the circle as an arc: its centre and half-width, both in turns; half-width 0 is empty, 1/2 is all."""
    if not isinstance(classifier, HalfPlane) or classifier.normal.numel() != 2:
        raise ValueError(f"classifier must be a HalfPlane of the plane, got {classifier!r}")
    x, y = classifier.normal.tolist()
    centre = math.atan2(y, x) / (2 * math.pi)
    half_width = math.acos(min(1.0, max(-1.0, classifier.offset))) / (2 * math.pi)
    return centre, half_width


def _mass_within(centre: float, half_width: Tensor) -> Tensor:
    """The probability that z ~ N(0, 1) lies within `half_width` of `centre`, modulo 1."""
    turns = torch.arange(-_TURNS, _TURNS + 1, dtype=torch.float64) + centre
    upper, lower = turns + half_width.unsqueeze(-1), turns - half_width.unsqueeze(-1)
    # Differences of Φ on the side of its small values: Φ(-x) near +∞ keeps what 1 - Φ(x) would lose.
    flip = torch.where(turns > 0, -1.0, 1.0)
    mass = flip * (cdf(flip * upper) - cdf(flip * lower))
    return mass.sum(-1)
