"""The searches that `minimal_l2` is made of. Each spends gradients on all rows at once, and keeps what it finds.

A stage is a function `(boundary, found, left) -> spent`: it takes at most `left` gradients a row. With fewer than it
wants it stops early, having done just what it would have done first. So a larger budget only adds to a smaller one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from companion.attacks.boundary import Boundary, Found

# A search that spends at most the given number of gradients a row, and returns how many it spent.
Stage: TypeAlias = Callable[[Boundary, Found, int], int]


def opening(boundary: Boundary, found: Found, left: int) -> int:
    """One gradient at the clean points, towards the class with the second-largest logit, and the ray along it."""
    every, clean = boundary.every, boundary.origin[:, None]
    found.clean_height, _, found.clean_gradient, found.clean_logits = boundary.gradient(boundary.origin, every)
    ray(boundary, found, aimed(boundary, *linearised(found.clean_height, found.clean_gradient, clean))[:, 0], 3)
    return 1


def race(rivals: int, *plan: tuple[int, int]) -> Stage:
    """The boundaries to the likeliest classes are followed side by side, and the farther ones given up.

    Which class is nearest is not known beforehand, and which has the largest logit says little. Each lap projects the
    clean point on the boundary to a class, linearised where the lap before ended. Later linearisations weigh more in
    an average with the earlier ones, which keeps the laps of a network of many linear pieces from zigzagging.

    Args:
        rivals: how many classes begin.
        plan: (how many go on, for how many laps), one after the other; a lap takes a gradient for each.
    """

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        clean, every = boundary.origin[:, None], boundary.every
        others = found.clean_logits.scatter(1, boundary.y[:, None], -torch.inf)
        target = others.topk(min(rivals, others.shape[1] - 1), dim=1).indices
        spent = _look_at(boundary, found, target, left)
        if spent > left:
            return left
        count = target.shape[1]
        normal, level = linearised(found.clean_height[:, :count], found.clean_gradient[:, :count], clean)
        point, lap = aimed(boundary, normal, level), 0
        for size, laps in plan:
            if size < point.shape[1]:
                # A boundary that the box hides is nobody's nearest.
                hidden = (normal * (point - clean)).sum(2) < (1 - 1e-3) * (level - (normal * clean).sum(2))
                distance = (point - clean).norm(dim=2).masked_fill(hidden, torch.inf)
                kept = distance.topk(size, dim=1, largest=False).indices
                point, normal, level, target = (entry[every[:, None], kept] for entry in (point, normal, level, target))
            size = point.shape[1]
            for _ in range(laps):
                if left - spent < size:
                    return left
                height, over, gradient, _ = boundary.gradient(
                    point.flatten(0, 1), every.repeat_interleave(size), target.reshape(-1, 1)
                )
                found.offer_many(point, over.view(-1, size))
                spent, lap = spent + size, lap + 1
                new = linearised(height.view(-1, size), gradient.view_as(point), point)
                weight = 2 / (lap + 2)
                normal, level = torch.lerp(normal, new[0], weight), torch.lerp(level, new[1], weight)
                point = aimed(boundary, normal, level)
        for finish in point.unbind(1):
            ray(boundary, found, finish, 3)
        missed = found.radius.isinf()
        if missed.any():
            # A boundary that bends away is met in the end.
            ray(boundary, found, point[:, 0], 16, only=missed)
        return spent

    return stage


def _look_at(boundary: Boundary, found: Found, target: Tensor, left: int) -> int:
    """Gradients at the clean points towards those classes of `target` that have none yet; returns how many."""
    known, wanted = found.clean_gradient.shape[1], target.shape[1]
    if known < wanted and wanted - known <= left:
        height, _, gradient, _ = boundary.gradient(boundary.origin, boundary.every, target[:, known:])
        found.clean_height = torch.cat([found.clean_height, height], 1)
        found.clean_gradient = torch.cat([found.clean_gradient, gradient], 1)
    return max(0, wanted - known)


def follow(laps: int) -> Stage:
    """From the best point: projections of the clean one on the average of the linearisations met."""

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        point, normal, level = found.point, found.point.new_zeros(()), found.point.new_zeros(())
        for lap in range(min(laps, left)):
            height, over, gradient, _ = boundary.gradient(point, boundary.every)
            found.offer(point, over)
            new = linearised(height, gradient, point[:, None])
            normal, level = normal + (new[0] - normal) / (lap + 1), level + (new[1] - level) / (lap + 1)
            point = aimed(boundary, normal, level, beyond=2e-4)[:, 0]
        if laps <= left:
            ray(boundary, found, point, 3)
        return min(laps, left)

    return stage


def corner(laps: int, *, noise: float = 0.0, seed: int = 0) -> Stage:
    """From the best point: projections of the clean one on the last linearisations met, all of them at once.

    The nearest point of a network of linear pieces often lies where some of them meet. It begins at the best point,
    moved by `noise` times its distance in a random direction, where other pieces are seen.
    """

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        point, origin = found.point, boundary.origin
        if noise:
            point = boundary.clip(point + noise * found.reach()[:, None] * directions(point, 1, seed))
        normals, levels, weights = point.new_zeros(len(point), 0, point.shape[1]), point.new_zeros(len(point), 0), []
        for _ in range(min(laps, left)):
            height, over, gradient, _ = boundary.gradient(point, boundary.every)
            found.offer(point, over)
            normal, level = linearised(height, gradient, point[:, None])
            level = level + 2e-4 * (level - (normal * origin[:, None]).sum(2)).abs()
            # A class of logit -inf has no boundary to aim at.
            known = level.isfinite()
            normals = torch.cat([normals, torch.where(known[..., None], normal, 0)], 1)
            levels = torch.cat([levels, torch.where(known, level, 0)], 1)
            weights.append(torch.zeros_like(level[:, 0]))
            point = nearest(origin, normals, levels, weights, boundary.bounds)
        if laps <= left:
            ray(boundary, found, point, 3)
        return min(laps, left)

    return stage


def nearest(
    origin: Tensor,
    normals: Tensor,
    levels: Tensor,
    weights: list[Tensor],
    bounds: tuple[float, float] | None,
    sweeps: int = 6,
) -> Tensor:
    """The nearest points (n, m) to `origin` in the box with ⟨normal_j, p⟩ ≥ level_j for normals (n, s, m).

    Newton's ascent on the dual, one multiplier after the other. It begins at the `weights`, s of (n,), and leaves those
    of its end there.
    """
    normal, level = normals.unbind(1), levels.unbind(1)

    def clip(points: Tensor) -> Tensor:
        return points if bounds is None else points.clamp(*bounds)

    for j in list(range(len(weights))) * sweeps:
        point = origin + (torch.stack(weights, 1)[:, None] @ normals)[:, 0]
        inside = clip(point)
        # What the box holds does not move.
        slope = (normal[j].square() * (inside == point)).sum(1)
        step = (level[j] - (normal[j] * inside).sum(1)) / slope
        weights[j] = torch.where(slope > 0, (weights[j] + step).clamp(min=0), weights[j])
    return clip(origin + (torch.stack(weights, 1)[:, None] @ normals)[:, 0])


def explore(laps: int, *, noise: float = 0.0, seed: int = 0) -> Stage:
    """Normalised gradient steps on a sphere whose radius shrinks while the point is fooled and grows while it is not.

    It begins at the best point, moved by `noise` times its distance in a random direction, and leaves poor minima.
    """

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        origin, point, radius = boundary.origin, found.point, found.reach()
        scale = radius
        if noise:
            point = boundary.clip(point + noise * radius[:, None] * directions(point, 1, seed))
        for lap in range(min(laps, left)):
            _, over, gradient, _ = boundary.gradient(point, boundary.every)
            found.offer(point, over)
            # The cosine falls from a bold first step to a fine last one; the sphere grows fast until a point is fooled.
            rate = 0.3 * (1 + math.cos(math.pi * lap / laps)) + 0.01
            grown = torch.where(found.radius.isfinite(), 1.05 * radius, 1.3 * radius)
            radius = torch.where(over, 0.95 * torch.minimum(radius, found.radius), grown)
            moved = point - origin + (rate * scale)[:, None] * steepest(gradient[:, 0])
            point = boundary.clip(origin + radius[:, None] * normalize(moved, dim=1))
        if laps <= left:
            ray(boundary, found, found.point, 3)
        return min(laps, left)

    return stage


def scatter(count: int, keep: int, *, seed: int) -> Stage:
    """Points all over the ball in which a nearer one must lie; from the most promising, the boundaries nearby.

    In few dimensions a handful of points sees what no gradient at the clean point tells of.
    """

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        origin, every = boundary.origin, boundary.every
        pair = torch.arange(count, dtype=origin.dtype, device=origin.device).div(2, rounding_mode="floor")
        # The golden ratio spreads them evenly; in more dimensions more of the ball is far out.
        inside = ((pair + 1) * (math.sqrt(5) - 1) / 2).remainder(1) ** (1 / max(1, origin.shape[1] / 2))
        # Without a fooled point yet, there is no ball: then farther and farther.
        beyond = 2 ** (pair.remainder(8) - 1)
        share = torch.where(found.radius.isfinite()[:, None], inside, beyond) * found.reach()[:, None]
        points = boundary.clip(origin[:, None] + share[..., None] * directions(origin, count, seed))
        height = _look(boundary, found, points)
        # What is not over the boundary, but high, has one nearby.
        high = height.masked_fill(height > 0, -torch.inf).topk(min(keep, count, left), dim=1).indices
        for chosen in high.unbind(1):
            point = points[every, chosen]
            value, over, gradient, _ = boundary.gradient(point, every)
            found.offer(point, over)
            point = aimed(boundary, *linearised(value, gradient, point[:, None]))[:, 0]
            found.offer(point, boundary.height(point, every) > 0)
        return high.shape[1]

    return stage


def around(count: int, *, seed: int) -> Stage:
    """Points a little nearer than the best one, in directions near to its own and farther and farther from it.

    It takes no gradient: where linear pieces meet, no single one says where the boundary comes nearer.
    """
    angles, shares = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2), (0.9, 0.97, 0.995)
    plan = list(itertools.islice(itertools.cycle(itertools.product(shares, angles)), (count + 1) // 2))

    def stage(boundary: Boundary, found: Found, left: int) -> int:
        # Directions come in opposite pairs.
        share, angle = boundary.origin.new_tensor(plan).repeat_interleave(2, 0)[:count].unbind(1)
        way = normalize(found.point - boundary.origin, dim=1)[:, None]
        way = normalize(way + angle[:, None] * directions(boundary.origin, count, seed), dim=2)
        length = share * found.reach()[:, None]
        _look(boundary, found, boundary.clip(boundary.origin[:, None] + length[..., None] * way))
        return 0

    return stage


def _look(boundary: Boundary, found: Found, points: Tensor) -> Tensor:
    """The heights (n, s) of points (n, s, m), the best of which is taken, and the boundary on its ray."""
    count = points.shape[1]
    height = boundary.height(points.flatten(0, 1), boundary.every.repeat_interleave(count)).view(-1, count)
    found.offer_many(points, height > 0)
    ray(boundary, found, found.point, 3)
    return height


def ray(boundary: Boundary, found: Found, towards: Tensor, evaluations: int, only: Tensor | None = None) -> None:
    """Where the rays from the clean points through `towards` (n, m) meet the boundary, by regula falsi."""
    origin, way, clean = boundary.origin, towards - boundary.origin, found.clean_height[:, 0]
    low, under = torch.zeros_like(clean), clean
    high, over, fraction = low + torch.inf, low + torch.inf, low + 1
    for _ in range(evaluations):
        point = boundary.clip(origin + fraction[:, None] * way)
        height = boundary.height(point, boundary.every)
        crossed, bracketed = height > 0, high.isfinite()
        found.offer(point, crossed if only is None else crossed & only)
        # The Illinois rule: an end that stays counts half, so that both ends close in.
        over, under = (
            torch.where(crossed, height, torch.where(bracketed, over / 2, over)),
            torch.where(crossed, torch.where(bracketed, under / 2, under), height),
        )
        high, low = torch.where(crossed, fraction, high), torch.where(crossed, low, fraction)
        inside = low + (high - low) * (under / (under - over)).nan_to_num(0.5).clamp(0.01, 0.99)
        # A little beyond it: a flat boundary is then met from the other side at once.
        inside = torch.minimum((1 + 2e-6) * inside, high)
        # Nothing over the boundary yet: as far as the slope so far says, and not more than three times as far.
        slope = (height - clean) / fraction
        outside = torch.minimum(torch.maximum((-1.02 * clean / slope).nan_to_num(0.0), 1.05 * low), 3 * low)
        fraction = torch.where(high.isfinite(), inside, outside)


def linearised(height: Tensor, gradient: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (n, s, m) and levels (n, s) of the boundaries ⟨normal, p⟩ = level, as seen from points (n, s, m)."""
    normal = steepest(gradient)
    length = torch.where(vanished(gradient), torch.inf, gradient.norm(dim=-1))
    return normal, (normal * point).sum(2) - height / length


