"""Minimal-norm attacks: the smallest perturbation in L2 that changes the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from companion import _validation as check
from companion.attacks.margin import fooled, margin, margin_and_gradient, require_gradient, slack


def deepfool(classifier, x, y, *, steps: int = 50, overshoot: float = 0.02, bounds=None) -> Tensor:
    """DeepFool: step to the nearest boundary of the linearised classifier until the label changes.

    Args:
        classifier: (n, *image) -> (n, K) logits.
        x: (n, *image) images.
        y: (n,) their labels; a row is fooled once it is classified otherwise.
        steps: most linearisations per row; each costs K gradients.
        overshoot: the perturbation is lengthened by this factor, to land beyond the boundary.
        bounds: None, or the pixel box (low, high).

    Returns:
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Source: Moosavi-Dezfooli et al. (2016), algorithm 2.
    """
    x, y, bounds = _checked(classifier, x, y, bounds)
    steps = check.integer("steps", steps, minimum=1)
    overshoot = check.tensor("overshoot", overshoot, minimum=0.0).item()
    result = x.clone()
    rows = torch.nonzero(~_misclassified(classifier, x, y))[:, 0]
    total = torch.zeros_like(x[rows])
    for _ in range(steps):
        if not len(rows):
            break
        origin, label = x[rows], y[rows]
        point = _clip(origin + (1 + overshoot) * total, bounds)
        logits, gradients = _logits_and_gradients(classifier, point)
        gap = logits - logits.gather(1, label[:, None])
        normal = gradients - gradients.gather(1, label[:, None, None].expand(-1, 1, gradients.shape[2]))
        length = normal.norm(dim=2)
        distance = (gap.abs() + slack(logits)[:, None]) / length
        distance = distance.scatter(1, label[:, None], torch.inf).nan_to_num(nan=torch.inf)
        nearest, target = distance.min(1)
        direction = normal[torch.arange(len(rows)), target] / length.gather(1, target[:, None])
        step = torch.where(nearest.isfinite()[:, None], nearest[:, None] * direction, 0.0)
        total = total + step.reshape(total.shape)
        point = _clip(origin + (1 + overshoot) * total, bounds)
        done = fooled(classifier, point, label)
        result[rows[done]] = point[done]
        # A row without any gradient cannot move: it is given up.
        going = ~done & nearest.isfinite()
        rows, total = rows[going], total[going]
    return result


def minimal_l2(classifier, x, y, *, steps: int = 100, bounds=None, start=None) -> Tensor:
    """The smallest L2 perturbation that changes the label, to within the local search it is.

    Three phases share `steps` gradients. *Reach*: trust-region Newton steps on the margin, so that a curved classifier
    is followed to its first boundary. *Explore*: normalised gradient steps on a sphere whose radius shrinks while the
    point is adversarial and grows while not, which leaves poor local minima. *Refine*: the clean point is projected,
    inside the box, on the linearised boundary at the best point found, and the result pulled back to the boundary: a
    fixed point satisfies the optimality conditions. The best point is kept throughout, and at last moved along its
    ray to within 1e-6 (relative) of the boundary. No row depends on the others of its batch.

    Args:
        classifier: (n, *image) -> (n, K) logits, differentiable.
        x: (n, *image) images.
        y: (n,) their labels; a row is fooled once it is classified otherwise.
        steps: gradient evaluations per row.
        bounds: None, or the pixel box (low, high) that holds `x` and the result.
        start: None, or (n, *image) points; those that are adversarial are improved on, the others ignored.

    Returns:
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Raises:
        ValueError: for shapes that do not fit, NaN, a classifier in training mode or without gradients.

    Source: own combination; trust region on the margin after Moosavi-Dezfooli et al. (2016), sphere of adaptive
    radius after Rony et al. (2019), projection on the linearised boundary in the box after Croce & Hein (2020).
    """
    x, y, bounds = _checked(classifier, x, y, bounds)
    steps = check.integer("steps", steps, minimum=1)
    if start is not None:
        start = check.tensor("start", start)
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
        start = _clip(start.to(x), bounds).flatten(1)
    result = x.clone()
    rows = torch.nonzero(~_misclassified(classifier, x, y))[:, 0]
    if not len(rows):
        return result
    shape, logits_count = x.shape[1:], classifier(x[:1]).shape[1]

    def flat_classifier(points: Tensor) -> Tensor:
        return classifier(points.reshape(-1, *shape))

    origin, label = x[rows].flatten(1), y[rows]
    # Classes compete only where the budget leaves something for them: one gradient a class, three a candidate.
    rivals = min(_RIVALS, steps // 8, logits_count - 1) if steps >= 16 else 0
    candidates = min(_CANDIDATES, rivals)
    left = steps - rivals - 3 * candidates
    best, spent = _reach(flat_classifier, origin, label, left, bounds)
    left = left - spent
    if start is not None:
        best = _nearer(flat_classifier, origin, label, best, start[rows])
    if rivals:
        best = _compete(flat_classifier, origin, label, best, rivals, candidates, bounds)
    best = _pull(flat_classifier, origin, label, best, 12)
    # Refined before as well as after, so that exploring leaves a good minimum only for a better one.
    best = _refine(flat_classifier, origin, label, best, left // 4, bounds)
    best = _explore(flat_classifier, origin, label, best, left // 2, bounds)
    best = _refine(flat_classifier, origin, label, best, left - left // 2 - left // 4, bounds)
    best = _pull(flat_classifier, origin, label, best, 20)
    result[rows] = best.reshape(-1, *shape)
    return result


# Classes whose boundaries are compared at the clean point, and how many of the nearest are followed.
_RIVALS, _CANDIDATES = 9, 3


def _compete(classifier, origin: Tensor, y: Tensor, best: Tensor, rivals: int, candidates: int, bounds) -> Tensor:
    """The nearest of `best` and points over the boundaries to other classes, each followed from the clean point.

    Which class is nearest is not which has the largest logit: the linearised distance decides which are followed.
    """
    with torch.no_grad():
        logits = classifier(origin)
    order = logits.scatter(1, y[:, None], -torch.inf).topk(rivals, dim=1).indices
    points, distances = [], []
    for target in order.T:
        value, normal = _towards(classifier, origin, y, target)
        point = _project(origin, normal, (normal * origin).sum(1) - value, bounds)
        distance = (point - origin).norm(dim=1)
        # A boundary that the box hides is nobody's nearest.
        reached = (normal * (point - origin)).sum(1) >= -value * (1 - 1e-3)
        points.append(point)
        distances.append(torch.where(reached, distance, torch.inf))
    nearest = torch.stack(distances, 1).topk(candidates, dim=1, largest=False).indices
    points = torch.stack(points, 1)
    every = torch.arange(len(origin), device=origin.device)
    for choice in nearest.T:
        target, point = order[every, choice], points[every, choice]
        for _ in range(3):
            value, normal = _towards(classifier, point, y, target)
            aim = 1e-4 * (point - origin).norm(dim=1) * normal.norm(dim=1)
            point = _project(origin, normal, (normal * point).sum(1) - value + aim, bounds)
            best = _nearer(classifier, origin, y, best, point)
            # A boundary bent away is met a little farther along the ray.
            best = _nearer(classifier, origin, y, best, _clip(origin + 1.05 * (point - origin), bounds))
    return best


def _towards(classifier, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of class `target` less that of class `y` (n,), and its gradient (n, pixels)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        value = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
        require_gradient(value)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), _escape(gradient)


# Newton steps after which a row that is not over the boundary is left to `_explore`.
_REACH = 30


def _reach(classifier, origin: Tensor, y: Tensor, steps: int, bounds) -> tuple[Tensor, Tensor]:
    """Newton steps on the margin: for each row a point over the boundary, or `origin`, and the gradients it took.

    A step is taken only where the margin along it follows its linear prediction within a factor of two, at a
    sixteenth, an eighth, a quarter, a half and all of it; else an eighth of it is tried.
    """
    result, point = origin.clone(), origin.clone()
    spent = torch.full_like(y, min(steps, _REACH))
    rows = torch.arange(len(origin), device=origin.device)
    fractions = (0.0625, 0.125, 0.25, 0.5, 1.0)
    for iteration in range(min(steps, _REACH)):
        if not len(rows):
            break
        last = iteration == min(steps, _REACH) - 1
        if last:
            # No gradient is left: whatever is over the boundary in this direction will do.
            fractions = (0.5, 1.0, 2.0, 4.0, 16.0)
        label = y[rows]
        before, _, gradient = margin_and_gradient(classifier, point, label)
        flat = _vanished(gradient)
        gradient = _escape(gradient)
        # On a flat spot nothing can be predicted: leave it along the escape direction, farther every time.
        reach = before.abs() * torch.where(flat, 2.0**iteration, 1.05)
        step = _project(point, gradient, (gradient * point).sum(1) + reach, bounds) - point
        trying = torch.arange(len(rows), device=origin.device)
        for trial in range(12):
            # An eighth of the step for each trial, and fractions of that.
            there = torch.stack([_clip(point[trying] + f * 8.0**-trial * step[trying], bounds) for f in fractions])
            with torch.no_grad():
                logits = [classifier(p) for p in there]
            margins = torch.stack([margin(out, label[trying]) for out in logits])
            over = torch.stack([m > slack(out) for m, out in zip(margins, logits, strict=True)])
            predicted = torch.einsum("fnm,nm->fn", there - point[trying], gradient[trying])
            gains = (margins - before[trying]) / predicted
            trusted = ((gains > 0.5) & (gains < 2)).all(0) | flat[trying] | last | (trial == 11)
            landed = torch.where(over.any(0), over.int().argmax(0), len(fractions) - 1)
            chosen = there[landed, torch.arange(len(trying), device=origin.device)]
            point[trying[trusted]] = chosen[trusted]
            crossed = trusted & over.any(0)
            result[rows[trying[crossed]]] = chosen[crossed]
            spent[rows[trying[crossed]]] = iteration + 1
            trying = trying[~trusted]
            if not len(trying):
                break
        going = (result[rows] == origin[rows]).all(1)
        rows, point = rows[going], point[going]
    return result, spent


def _explore(classifier, origin: Tensor, y: Tensor, best: Tensor, steps: Tensor, bounds) -> Tensor:
    """Normalised margin steps on a sphere around the clean point whose radius adapts to the verdict."""
    best, point = best.clone(), best.clone()
    best_radius = (best - origin).norm(dim=1)
    found = best_radius > 0
    # Rows without an adversarial point yet start at the predicted distance, and grow fast until they have one.
    value, _, gradient = margin_and_gradient(classifier, origin, y)
    radius = torch.where(found, best_radius, value.abs() / _escape(gradient).norm(dim=1))
    scale, best_radius = radius.clone(), torch.where(found, best_radius, torch.inf)
    for iteration in range(int(steps.max())):
        rows = torch.nonzero(iteration < steps)[:, 0]
        clean, label, at = origin[rows], y[rows], point[rows]
        _, over, gradient = margin_and_gradient(classifier, at, label)
        distance = (at - clean).norm(dim=1)
        better = over & (distance < best_radius[rows])
        best[rows[better]], best_radius[rows[better]] = at[better], distance[better]
        # The cosine falls from a bold first step, 0.6 of the first radius, to a fine last one.
        rate = 0.3 * (1 + torch.cos(math.pi * iteration / steps[rows])) + 0.01
        growth = torch.where(best_radius[rows].isfinite(), 1.05, 1.3)
        shrunk = 0.95 * torch.minimum(radius[rows], best_radius[rows])
        radius[rows] = torch.where(over, shrunk, growth * radius[rows])
        moved = at - clean + (rate * scale[rows])[:, None] * normalize(_escape(gradient), dim=1)
        point[rows] = _clip(clean + radius[rows, None] * normalize(moved, dim=1), bounds)
    return _nearer(classifier, origin, y, best, point)


def _refine(classifier, origin: Tensor, y: Tensor, best: Tensor, steps: Tensor, bounds) -> Tensor:
    """Projections on the linearised boundary, each pulled back to the boundary, until a row no longer improves."""
    best = best.clone()
    rows = torch.arange(len(best), device=best.device)
    step = torch.ones(len(best), dtype=best.dtype, device=best.device)
    for iteration in range(int(steps.max())):
        rows = rows[(step[rows] > 1e-3) & (iteration < steps[rows])]
        if not len(rows):
            break
        clean, label, point = origin[rows], y[rows], best[rows]
        value, _, normal = margin_and_gradient(classifier, point, label)
        normal = _escape(normal)
        radius = (point - clean).norm(dim=1)
        # Aim a little beyond the boundary, so that rounding does not decide the verdict.
        aim = 1e-5 * radius * normal.norm(dim=1)
        target = _project(clean, normal, (normal * point).sum(1) - value + aim, bounds)
        trial = point + step[rows, None] * (target - point)
        # A Newton correction along the same normal where the boundary has curved away.
        with torch.no_grad():
            missing = (aim - margin(classifier(trial), label)).clamp(min=0)
        trial = _clip(trial + normal * (missing / normal.square().sum(1))[:, None], bounds)
        shorter = (trial - clean).norm(dim=1) < radius * (1 - 1e-7)
        accepted = shorter & fooled(classifier, trial, label)
        best[rows[accepted]] = trial[accepted]
        step[rows] = torch.where(accepted, (2 * step[rows]).clamp(max=1), step[rows] / 3)
    return best


def _project(x: Tensor, normal: Tensor, level: Tensor, bounds) -> Tensor:
    """The nearest point to `x` in the box with ⟨normal, p⟩ ≥ level: clip(x + λ normal) for the least such λ ≥ 0."""
    missing = (level - (normal * x).sum(1)).clamp(min=0)
    step = missing / normal.square().sum(1)
    if bounds is None:
        return x + step[:, None] * normal
    # ⟨normal, clip(x + λ normal)⟩ grows with λ, concave and piecewise linear: Newton from the left never overshoots.
    low, high = bounds
    for _ in range(50):
        point = (x + step[:, None] * normal).clamp(low, high)
        short = level - (normal * point).sum(1)
        moving = (x + step[:, None] * normal > low) & (x + step[:, None] * normal < high)
        slope = (normal.square() * moving).sum(1)
        step = torch.where((short > 0) & (slope > 0), step + short / slope, step)
        if not ((short > 1e-6 * missing) & (slope > 0)).any():
            break
    return (x + step[:, None] * normal).clamp(low, high)


def _pull(classifier, origin: Tensor, y: Tensor, best: Tensor, halvings: int) -> Tensor:
    """Each adversarial point moved along its ray towards the clean one, up to the boundary, by bisection."""
    low, high = torch.zeros_like(best[:, 0]), torch.ones_like(best[:, 0])
    for _ in range(halvings):
        middle = (low + high) / 2
        over = fooled(classifier, origin + middle[:, None] * (best - origin), y)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return torch.where((high < 1)[:, None], origin + high[:, None] * (best - origin), best)


def _nearer(classifier, origin: Tensor, y: Tensor, best: Tensor, other: Tensor) -> Tensor:
    """`other` where it is adversarial and nearer than `best`, or where `best` is still the clean point."""
    best_radius, other_radius = (best - origin).norm(dim=1), (other - origin).norm(dim=1)
    wanted = fooled(classifier, other, y) & ((other_radius < best_radius) | (best_radius == 0))
    return torch.where(wanted[:, None], other, best)


def _vanished(gradient: Tensor) -> Tensor:
    """Which gradients (n,) are zero or not finite."""
    length = gradient.norm(dim=1)
    return ~length.isfinite() | (length < 1e3 * torch.finfo(gradient.dtype).tiny)


def _escape(gradient: Tensor) -> Tensor:
    """The gradients (n, m), with one fixed direction, the same in every batch, in place of those that vanished."""
    draws = torch.Generator().manual_seed(0)
    direction = torch.randn(gradient.shape[1], generator=draws, dtype=torch.float64).to(gradient)
    return torch.where(_vanished(gradient)[:, None], normalize(direction, dim=0), gradient)


def _logits_and_gradients(classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, K) and the gradients of all of them, (n, K, pixels)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        require_gradient(logits)
        gradients = [torch.autograd.grad(logit.sum(), x, retain_graph=True)[0].flatten(1) for logit in logits.T]
    return logits.detach(), torch.stack(gradients, dim=1)


def _checked(classifier, x, y, bounds) -> tuple[Tensor, Tensor, tuple[float, float] | None]:
    check.network("classifier", classifier)
    x = check.images("x", x).detach()
    y = check.labels("y", y, x)
    return x, y, check.box("bounds", bounds, x)


def _misclassified(classifier, x: Tensor, y: Tensor) -> Tensor:
    """Which rows (n,) are not classified as `y` to begin with; an empty batch asks the classifier nothing."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    with torch.no_grad():
        logits = check.classify(classifier, x)
    if (y >= logits.shape[1]).any():
        raise ValueError(f"y must hold labels below K = {logits.shape[1]}, got {int(y.max())}")
    return logits.argmax(1) != y


def _clip(x: Tensor, bounds) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)
