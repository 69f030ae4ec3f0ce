"""The search for the in-distribution radius: small moves of the image along the range of a generator."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from companion._calls import Guarded
from companion.attacks.boundary import Boundary, into_ball
from companion.attacks.minimal import search as minimal_search
from companion.smoothness import jacobian

# The share of its mean eigenvalue that is added to the metric of each leap: much while it is known at z alone.
_DAMPING = (1e-1, 1e-2, 1e-3)
# Samples of the prior among which starts are looked for, more in up to 8 dimensions; starts of a row, and how far apart
# they lie.
POOL, _DENSE_POOL, _STARTS, _APART = 512, 4096, 6, 0.7
# The damping at which a search has come to its end.
_STUCK = 1e6
# From the fourth metric on: how many of a row's searches go on, for how many metrics each; then again and again.
_ROUNDS, _AGAIN = [(1, 1), (2, 1), (3, 1), (6, 1), (2, 3), (6, 2), (3, 4), (1, 8)], [(6, 2), (3, 4), (1, 16)]


class Pool(NamedTuple):
    """Samples of the prior: latents (P, d), labels (1 or n, P), and flat images (P, m); where each row has images of
    its own, how far (n, P) these are from the row's image instead."""

    latents: Tensor
    labels: Tensor
    images: Tensor | None
    distances: Tensor | None = None


class Range:
    """Images of a generator near those of n clean latents: how far they are, and the metric of the latents.

    Args:
        generator: the generator g.
        boundary: the boundary of f∘g around the clean latents.
    """

    def __init__(self, generator: Guarded, boundary: Boundary) -> None:
        self.generator, self.boundary = generator, boundary
        self.target = generator.of(boundary.clean, boundary.rows).flatten(1)

    def distance(self, points: Tensor, index: Tensor) -> Tensor:
        """‖g(p) − g(z)‖ (k,) of points p (k, d) of the rows `index` (k,)."""
        images = self.generator.of(points, self.boundary.rows[index]).flatten(1)
        return (images - self.target[index]).norm(dim=1)

    def slope(self, points: Tensor, index: Tensor) -> Tensor:
        """The gradients (k, d) of ½‖g(p) − g(z)‖²."""

        def objective(images: Tensor, chosen: slice) -> Tensor:
            return (images.flatten(1) - self.target[index[chosen]]).square().sum(1)[None] / 2

        return self.generator.gradients(points, self.boundary.rows[index], objective)[1][0]

    def metric(self, points: Tensor, index: Tensor) -> Tensor:
        """The pull-back metrics JᵀJ (k, d, d) at points (k, d)."""

        def gram(part: Tensor) -> Tensor:
            matrix = jacobian(self.generator, part)
            return matrix.mT @ matrix

        # A Jacobian takes d passes at once. On a processor so few rows that they fit its caches are fastest.
        size = 400 // points.shape[1] if points.device.type == "cpu" else self.generator.rows_at_once // points.shape[1]
        return self.generator.mapped(gram, points, self.boundary.rows[index], size)


def search(surface: Range, start: Tensor, metrics: int, pool: Pool | None) -> Tensor:
    """The latents (n, d) of other labels with the nearest images that are found with `metrics` Jacobians a row.

    The first three metrics serve `minimal_l2` in coordinates in which they are the identity: that at z, then the mean
    of it and that at the best point so far, with ever less damping. Each of the others serves two steps of one of up
    to seven searches, which begin at the best point and at samples of the prior.
    """
    boundary = surface.boundary
    best = into_ball(start, boundary.max_norm)
    # Whatever has another label counts, however close: a start that an attack has found is never lost.
    over = boundary.call.of(best, boundary.rows).argmax(1) != boundary.y
    distance = torch.where(over, surface.distance(best, boundary.every), torch.inf)
    best, distance = _leap(surface, best, distance, min(metrics, len(_DAMPING)))
    if metrics > len(_DAMPING):
        best, distance = _descend(surface, best, distance, metrics - len(_DAMPING), pool)
    return torch.where(distance.isfinite()[:, None], best, boundary.clean)


