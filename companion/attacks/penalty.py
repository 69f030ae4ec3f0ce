"""The first attack: smallest distance and misclassification traded off by a penalty, with box-constrained L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from companion import _validation as check
from companion._calls import guarded
from companion._types import Box, Model, Numbers
from companion.attacks.margin import checked, misclassified, require_gradient
from companion.attacks.sign import reached

# Pairs of steps and gradient changes that L-BFGS remembers.
_MEMORY = 8
# Times a step is halved before it is given up.
_HALVINGS = 8


def lbfgs(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    searches: int = 12,
    steps: int = 40,
    initial_c: float = 1.0,
    bounds: Box | None = None,
    targeted: bool = False,
) -> Tensor:
    """The attack of Szegedy et al.: minimise ‖r‖² + c · loss(x + r) in the box, for the least c that fools.

    Each row has its own c, found by bisection (after growing or shrinking tenfold until one c fools and another
    does not); all rows advance together through one batched L-BFGS. The loss is the cross-entropy to the target;
    untargeted, to the event "any class but y", log Σ exp(logits) − log Σ_{j≠y} exp(logit_j). Of all adversarial points
    met, the one nearest in L2 is returned.

    Args:
        classifier: (n, *image) -> (n, K) logits, differentiable.
        x: (n, *image) images.
        y: (n,) their labels, or with `targeted` the labels to reach.
        searches: values of c that are tried.
        steps: most iterations of L-BFGS for each c; an iteration takes one gradient or a few.
        initial_c: the first c; positive.
        bounds: None, or the pixel box (low, high).
        targeted: reach the labels `y`, as in the paper.

    Returns:
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Raises:
        ValueError: for shapes that do not fit, NaN, a classifier in training mode or without gradients.

    Source: Szegedy et al. (2014), section 4.1; c multiplies the loss as in Carlini & Wagner (2017), which is the
        reciprocal of the original's. Projection on the box: Bertsekas (1982); limited memory: Liu & Nocedal (1989).
    """
    x, y, bounds = checked(classifier, x, y, bounds)
    searches, steps = check.integer("searches", searches, minimum=1), check.integer("steps", steps, minimum=1)
    c_start = check.positive("initial_c", initial_c)
    with guarded("classifier", classifier, x, trusted=True) as (classifier, x):
        return _search(classifier, x, y, searches, steps, c_start, bounds, targeted)


def _search(
    classifier: Model,
    x: Tensor,
    y: Tensor,
    searches: int,
    steps: int,
    c_start: float,
    bounds: tuple[float, float] | None,
    targeted: bool,
) -> Tensor:
    result = x.clone()
    rows = torch.nonzero(~(misclassified(classifier, x, y) ^ bool(targeted)))[:, 0]
    if not len(rows):
        return result
    origin, label = x[rows].flatten(1), y[rows]
    best, best_radius = origin.clone(), torch.full_like(origin[:, 0], torch.inf)
    low, high = torch.zeros_like(best_radius), torch.full_like(best_radius, torch.inf)
    c = torch.full_like(best_radius, c_start)

    def objective(points: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """‖r‖² + c loss of the rows `part` and its gradient; adversarial points are noted in passing."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = classifier(points.reshape(-1, *x.shape[1:]))
            radius = (points - origin[part]).square().sum(1)
            loss = _miss(logits, label[part], targeted)
            require_gradient(loss)
            value = radius + c[part] * loss
            (gradient,) = torch.autograd.grad(value.sum(), points)
        radius = radius.detach().sqrt()
        nearer = reached(logits.detach(), label[part], targeted=targeted) & (radius < best_radius[part])
        best[part[nearer]], best_radius[part[nearer]] = points.detach()[nearer], radius[nearer]
        return value.detach(), gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    for _ in range(searches):
        end = minimise(objective, origin, steps=steps, bounds=bounds)
        with torch.no_grad():
            won = reached(classifier(end.reshape(-1, *x.shape[1:])), label, targeted=targeted)
        low, high = torch.where(won, low, c), torch.where(won, c, high)
        c = torch.where(high.isinf(), 10 * c, torch.where(low == 0, c / 10, (low * high).sqrt()))
    result[rows] = best.reshape(-1, *x.shape[1:])
    return result


