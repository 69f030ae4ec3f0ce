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
    shape = x.shape[1:]

    def flat_classifier(points: Tensor) -> Tensor:
        return classifier(points.reshape(-1, *shape))

    origin, label = x[rows].flatten(1), y[rows]
    best = _reach(flat_classifier, origin, label, max(1, steps // 3), bounds)
    if start is not None:
        best = _nearer(flat_classifier, origin, label, best, start[rows])
    found = torch.nonzero((best != origin).any(1))[:, 0]
    rows, origin, label, best = rows[found], origin[found], label[found], best[found]
    if len(rows):
        best = _pull(flat_classifier, origin, label, best, 12)
        best = _explore(flat_classifier, origin, label, best, steps // 3, bounds)
        best = _refine(flat_classifier, origin, label, best, steps - 2 * (steps // 3), bounds)
        best = _pull(flat_classifier, origin, label, best, 20)
        result[rows] = best.reshape(-1, *shape)
    return result


def _reach(classifier, origin: Tensor, y: Tensor, steps: int, bounds) -> Tensor:
    """A point over the boundary for each row, by Newton steps on the margin; rows that find none keep `origin`.

    A step is taken only where the margin along it follows its linear prediction within a factor of two, at a
    sixteenth, an eighth, a quarter, a half and all of it; else an eighth of it is tried.
    """
    result, point, rows = origin.clone(), origin.clone(), torch.arange(len(origin), device=origin.device)
    fractions = (0.0625, 0.125, 0.25, 0.5, 1.0)
    for iteration in range(steps):
        if not len(rows):
            break
        label = y[rows]
        before, _, gradient = margin_and_gradient(classifier, point, label)
        gradient = _escape(gradient)
        step = gradient * (1.05 * before.abs() / gradient.square().sum(1))[:, None]
        predicted = 1.05 * before.abs()
        trying = torch.arange(len(rows), device=origin.device)
        for trial in range(12):
            there = [_clip(point[trying] + f * step[trying], bounds) for f in fractions]
            with torch.no_grad():
                logits = [classifier(p) for p in there]
            margins = [margin(out, label[trying]) for out in logits]
            over = torch.stack([m > slack(out) for m, out in zip(margins, logits, strict=True)])
            gains = torch.stack(
                [(m - before[trying]) / (f * predicted[trying]) for m, f in zip(margins, fractions, strict=True)]
            )
            # In a corner of the box the gain falls short of the prediction; the last iteration takes what it gets.
            trusted = ((gains > 0.5) & (gains < 2)).all(0) | (trial == 11) | (iteration == steps - 1)
            first = over.int().argmax(0)
            stack = torch.stack(there)
            landed = torch.where(over.any(0), first, len(fractions) - 1)
            chosen = stack[landed, torch.arange(len(trying), device=origin.device)]
            point[trying[trusted]] = chosen[trusted]
            crossed = trusted & over.any(0)
            result[rows[trying[crossed]]] = chosen[crossed]
            step[trying] = step[trying] / 8
            predicted[trying] = predicted[trying] / 8
            trying = trying[~trusted]
            if not len(trying):
                break
        going = (result[rows] == origin[rows]).all(1)
        rows, point = rows[going], point[going]
    return result


def _explore(classifier, origin: Tensor, y: Tensor, best: Tensor, steps: int, bounds) -> Tensor:
    """Normalised margin steps on a sphere around the clean point whose radius adapts to the verdict."""
    radius = (best - origin).norm(dim=1)
    scale, point = radius.clone(), best
    best_radius = radius.clone()
    for iteration in range(steps):
        _, over, gradient = margin_and_gradient(classifier, point, y)
        distance = (point - origin).norm(dim=1)
        better = over & (distance < best_radius)
        best = torch.where(better[:, None], point, best)
        best_radius = torch.where(better, distance, best_radius)
        rate = 0.5 * (1 + math.cos(math.pi * iteration / steps)) * 0.6 + 0.01
        radius = torch.where(over, torch.minimum(radius, best_radius) * 0.95, radius * 1.05)
        moved = point - origin + (rate * scale)[:, None] * normalize(_escape(gradient), dim=1)
        point = _clip(origin + radius[:, None] * normalize(moved, dim=1), bounds)
    if steps:
        best = _nearer(classifier, origin, y, best, point)
    return best


def _refine(classifier, origin: Tensor, y: Tensor, best: Tensor, steps: int, bounds) -> Tensor:
    """Projections on the linearised boundary, each pulled back to the boundary, until a row no longer improves."""
    best = best.clone()
    rows = torch.arange(len(best), device=best.device)
    step = torch.ones(len(best), dtype=best.dtype, device=best.device)
    for _ in range(steps):
        if not len(rows):
            break
        clean, label, point = origin[rows], y[rows], best[rows]
        value, _, normal = margin_and_gradient(classifier, point, label)
        normal = _escape(normal)
        radius = (point - clean).norm(dim=1)
        # Aim a little beyond the boundary, so that rounding does not decide the verdict.
        aim = 1e-5 * radius * normal.norm(dim=1)
        level = (normal * point).sum(1) - value + aim
        target = _project(clean, normal, level, bounds)
        trial = point + step[rows, None] * (target - point)
        with torch.no_grad():
            missing = aim - margin(classifier(trial), label)
        # Newton correction along the same normal where the boundary has curved away.
        trial = torch.where(
            (missing > 0)[:, None],
            _clip(trial + normal * (missing / normal.square().sum(1))[:, None], bounds),
            trial,
        )
        shorter = (trial - clean).norm(dim=1) < radius * (1 - 1e-7)
        accepted = shorter & fooled(classifier, trial, label)
        best[rows[accepted]] = trial[accepted]
        step[rows] = torch.where(accepted, (2 * step[rows]).clamp(max=1), step[rows] / 3)
        rows = rows[step[rows] > 1e-3]
    return best


def _project(x: Tensor, normal: Tensor, level: Tensor, bounds) -> Tensor:
    """The nearest point to `x` with ⟨normal, p⟩ ≥ level, inside the box: clip(x + λ normal) for the least such λ ≥ 0."""
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


def _escape(gradient: Tensor) -> Tensor:
    """The gradients (n, m), with a fixed direction, the same in every batch, in place of vanished or infinite ones."""
    length = gradient.norm(dim=1)
    bad = ~length.isfinite() | (length < 1e3 * torch.finfo(gradient.dtype).tiny)
    draws = torch.Generator().manual_seed(0)
    direction = torch.randn(gradient.shape[1], generator=draws, dtype=torch.float64).to(gradient)
    return torch.where(bad[:, None], normalize(direction, dim=0), gradient)


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