def _leap(surface: Range, best: Tensor, distance: Tensor, leaps: int) -> tuple[Tensor, Tensor]:
    boundary = surface.boundary
    if not leaps:
        return best, distance
    metric = at_clean = surface.metric(boundary.clean, boundary.every)
    for damping in _DAMPING[:leaps]:
        if damping < _DAMPING[0]:
            metric = (at_clean + surface.metric(best, boundary.every)) / 2
        # A row without a metric, where the generator has no derivative, is passed over.
        damped = _damped(metric, damping).nan_to_num(0.0, 0.0, 0.0)
        flat = Boundary(
            boundary.call, boundary.clean, boundary.y, metric=damped, max_norm=boundary.max_norm, rows=boundary.rows
        )
        found = minimal_search(flat, 12, flat.coordinates(best))
        point = flat.images(found.point, flat.every)
        reached = surface.distance(point, boundary.every)
        better = found.radius.isfinite() & (reached < distance)
        best, distance = torch.where(better[:, None], point, best), torch.where(better, reached, distance)
    return best, distance


def _descend(surface: Range, best: Tensor, distance: Tensor, left: int, pool: Pool | None) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton steps of several searches for each row, ever fewer, ever more of them."""
    every = surface.boundary.every
    points, distances = best[:, None], distance[:, None]
    if pool is not None:
        others, reached = _starts(surface, pool)
        points, distances = torch.cat([points, others], 1), torch.cat([distances, reached], 1)
    damping = torch.full_like(distances, 1e-3)
    for turn, (size, laps) in enumerate(itertools.chain(_ROUNDS, itertools.cycle(_AGAIN))):
        size = min(size, points.shape[1])
        # The second search of the second round is the nearest of the others: it would else wait for its turn.
        kept = distances.topk(size, dim=1, largest=False).indices
        if turn == 0 and points.shape[1] > 1:
            kept = 1 + distances[:, 1:].topk(1, dim=1, largest=False).indices
        place = every[:, None], kept
        for _ in range(laps):
            if left < size:
                return _nearest(points, distances)
            left -= size
            # A search whose steps have become too short to matter is at its end.
            row, column = torch.nonzero(damping[place] < _STUCK, as_tuple=True)
            if not len(row):
                continue
            going = row, kept[row, column]
            new = _step(surface, row, points[going], distances[going], damping[going])
            points, distances, damping = (
                entry.index_put(going, one) for entry, one in zip((points, distances, damping), new, strict=True)
            )
    raise AssertionError("the rounds never end")


def _nearest(points: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    distance, winner = distances.min(1)
    return points[torch.arange(len(points), device=points.device), winner], distance


def _step(
    surface: Range, index: Tensor, point: Tensor, distance: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Two Levenberg-Marquardt steps in one metric: the image distance falls on the linearised boundary of f∘g.

    A Newton correction brings each step back over the boundary; one that does not come nearer is not taken.
    """
    boundary, metric = surface.boundary, surface.metric(point, index)
    tiny, clean = torch.finfo(point.dtype).tiny, boundary.clean[index]
    for _ in range(2):
        height, _, normal, _ = boundary.gradient(point, index)
        height, normal = height[:, 0], normal[:, 0].nan_to_num(0.0, 0.0, 0.0)
        pull = torch.stack([-surface.slope(point, index), normal], dim=2)
        free, along = torch.linalg.solve_ex(_damped(metric, damping), pull)[0].unbind(2)
        curvature = (normal * along).sum(1).clamp(min=tiny)
        aim = 1e-5 * (normal * (point - clean)).sum(1).abs()
        step = free + along * ((aim - height - (normal * free).sum(1)).clamp(min=0) / curvature)[:, None]
        trial = _finite(into_ball(point + step, boundary.max_norm), point)
        for _ in range(2):
            missing = (aim - boundary.height(trial, index)).clamp(min=0)
            trial = _finite(into_ball(trial + along * (missing / curvature)[:, None], boundary.max_norm), point)
        reached = surface.distance(trial, index)
        better, before = (reached < distance) & (boundary.height(trial, index) > 0), distance
        point, distance = torch.where(better[:, None], trial, point), torch.where(better, reached, distance)
        gain = torch.where(better, 1 - reached / before, 1.0)
        damping = torch.where(better, (damping / 4).clamp(min=1e-9), damping * 6)
        damping = torch.where(gain < 8 * torch.finfo(point.dtype).eps, _STUCK, damping)
    return point, distance, damping