def minimise(
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    *,
    steps: int,
    bounds: tuple[float, float] | None = None,
    tolerance: float = 1e-2,
) -> Tensor:
    """Local minima of n functions in a box, by L-BFGS on all of them at once.

    A pixel at its bound whose derivative points outwards is held; the quasi-Newton step is taken in the others,
    clipped to the box, and halved until the function has fallen enough.

    Args:
        objective: (k, m) points and their (k,) row numbers -> (k,) values and (k, m) gradients.
        start: (n, m) points in the box.
        steps: most steps a row.
        bounds: None, or (low, high).
        tolerance: a row is done when a step is shorter than this share of the way from its start.

    Returns:
        (n, m) points, none with a larger value than its start.
    """
    low, high = (-torch.inf, torch.inf) if bounds is None else bounds
    rows, point = torch.arange(len(start), device=start.device), start.clone()
    value, gradient = objective(point, rows)
    moves: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(steps):
        held = ((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0))
        slope = gradient.masked_fill(held, 0.0)
        step = _quasi_newton(slope[rows], ~held[rows], [m[rows] for m in moves], [g[rows] for g in changes])
        before, old_value, old_gradient = point.clone(), value.clone(), gradient.clone()
        trying, length = torch.arange(len(rows), device=rows.device), 1.0
        for _ in range(_HALVINGS):
            part = rows[trying]
            trial = (before[part] + length * step[trying]).clamp(low, high)
            new_value, new_gradient = objective(trial, part)
            promised = (old_gradient[part] * (trial - before[part])).sum(1)
            fallen = new_value <= old_value[part] + 1e-4 * promised
            point[part[fallen]], value[part[fallen]] = trial[fallen], new_value[fallen]
            gradient[part[fallen]] = new_gradient[fallen]
            trying, length = trying[~fallen], length / 2
            if not len(trying):
                break
        # A row that no step improves has not moved, and is done as well.
        rows = rows[(point - before)[rows].norm(dim=1) > tolerance * (point - start)[rows].norm(dim=1)]
        if not len(rows):
            break
        moves = [*moves, point - before][-_MEMORY:]
        changes = [*changes, gradient - old_gradient][-_MEMORY:]
    return point


def _quasi_newton(slope: Tensor, free: Tensor, moves: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Minus the approximate inverse Hessian, made of past moves and gradient changes, times the slope."""
    direction, scale, memory = slope, None, []
    for move, change in zip(reversed(moves), reversed(changes), strict=True):
        move, change = move * free, change * free
        bend = (move * change).sum(1, keepdim=True)
        # Only what curves upwards is remembered.
        good = bend > 1e-8 * move.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        inverse = torch.where(good, 1 / torch.where(good, bend, 1.0), 0.0)
        weight = inverse * (move * direction).sum(1, keepdim=True)
        direction = direction - weight * change
        memory.append((move, change, inverse, weight))
        newest = torch.where(good, bend / change.square().sum(1, keepdim=True), 0.0)
        scale = newest if scale is None else torch.where(scale > 0, scale, newest)
    # Without memory the first step is as long as a curvature of 2, that of ‖r‖², asks for.
    direction = direction * (0.5 if scale is None else torch.where(scale > 0, scale, 0.5))
    for move, change, inverse, weight in reversed(memory):
        direction = direction + move * (weight - inverse * (change * direction).sum(1, keepdim=True))
    direction = direction * free
    downhill = (direction * slope).sum(1, keepdim=True) > 0
    return -torch.where(downhill, direction, 0.5 * slope)


def _miss(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Minus the log-probability (n,) of the target, or of "not y"; it has a gradient also where y is certain."""
    own = y[:, None]
    wanted = logits.gather(1, own)[:, 0] if targeted else logits.scatter(1, own, -torch.inf).logsumexp(1)
    return logits.logsumexp(1) - wanted
