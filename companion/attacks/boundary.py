"""What a minimal-norm search sees of a classifier: how far over the boundary a point is, and the gradient of that."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from companion._calls import Guarded


class Boundary:
    """The boundary of a classifier around n clean points.

    Points are flat, in coordinates in which the length to be made small is the Euclidean one: with a metric M = LLᵀ
    they are Lᵀ(x − x₀), else the points themselves. Every point belongs to one of the n rows.

    The *height* of a point is its margin (the largest logit of another class less that of its label) less the
    rounding of that difference, as it was measured for this classifier. Above 0 the point is fooled.

    Args:
        call: the classifier.
        x: (n, *image) clean points in working precision.
        y: (n,) labels.
        bounds: None, or the box (low, high).
        metric: None, or (n, m, m) positive definite matrices.
        max_norm: None, or the radius of the ball around 0 to which points are moved radially before they are judged.
        rows: (n,) which of the rows that `call` knows these are.
    """

    def __init__(
        self,
        call: Guarded,
        x: Tensor,
        y: Tensor,
        *,
        bounds: tuple[float, float] | None = None,
        metric: Tensor | None = None,
        max_norm: float | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.call, self.y, self.bounds, self.max_norm, self.shape = call, y, bounds, max_norm, x.shape[1:]
        self.every = torch.arange(len(x), device=x.device)
        self.rows = self.every if rows is None else rows
        self.clean = self.origin = x.flatten(1)
        self.there: Tensor | None = None
        self.back: Tensor | None = None
        if metric is not None:
            factor, failed = torch.linalg.cholesky_ex(metric)
            identity = torch.eye(self.clean.shape[1], dtype=x.dtype, device=x.device).expand_as(factor)
            back = torch.linalg.solve_triangular(factor.mT, identity, upper=True)
            # Without a way back, a row stays where it is.
            self.there, self.back = factor.mT, torch.where((failed == 0)[:, None, None], back, torch.zeros_like(back))
            self.origin = torch.zeros_like(self.clean)

    def coordinates(self, x: Tensor) -> Tensor:
        """The coordinates (n, m) of flat points (n, m), one for each row."""
        return x if self.there is None else (self.there @ (x - self.clean)[..., None])[..., 0]

    def images(self, points: Tensor, index: Tensor) -> Tensor:
        """The points (k, *image) that have the coordinates (k, m) in the rows `index` (k,)."""
        if self.back is not None:
            points = self.clean[index] + (self.back[index] @ points[..., None])[..., 0]
        return into_ball(points, self.max_norm).reshape(-1, *self.shape)

    def clip(self, points: Tensor) -> Tensor:
        return points if self.bounds is None else points.clamp(*self.bounds)

    def height(self, points: Tensor, index: Tensor) -> Tensor:
        """The heights (k,) of points (k, m) of the rows `index` (k,)."""
        return self._height(self.call.of(self.images(points, index), self.rows[index]), index)[0]

    def gradient(
        self, points: Tensor, index: Tensor, rivals: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heights towards the classes `rivals` (k, s), with their gradients; without rivals, towards the likeliest.

        Returns:
            (k, s) heights, (k,) which points are over the boundary to any class, (k, s, m) gradients, (k, K) logits.
            One forward and s backward passes for each of the k points.
        """
        y = self.y[index]

        def objective(logits: Tensor, chosen: slice) -> Tensor:
            own = logits.gather(1, y[chosen, None])
            if rivals is None:
                return (_others(logits, y[chosen]) - own[:, 0])[None]
            return (logits.gather(1, rivals[chosen]) - own).T

        images = self.images(points, index)
        logits, gradient = self.call.gradients(images, self.rows[index], objective)
        height, rounding = self._height(logits, index)
        gradient = gradient.flatten(2).movedim(0, 1)
        if self.max_norm is not None:
            # On the sphere only what is tangential moves the point.
            out = normalize(images, dim=1)[:, None]
            tangential = gradient - (gradient * out).sum(2, keepdim=True) * out
            outside = images.norm(dim=1) > (1 - 2e-6) * self.max_norm
            gradient = torch.where(outside[:, None, None], tangential, gradient)
        if self.back is not None:
            gradient = gradient @ self.back[index]
        return objective(logits, slice(None)).T - rounding[:, None], height > 0, gradient, logits

    def _height(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        y = self.y[index]
        own, other = logits.gather(1, y[:, None])[:, 0], _others(logits, y)
        # Beside what was measured, two units in the last place of the two logits that compete.
        rounding = self.call.rounding + 2 * torch.finfo(logits.dtype).eps * (own.abs() + other.abs())
        return other - own - rounding, rounding


def into_ball(points: Tensor, max_norm: float | None) -> Tensor:
    """The points (k, m), those outside the ball of radius `max_norm` moved radially to its surface."""
    if max_norm is None:
        return points
    outside = points.norm(dim=1, keepdim=True) > max_norm
    return torch.where(outside, max_norm * (1 - 1e-6) * normalize(points, dim=1), points)


def _others(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit (k,) of a class other than `y`."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


class Found:
    """The nearest fooled points so far, and what is known of the clean ones.

    Attributes:
        point: (n, m), the clean points where there is none yet.
        radius: (n,), `inf` where there is none yet.
        clean_logits, clean_height, clean_gradient: (n, K), (n, s), (n, s, m), for the s likeliest classes.
    """

    clean_logits: Tensor
    clean_height: Tensor
    clean_gradient: Tensor

    def __init__(self, boundary: Boundary) -> None:
        self.origin, self.point = boundary.origin, boundary.origin.clone()
        self.radius = torch.full_like(boundary.origin[:, 0], torch.inf)

    def offer(self, points: Tensor, over: Tensor) -> None:
        """Take the points (n, m) that are over the boundary and nearer than what is known."""
        length = (points - self.origin).norm(dim=1)
        better = over & (length < self.radius)
        self.point = torch.where(better[:, None], points, self.point)
        self.radius = torch.where(better, length, self.radius)

    def offer_many(self, points: Tensor, over: Tensor) -> None:
        """Take the nearest of the points (n, s, m) over the boundary, where it is nearer than what is known."""
        length = (points - self.origin[:, None]).norm(dim=2).masked_fill(~over, torch.inf)
        nearest = length.argmin(1, keepdim=True)
        point = points.gather(1, nearest[..., None].expand(-1, -1, points.shape[2]))[:, 0]
        self.offer(point, over.gather(1, nearest)[:, 0])

    def reach(self) -> Tensor:
        """How far (n,) there is anything to look for: the radius, or three times the first guess at it."""
        guess = 3 * (self.clean_height / self.clean_gradient.norm(dim=2)).abs().amin(1)
        guess = torch.where(guess.isfinite() & (guess > 0), guess, torch.ones_like(guess))
        return torch.where(self.radius.isfinite(), self.radius, guess)