def _finite(point: Tensor, other: Tensor) -> Tensor:
    """`point` (k, d), or `other` where a singular system gave no number."""
    return torch.where(point.isfinite().all(1, keepdim=True), point, other)


def _damped(metric: Tensor, damping: Tensor | float) -> Tensor:
    """The metrics (n, d, d) plus `damping`, a number or (n,), times their mean eigenvalues: JᵀJ may be singular."""
    mean = metric.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(metric.dtype).tiny)
    return metric + torch.diag_embed((damping * mean)[:, None].expand(-1, metric.shape[1]))


def prior_pool(generator: Guarded, composed: Guarded, z: Tensor, max_norm: float | None, seed: int) -> Pool:
    """Samples of the prior, two thirds of them twice and three times as far out; the same for every row."""
    count = POOL if z.shape[1] > 8 else _DENSE_POOL
    draws = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn(count, z.shape[1], generator=draws, dtype=torch.float64, device="cpu")
    latents *= 1 + torch.arange(count, device="cpu").remainder(3)[:, None]
    latents = into_ball(latents, max_norm).to(z)
    if generator.bound_to is None:
        rows = torch.zeros(count, dtype=torch.long, device=z.device)
        return Pool(latents, composed.of(latents, rows).argmax(1)[None], generator.of(latents, rows).flatten(1))
    rows = torch.arange(len(z), device=z.device)
    target, distances, labels = generator.of(z, rows), [], []
    for one in latents:
        points = one.expand_as(z)
        distances.append((generator.of(points, rows) - target).flatten(1).norm(dim=1))
        labels.append(composed.of(points, rows).argmax(1))
    return Pool(latents, torch.stack(labels, 1), None, torch.stack(distances, 1))


def _starts(surface: Range, pool: Pool) -> tuple[Tensor, Tensor]:
    """For each row, samples of other labels whose images are near, and how near (n, s); `inf` for what is none.

    Where the way from z to one leaves the class of z at a nearer image, that is taken.
    """
    boundary, rows = surface.boundary, surface.boundary.rows
    z, every = boundary.clean, boundary.every
    if pool.images is not None:
        labels = pool.labels.expand(len(z), -1)
        distance = torch.cdist(surface.target, pool.images, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        assert pool.distances is not None  # a pool has the one or the other
        labels, distance = pool.labels[rows], pool.distances[rows]
    distance = distance.masked_fill(labels == boundary.y[:, None], torch.inf)
    picks: list[Tensor] = []
    crowded = torch.zeros_like(distance, dtype=torch.bool)
    for number in range(_STARTS):
        # The nearest, the nearest of another label than that, and then what lies elsewhere than all before.
        apart = labels == labels[every, picks[0], None] if number == 1 else crowded
        picks.append(distance.masked_fill(apart, torch.inf).argmin(1))
        crowded = crowded | (torch.cdist(pool.latents[picks[-1]], pool.latents) < _APART)
    pick = torch.stack(picks, 1)
    index, far = every.repeat_interleave(pick.shape[1]), pool.latents[pick].flatten(0, 1)
    low, high, clean = torch.zeros_like(far[:, :1]), torch.ones_like(far[:, :1]), z[index]
    for _ in range(8):
        middle = (low + high) / 2
        over = (boundary.height(clean + middle * (far - clean), index) > 0)[:, None]
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    crossing = clean + high * (far - clean)
    reached = [_adversarial_distance(surface, points, index) for points in (far, crossing)]
    start = torch.where((reached[1] < reached[0])[:, None], crossing, far)
    return start.view(len(z), -1, z.shape[1]), torch.minimum(*reached).view(len(z), -1)


def _adversarial_distance(surface: Range, points: Tensor, index: Tensor) -> Tensor:
    over = surface.boundary.height(points, index) > 0
    return torch.where(over, surface.distance(points, index), torch.inf)
