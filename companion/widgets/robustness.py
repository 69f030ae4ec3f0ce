"""A wavy wall across a spiral of data: the three radii of a point and the searches for them, to play with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtri
from torch import Tensor

from companion.widgets._base import Choice, Count, Number, Widget


class Spiral:
    """The generator g(z) = 0.6 e^{z/4} (cos πz, sin πz), (n, 1) -> (n, 2): two latents are a turn."""

    latent_dim = 1

    def __call__(self, z: Tensor) -> Tensor:
        return 0.6 * torch.exp(z / 4) * torch.cat([torch.cos(math.pi * z), torch.sin(math.pi * z)], dim=1)


class WavyWall:
    """The classifier (n, 2) -> (n, 2) that gives class 1 to what is to the right of shift + wave cos(5y + 1) + y/4."""

    def __init__(self, wave: float, shift: float):
        self.wave, self.shift = wave, shift

    def __call__(self, x: Tensor) -> Tensor:
        right = x[:, 0] - self.shift - self.wave * torch.cos(5 * x[:, 1] + 1) - x[:, 1] / 4
        return torch.stack([-right, right], dim=1)


class Step(NamedTuple):
    """Where a search has come to: `at`, a latent (1,) or an image (2,), and how far; inf while the label is the old."""

    at: tuple[float, ...]
    radius: float


class RobustnessWidget(Widget):
    """Data on a spiral, and a wall with waves: drag the point, see its three radii, and follow the searches for them.

    Args:
        z: the latent point, from -2 to 2.
        wave: height of the wall's waves, from 0 to 0.3.
        shift: where the wall stands, from 0.5 to 1.1.
        search: 'r_unc', 'r_in' or 'r_Z', the radius that the search looks for.
        step: how many of its steps are shown, from 0 to 8.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: definitions, Fawzi et al. (2018), equations (2) and (3); the searches in small, chapter on robustness.
    """

    _module = "robustness"

    z = Number(0.05, -2, 2)
    wave = Number(0.2, 0, 0.3)
    shift = Number(0.8, 0.5, 1.1)
    search = Choice("r_unc", "r_in", "r_Z")
    step = Count(0, 0, 8)

    def __init__(self, *, z: float = 0.05, wave: float = 0.2, shift: float = 0.8, search: str = "r_unc", step: int = 0):
        super().__init__(z=z, wave=wave, shift=shift, search=search, step=step)

    @property
    def generator(self) -> Spiral:
        """The generator, for experiments of your own."""
        return Spiral()

    @property
    def classifier(self) -> WavyWall:
        """The classifier as it stands now."""
        return WavyWall(self.wave, self.shift)

    @property
    def radii(self) -> tuple[float, float, float]:
        """(r_Z, r_in, r_unc) of the point as it stands now, from fine grids whose crossings and minima are refined."""
        x, margin = self._image(self.z), lambda p: self._margin(self._image(p))
        latents = np.linspace(-8, 6, 14_001)
        margins, away = margin(latents), self._away(latents)
        roots = [brentq(margin, *latents[k : k + 2], xtol=1e-14) for k in np.flatnonzero(np.diff(margins > 0))]
        over = (margins > 0) != (margin(self.z) > 0)
        inner = np.flatnonzero((away[1:-1] <= np.minimum(away[:-2], away[2:])) & over[1:-1] & over[:-2] & over[2:])
        valleys = [_least(self._away, latents[k], latents[k + 2]) for k in inner]
        heights = x[1] + np.linspace(-1, 1, 2001) * (1e-9 + abs(margin(self.z)))
        gap = self._gap(heights)
        low = np.flatnonzero(gap[1:-1] <= np.minimum(gap[:-2], gap[2:]))
        return (
            min(abs(root - self.z) for root in roots),
            min([*map(self._away, roots), *valleys]),
            min(_least(self._gap, heights[k], heights[k + 2]) for k in low),
        )

    @property
    def path(self) -> list[Step]:
        """The search as the page shows it, from its start to the step where it stands now."""
        return self._descend() if self.search == "r_in" else self._follow(self.search == "r_Z")

    @property
    def found(self) -> float:
        """The least radius that the search has found so far, an upper estimate; inf if it has found none."""
        return min(one.radius for one in self.path)

    # The spiral and the wall for NumPy, images as (2, …).

    def _image(self, p):
        return 0.6 * np.exp(p / 4) * np.stack([np.cos(np.pi * p), np.sin(np.pi * p)])

    def _jacobian(self, p: float):
        x, y = self._image(p)
        return np.array([x / 4 - np.pi * y, np.pi * x + y / 4])

    def _wall(self, y):
        return self.shift + self.wave * np.cos(5 * y + 1) + y / 4

    def _margin(self, x):
        return x[0] - self._wall(x[1])

    def _gradient(self, x):
        return np.array([1, 5 * self.wave * np.sin(5 * x[1] + 1) - 0.25])

    def _away(self, p):
        """How far the image of p is from x."""
        x = self._image(self.z)
        image = self._image(p)
        return np.hypot(image[0] - x[0], image[1] - x[1])

    def _gap(self, y):
        """How far the wall is from x, at height y."""
        x = self._image(self.z)
        return np.hypot(self._wall(y) - x[0], y - x[1])

    def _over(self, x) -> bool:
        """Whether an image has the other label, the wall itself included."""
        sign = -1 if self._margin(self._image(self.z)) > 0 else 1
        return bool(sign * self._margin(x) >= 0)

    def _follow(self, latent: bool) -> list[Step]:
        """Project the clean point on the boundary as linearised at the last one; cut the ray off at the boundary."""
        clean = np.array([self.z]) if latent else self._image(self.z)

        def image(q):
            return self._image(q[0]) if latent else q

        def step(q) -> Step:
            radius = float(np.linalg.norm(q - clean)) if self._over(image(q)) else math.inf
            return Step(tuple(q.tolist()), radius)

        q = clean
        steps = [step(q)]
        for _ in range(self.step):
            normal = self._gradient(image(q))
            if latent:
                normal = np.array([normal @ self._jacobian(q[0])])
            move = -(self._margin(image(q)) + normal @ (clean - q)) / (normal @ normal) * normal
            move *= 2 / max(2, np.linalg.norm(move))
            rays = [clean + 1.25**k * move for k in range(12)]
            reached = next((ray for ray in rays if self._over(image(ray))), None)
            q = clean + move if reached is None else _crossing(lambda q: self._over(image(q)), clean, reached)
            steps.append(step(q))
        return steps

    def _descend(self) -> list[Step]:
        """Gauss-Newton steps on the image distance, from the nearest image of another label that is known."""
        if self.step < 8:
            # The start is what the whole search for r_Z has found.
            whole = RobustnessWidget(z=self.z, wave=self.wave, shift=self.shift, search="r_in", step=8)
            return whole._descend()[: self.step + 1]
        x = self._image(self.z)
        # Like the package's samples of the prior, some of these lie twice and three times as far out.
        prior = ndtri((np.arange(24) + 0.5) / 24) * (1 + np.arange(24) % 3)
        known = [*(one.at[0] for one in self._follow(latent=True)), *prior]
        p = min((p for p in known if self._over(self._image(p))), key=self._away)
        steps = [Step((float(p),), float(self._away(p)))]
        sign = -1 if self._margin(x) > 0 else 1
        for _ in range(self.step):
            y, speed = self._image(p), self._jacobian(p)
            slope = self._gradient(y) @ speed
            foot = -(speed @ (y - x)) / (speed @ speed)
            move = foot if sign * (self._margin(y) + slope * foot) >= 0 else -self._margin(y) / slope
            for k in range(7):
                q = p + move / 2**k
                if not self._over(self._image(q)):
                    q = _crossing(lambda p: self._over(self._image(p)), q, p)
                if self._away(q) < self._away(p):
                    p = q
                    break
            steps.append(Step((float(p),), float(self._away(p))))
        return steps

    def _sentence(self) -> str:
        latent, inside, free = self.radii
        return (
            f"A spiral of data across a wavy wall. The point of z = {self.z:g} has r<sub>unc</sub> = {free:.3g}, "
            f"r<sub>in</sub> = {inside:.3g} and r<sub>Z</sub> = {latent:.3g}. With JavaScript, or in a live notebook, "
            "you can move the point and the wall, and follow the searches for the three radii step by step."
        )

    def _picture(self) -> str:
        def polyline(points) -> str:
            return " ".join(f"{x:.3f},{-y:.3f}" for x, y in points)

        spiral = self._image(np.linspace(-3.2, 3.2, 161)).T
        heights = np.linspace(-1.5, 1.5, 61)
        x, y = self._image(self.z)
        return (
            '<svg viewBox="-1.5 -1.5 3 3" width="240" height="240" role="img" '
            'aria-label="A spiral, and a wavy wall across it" fill="none" stroke="currentColor" stroke-width="0.03">'
            f'<polyline points="{polyline(spiral)}"/>'
            f'<polyline points="{polyline(np.stack([self._wall(heights), heights]).T)}" stroke-width="0.015"/>'
            f'<circle cx="{x:.3f}" cy="{-y:.3f}" r="0.06" fill="currentColor"/></svg>'
        )


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with one valley between `low` and `high`."""
    return float(minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-11}).fun)


def _crossing(over: Callable[[np.ndarray], bool], outside, inside):
    """Between a point of the old label and one of the new, where the label changes: a point of the new one."""
    for _ in range(52):
        middle = (outside + inside) / 2
        outside, inside = (outside, middle) if over(middle) else (middle, inside)
    return inside