def aimed(boundary: Boundary, normal: Tensor, level: Tensor, beyond: float = 1e-3) -> Tensor:
    """The nearest points to the clean ones beyond the linearised boundaries (n, s), farther by the share `beyond`."""
    clean = boundary.origin[:, None].expand_as(normal)
    missing = level - (normal * clean).sum(2)
    level = level + beyond * missing.abs()
    point = project(clean.flatten(0, 1), normal.flatten(0, 1), level.flatten(), boundary.bounds).view_as(normal)
    # A class of logit -inf has no boundary to aim at.
    return torch.where(point.isfinite().all(2, keepdim=True), point, clean)


def project(x: Tensor, normal: Tensor, level: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """The nearest point to `x` in the box with ⟨normal, p⟩ ≥ level: clip(x + λ normal) for the least such λ ≥ 0."""
    missing = (level - (normal * x).sum(1)).clamp(min=0)
    step = missing / normal.square().sum(1)
    if bounds is None:
        return x + step[:, None] * normal
    # ⟨normal, clip(x + λ normal)⟩ grows with λ, concave and piecewise linear: Newton from the left never overshoots.
    low, high = bounds
    for _ in range(8):
        free = x + step[:, None] * normal
        short = level - (normal * free.clamp(low, high)).sum(1)
        slope = (normal.square() * ((free > low) & (free < high))).sum(1)
        step = torch.where((short > 1e-6 * missing) & (slope > 0), step + short / slope, step)
    return (x + step[:, None] * normal).clamp(low, high)


def steepest(gradient: Tensor) -> Tensor:
    """Unit vectors along the gradients (…, m); where those vanish, one fixed direction, the same in every batch."""
    unit = normalize(gradient, dim=-1, eps=torch.finfo(gradient.dtype).tiny)
    return torch.where(vanished(gradient)[..., None], directions(gradient, 1, 0)[0], unit)


def vanished(gradient: Tensor) -> Tensor:
    """Which gradients (…,) are zero or not finite."""
    length = gradient.norm(dim=-1)
    return ~length.isfinite() | (length < 1e3 * torch.finfo(gradient.dtype).tiny)


def directions(like: Tensor, count: int, seed: int) -> Tensor:
    """Random unit vectors (count, m), every second one opposite to the one before; the same on every device."""
    draws = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(count, like.shape[-1], generator=draws, dtype=torch.float64, device="cpu")
    drawn[1::2] = -drawn[0 : count - 1 : 2]
    return normalize(drawn, dim=1).to(like)
