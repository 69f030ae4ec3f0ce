"""The minimal-norm attack of this package: the smallest perturbation in L2 that changes the label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from companion import _validation as check
from companion._calls import Guarded, full_precision, guarded, working
from companion._types import Box, Model, Numbers
from companion.attacks.boundary import Boundary, Found, into_ball
from companion.attacks.stages import Stage, around, corner, explore, follow, opening, race, scatter

# Up to so many dimensions points scattered over a ball see something of it.
_FEW_DIMENSIONS = 32


def minimal_l2(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    steps: int = 100,
    bounds: Box | None = None,
    start: Numbers | None = None,
    metric: Numbers | None = None,
) -> Tensor:
    """The smallest L2 perturbation that changes the label, as far as it is found within `steps` gradients.

    One fixed sequence of searches, which `steps` only cuts off, so that more steps never give a longer perturbation:
    the boundaries to the likeliest classes are followed side by side and the farther ones given up (race), the best
    point is followed along its boundary (follow) and moved on a sphere whose radius adapts to the verdict (explore);
    in up to 32 dimensions, points all over the ball in which a nearer one must lie (scatter) and around the best one
    (around) are tried before, and the linear pieces that meet near it are seen at once (corner).

    The search computes in full precision: float32 without TF32 or autocast, float64 where the classifier does. What it
    found is classified again as the caller would: under the caller's own settings, in two batches, and some rows alone.
    A point that does not hold, or holds by less than twice the rounding seen between these, is pushed out along its
    ray until it does.

    A gradient is one forward and one backward pass. Beside them it takes forward passes: with steps = 10 about 5 for
    each row, with 100 about 20; in up to 32 dimensions, where they are cheap, about 30 to 50 and 900.

    Args:
        classifier: (n, *image) -> (n, K) logits, differentiable.
        x: (n, *image) images.
        y: (n,) their labels; a row is fooled once it is classified otherwise.
        steps: gradient evaluations per row.
        bounds: None, or the pixel box (low, high) that holds `x` and the result.
        start: None, or (n, *image) points; those that are adversarial are improved on, the others ignored.
        metric: None, or (n, m, m) positive definite matrices M for images of m numbers: the perturbation r is then the
            smallest in √(rᵀMr), not in L2. A row whose M is not positive definite is given up. Goes without `bounds`.

    Returns:
        (n, *image) adversarial images in the classifier's precision; rows that were not fooled come back unchanged.

    Raises:
        ValueError: for shapes that do not fit, NaN, a classifier in training mode, without gradients, random, or
            that lets the rows of a batch hang together; `bounds` beside a `metric`.

    Source: own combination; linearised boundaries after Moosavi-Dezfooli et al. (2016), halving of candidates after
    Karnin et al. (2013), averaged linearisations after Nesterov (2009), sphere of adaptive radius after Rony et al.
    (2019), projection on the linearised boundary in the box after Croce & Hein (2020).
    """
    x, y, box, steps, start, metric = checked(x, y, bounds, steps, start, metric)
    if not len(x):
        return x.clone()
    with guarded("classifier", classifier, x) as (call, x):
        check_labels(call, x, y)
        start = None if start is None else start.to(x)
        metric = None if metric is None else metric.to(x)
        return attack(call, x, y, steps=steps, bounds=box, start=start, metric=metric)


def checked(
    x: Numbers, y: Numbers, bounds: Box | None, steps: int, start: Numbers | None, metric: Numbers | None
) -> tuple[Tensor, Tensor, tuple[float, float] | None, int, Tensor | None, Tensor | None]:
    """The arguments of `minimal_l2`, each checked against the others."""
    x = check.images("x", x).detach()
    y, box, steps = check.labels("y", y, x), check.box("bounds", bounds, x), check.integer("steps", steps, minimum=1)
    if start is not None:
        start = check.tensor("start", start)
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
    if metric is not None:
        metric, size = check.tensor("metric", metric), math.prod(x.shape[1:])
        if metric.shape != (len(x), size, size):
            raise ValueError(
                f"metric must have shape (n, m, m) = {(len(x), size, size)} for x of shape {tuple(x.shape)}, "
                f"got {tuple(metric.shape)}"
            )
        if box is not None:
            raise ValueError(f"bounds must be None beside a metric, got {bounds}")
    return x, y, box, steps, start, metric


def check_labels(call: Guarded, x: Tensor, y: Tensor) -> None:
    classes = call.of(x[:1], torch.zeros_like(y[:1])).shape[1]
    if (y >= classes).any():
        wrong = int(torch.nonzero(y >= classes)[0])
        raise ValueError(f"y must hold labels below K = {classes}, got {int(y[wrong])} in row {wrong}")


def attack(
    call: Guarded,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    bounds: tuple[float, float] | None = None,
    start: Tensor | None = None,
    metric: Tensor | None = None,
    rows: Tensor | None = None,
    own: bool = False,
) -> Tensor:
    """`minimal_l2` on checked arguments: search in full precision, then what holds under the caller's settings.

    `rows` (n,) are those of the rows that `call` knows; `own` says that `y` are the classifier's own labels.
    """
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    with full_precision(x.device):
        metric = None if metric is None else working(metric)
        boundary = Boundary(call, working(x), y, bounds=bounds, metric=metric, rows=rows)
        start = None if start is None else boundary.coordinates(working(start).flatten(1))
        found = search(boundary, steps, start)
        point = boundary.images(found.point, boundary.every).to(x.dtype)
        if not own:
            fooled = found.clean_logits.argmax(1) != y
            point = torch.where(_per_row(fooled, x), x, point)
    return settle(call, x, y, point, rows=rows, bounds=bounds)


def search(boundary: Boundary, steps: int, start: Tensor | None = None) -> Found:
    """What the first `steps` gradients find; coordinates `start` (n, m) that are fooled are improved on."""
    found, left = Found(boundary), steps
    if start is not None:
        start = boundary.clip(start)
        found.offer(start, boundary.height(start, boundary.every) > 0)
    for stage in _stages(boundary.origin.shape[1] <= _FEW_DIMENSIONS, start is not None):
        left -= stage(boundary, found, left)
        if left <= 0:
            break
    return found


def _stages(few_dimensions: bool, started: bool) -> Iterator[Stage]:
    """The searches in their order, without end."""
    yield opening
    if started:
        yield follow(4)
    yield race(4, (2, 2), (1, 1))
    if few_dimensions:
        yield scatter(16, 8, seed=0)
        yield corner(6)
        yield scatter(200, 6, seed=1)
        yield scatter(200, 6, seed=2)
        for seed, noise in enumerate((0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.1, 0.1, 0.2)):
            yield around(36, seed=seed)
            yield corner(6, noise=noise, seed=seed)
    else:
        yield race(9, (3, 2), (1, 1))
        yield follow(8)
        yield race(3, (3, 6), (1, 4))
        yield explore(30)
        yield follow(18)
    for seed in itertools.count(4):
        if seed % 4 == 0:
            yield race(9, (9, 4), (4, 6), (2, 5))
        if few_dimensions:
            yield scatter(200, 8, seed=seed)
            yield corner(8)
            yield around(60, seed=seed)
            yield corner(8, noise=0.2, seed=seed)
        yield explore(60, noise=0.5, seed=seed)
        yield follow(10)


# Rows that are classified alone at the end, and how often a push is doubled or halved.
_ALONE, _PUSHES = 8, 28


def settle(
    call: Guarded,
    x: Tensor,
    y: Tensor,
    found: Tensor,
    *,
    rows: Tensor,
    bounds: tuple[float, float] | None = None,
    max_norm: float | None = None,
) -> Tensor:
    """The points `found` (n, *image) where they hold, else a little farther along their rays, or `x` if none does.

    To hold is to be classified otherwise than `y` under the settings of the caller, in this batch and in another one,
    by more than the rounding that was seen: twice the largest difference between the two, and to some rows alone.
    """
    holds, rounding = _holds(call, y, found, rows)
    lost = torch.nonzero((found != x).flatten(1).any(1) & ~holds)[:, 0]
    if not len(lost):
        return found
    at, label, where = working(x[lost]), y[lost], rows[lost]
    way, low = working(found[lost]) - at, torch.zeros(len(lost), dtype=at.dtype, device=x.device)
    high, push = torch.full_like(low, torch.inf), torch.full_like(low, 16 * torch.finfo(x.dtype).eps)

    def pushed(share: Tensor) -> Tensor:
        point = at + (1 + _per_row(share, at)) * way
        point = point if bounds is None else point.clamp(*bounds)
        return (point if max_norm is None else into_ball(point, max_norm)).to(x.dtype)

    # A row goes on being halved while others are doubled.
    for _ in range(_PUSHES):
        good = _holds(call, label, pushed(push), where, rounding)[0]
        high, low = torch.where(good, push, high), torch.where(good, low, push)
        done = high.isfinite()
        push = torch.where(done, (low + high) / 2, 2 * push)
    point = torch.where(_per_row(done, at), pushed(torch.where(done, high, low)), x[lost])
    return found.index_copy(0, lost, point)


def _holds(
    call: Guarded, y: Tensor, points: Tensor, rows: Tensor, known: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Which points (n,) are classified otherwise than `y` by more than the rounding, and how large that is."""
    whole = _margin(call.of(points, rows), y)
    half = (len(points) + 1) // 2
    back, labels, where = points.flip(0), y.flip(0), rows.flip(0)
    parts = [_margin(call.of(p, r), k) for p, r, k in zip(*(c.split(half) for c in (back, where, labels)), strict=True)]
    other = torch.cat(parts).flip(0)
    some = range(0, len(points), max(1, len(points) // _ALONE))
    alone = [(_margin(call.of(points[i : i + 1], rows[i : i + 1]), y[i : i + 1]) - whole[i]).abs().amax() for i in some]
    seen = torch.stack([(whole - other).abs().nan_to_num().amax(), *alone]).nan_to_num().amax()
    rounding = (2 * seen).clamp(min=known)
    return torch.minimum(whole, other) > rounding, rounding


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    own = y[:, None]
    return (logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]).to(torch.float64)


def _per_row(value: Tensor, like: Tensor) -> Tensor:
    """`value` (n,), shaped to go with the rows of `like`."""
    return value.reshape(-1, *[1] * (like.ndim - 1))
