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


def minimal_l2(classifier, x, y, *, steps: int = 100, bounds=None, start=None, metric=None) -> Tensor:
    """The smallest L2 perturbation that changes the label, to within the local search it is.

    Four phases share `steps` gradients. *Reach*: trust-region Newton steps on the margin, so that a curved classifier
    is followed to its first boundary. *Race*: the boundaries to all likely classes are followed side by side, and the
    farther half of them given up, again and again. *Explore*: normalised gradient steps on a sphere whose radius
    shrinks while the point is adversarial and grows while not, which leaves poor local minima. *Refine*: the clean
    point is projected, inside the box, on the linearised boundary at the best point found; a fixed point satisfies the
    optimality conditions. The best point is kept throughout and moved along its ray to the boundary. No row depends on
    the others of its batch, but for the rounding of its logits.

    Besides the gradients it takes forward passes without one: 5 for each step to reach the boundary (mostly one step),
    2 for each to refine, 30 in all for rays; with `steps=100` about 60.

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
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Raises:
        ValueError: for shapes that do not fit, NaN, a classifier in training mode or without gradients, `bounds`
            beside a `metric`.

    Source: own combination; trust region on the margin after Moosavi-Dezfooli et al. (2016), halving of candidates
    after Karnin et al. (2013), averaged linearisations after Nesterov (2009), sphere of adaptive radius after Rony et
    al. (2019), projection on the linearised boundary in the box after Croce & Hein (2020).
    """
    x, y, bounds = _checked(classifier, x, y, bounds)
    steps = check.integer("steps", steps, minimum=1)
    if start is not None:
        start = check.tensor("start", start)
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
        start = _clip(start.to(x), bounds).flatten(1)
    if metric is not None:
        metric = check.tensor("metric", metric).to(x)
        size = math.prod(x.shape[1:])
        if metric.shape != (len(x), size, size):
            raise ValueError(
                f"metric must have shape (n, m, m) = {(len(x), size, size)} for x of shape {tuple(x.shape)}, "
                f"got {tuple(metric.shape)}"
            )
        if bounds is not None:
            raise ValueError(f"bounds must be None beside a metric, got {bounds}")
    result = x.clone()
    rows = torch.nonzero(~_misclassified(classifier, x, y))[:, 0]
    if not len(rows):
        return result
    shape, logits_count = x.shape[1:], classifier(x[:1]).shape[1]
    every = torch.arange(len(rows), device=x.device)
    origin, label = x[rows].flatten(1), y[rows]
    into, out_of = _coordinates(origin, None if metric is None else metric[rows])

    def of(part: Tensor):
        """The classifier of some rows in their coordinates: (k, m) points of the rows `part` (k,) -> (k, K) logits."""
        return lambda points: classifier(out_of(points, part).reshape(-1, *shape))

    clean = into(origin)
    schedule = _schedule(logits_count, steps // 2)
    raced = sum(size * laps for size, laps in schedule)
    # With several classes the race finds the boundary, too: no need to creep up to it.
    creeping = min(steps - raced, 12 if logits_count > 2 else 30)
    best, spent = _reach(of, clean, label, creeping, bounds)
    if start is not None:
        best = _nearer(of(every), clean, label, best, into(start[rows]))
    if schedule:
        best = _race(of, clean, label, best, schedule, bounds)
    best, left = _pull(of(every), clean, label, best, 4), steps - raced - spent
    exploring = left * 3 // 4
    best = _explore(of, clean, label, best, exploring, bounds)
    best = _refine(of, clean, label, best, left - exploring, bounds)
    result[rows] = out_of(_pull(of(every), clean, label, best, 10), every).reshape(-1, *shape)
    return result


def _coordinates(origin: Tensor, metric: Tensor | None):
    """Coordinates of the points of each row in which its metric is the identity, and the way back.

    With M = LLᵀ they are Lᵀ(x − origin). Without a metric they are the points themselves.
    """
    if metric is None:
        return lambda points: points, lambda points, rows: points
    factor, failed = torch.linalg.cholesky_ex(metric)
    identity = torch.eye(origin.shape[1]).to(origin).expand_as(factor)
    inverse = torch.linalg.solve_triangular(factor.mT, identity, upper=True)
    # Without a way back, a row stays where it is.
    inverse = torch.where((failed == 0)[:, None, None], inverse, 0.0)
    into = lambda points: (factor.mT @ (points - origin)[..., None])[..., 0]  # noqa: E731
    return into, lambda points, rows: origin[rows] + (inverse[rows] @ points[..., None])[..., 0]


def _schedule(classes: int, budget: int) -> list[tuple[int, int]]:
    """The rounds of a race, (rivals, gradients for each): all get one, then the best 8, 4 and 2 get equal shares.

    A small budget starts with 4 or 2. One that is too small for two rivals, and two classes, allow no race.
    """
    rivals = min(classes - 1, 9, budget // 2)
    left = budget - rivals
    for sizes in ([8, 4, 2], [4, 2], [2]):
        if sizes[0] <= min(rivals, left // len(sizes)):
            return [(rivals, 1)] + [(size, left // len(sizes) // size) for size in sizes]
    return []


def _race(of, origin: Tensor, y: Tensor, best: Tensor, schedule, bounds) -> Tensor:
    """The nearest of `best` and of points over the boundaries to other classes.

    Which class is nearest is not known beforehand, and which has the largest logit says little. Each lap projects the
    clean point on the boundary to a class, linearised where the lap before ended. Later linearisations weigh more in
    an average with the earlier ones, which is what keeps the laps of a network of many linear pieces from zigzagging.
    """
    radius = (best - origin).norm(dim=1)
    radius = torch.where(radius > 0, radius, torch.inf)
    clean, every = origin[:, None], torch.arange(len(origin), device=origin.device)
    with torch.no_grad():
        logits = of(every)(origin)
    target = logits.scatter(1, y[:, None], -torch.inf).topk(schedule[0][0], dim=1).indices
    point = clean.expand(-1, target.shape[1], -1)
    normal, level, lap = torch.zeros_like(point), torch.zeros_like(point[..., 0]), 0
    for size, laps in schedule:
        if size < target.shape[1]:
            # A boundary that the box hides is nobody's nearest.
            hidden = (normal * (point - clean)).sum(2) < (1 - 1e-3) * (level - (normal * clean).sum(2))
            distance = torch.where(hidden, torch.inf, (point - clean).norm(dim=2))
            kept = distance.topk(size, dim=1, largest=False).indices
            point, normal, level, target = (entry[every[:, None], kept] for entry in (point, normal, level, target))
        for _ in range(laps):
            runners = of(every.repeat_interleave(size))
            value, over, gradient = _towards(runners, point, y, target)
            distance, first = torch.where(over, (point - clean).norm(dim=2), torch.inf).min(1)
            best = torch.where((distance < radius)[:, None], point[every, first], best)
            radius = torch.minimum(distance, radius)
            length, weight = gradient.norm(dim=2), 2 / (lap + 2)
            normal = torch.lerp(normal, gradient / length[..., None], weight)
            level = torch.lerp(level, ((gradient * point).sum(2) - value) / length, weight)
            # Aim a little beyond the boundary: the laps shall end on the other side of it.
            aim = level + 1e-3 * (point - clean).norm(dim=2)
            point = _project(clean.expand_as(point).flatten(0, 1), normal.flatten(0, 1), aim.flatten(), bounds)
            point, lap = point.view_as(normal), lap + 1
    for finish in point.unbind(1):
        # A boundary that has bent away may be met farther along the ray.
        for factor in (1.0, 1.5, 3.0):
            best = _nearer(of(every), origin, y, best, _clip(origin + factor * (finish - origin), bounds))
    return best


def _towards(classifier, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For points (n, m, pixels): the logits (n, m) of classes `target` less those of `y`, which points are over the
    boundary (n, m), and the gradients (n, m, pixels) of the differences."""
    flat = x.detach().flatten(0, 1).requires_grad_()
    label, goal = y.repeat_interleave(x.shape[1]), target.flatten()
    with torch.enable_grad():
        logits = classifier(flat)
        value = (logits.gather(1, goal[:, None]) - logits.gather(1, label[:, None]))[:, 0]
        require_gradient(value)
        (gradient,) = torch.autograd.grad(value.sum(), flat)
    over = margin(logits.detach(), label) > slack(logits)
    return value.detach().view_as(target), over.view_as(target), _escape(gradient).view_as(x)


def _reach(of, origin: Tensor, y: Tensor, steps: int, bounds) -> tuple[Tensor, Tensor]:
    """Newton steps on the margin: for each row a point over the boundary, or `origin`, and the gradients it took.

    A step is taken only where the margin along it follows its linear prediction within a factor of two, at a
    sixteenth, an eighth, a quarter, a half and all of it; else an eighth of it is tried.
    """
    result, point = origin.clone(), origin.clone()
    spent = torch.full_like(y, steps)
    rows = torch.arange(len(origin), device=origin.device)
    fractions = (0.0625, 0.125, 0.25, 0.5, 1.0)
    for iteration in range(steps):
        if not len(rows):
            break
        last = iteration == steps - 1
        if last:
            # No gradient is left: whatever is over the boundary in this direction will do.
            fractions = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
        label = y[rows]
        before, _, gradient = margin_and_gradient(of(rows), point, label)
        flat = _vanished(gradient)
        gradient = _escape(gradient)
        # On a flat spot nothing can be predicted: leave it along the escape direction, farther every time.
        reach = before.abs() * torch.where(flat, 2.0**iteration, 1.05)
        step = _project(point, gradient, (gradient * point).sum(1) + reach, bounds) - point
        trying = torch.arange(len(rows), device=origin.device)
        for trial in range(12):
            # An eighth of the step for each trial, and fractions of that.
            there = torch.stack([_clip(point[trying] + f * 8.0**-trial * step[trying], bounds) for f in fractions])
            classifier = of(rows[trying])
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


def _explore(of, origin: Tensor, y: Tensor, best: Tensor, steps: Tensor, bounds) -> Tensor:
    """Normalised margin steps on a sphere around the clean point whose radius adapts to the verdict."""
    best, point = best.clone(), best.clone()
    radius = (best - origin).norm(dim=1)
    best_radius = torch.where(radius > 0, radius, torch.inf)
    lengths = steps.tolist()
    for iteration in range(max(lengths)):
        if iteration in {0, *lengths}:
            rows = torch.nonzero(iteration < steps)[:, 0]
            clean, label, last = origin[rows], y[rows], steps[rows]
        at, nearest = point[rows], best_radius[rows]
        value, over, gradient = margin_and_gradient(of(rows), at, label)
        direction, distance = normalize(_escape(gradient), dim=1), (at - clean).norm(dim=1)
        if iteration == 0:
            # Rows without an adversarial point yet start at the predicted distance.
            predicted = value.abs() / _escape(gradient).norm(dim=1)
            radius[rows] = torch.where(radius[rows] > 0, radius[rows], predicted)
            scale = radius.clone()
        better = over & (distance < nearest)
        nearest = torch.where(better, distance, nearest)
        best[rows], best_radius[rows] = torch.where(better[:, None], at, best[rows]), nearest
        # The cosine falls from a bold first step, 0.6 of the first radius, to a fine last one.
        rate = 0.3 * (1 + torch.cos(math.pi * iteration / last)) + 0.01
        # Without an adversarial point yet, the sphere grows fast.
        grown = torch.where(nearest.isfinite(), 1.05, 1.3) * radius[rows]
        radius[rows] = torch.where(over, 0.95 * torch.minimum(radius[rows], nearest), grown)
        moved = at - clean + (rate * scale[rows])[:, None] * direction
        point[rows] = _clip(clean + radius[rows, None] * normalize(moved, dim=1), bounds)
    return _nearer(of(torch.arange(len(origin), device=origin.device)), origin, y, best, point)


def _refine(of, origin: Tensor, y: Tensor, best: Tensor, steps: Tensor, bounds) -> Tensor:
    """Projections on the linearised boundary, each pulled back to the boundary, until a row no longer improves."""
    best = best.clone()
    rows = torch.arange(len(best), device=best.device)
    step = torch.ones(len(best), dtype=best.dtype, device=best.device)
    for iteration in range(int(steps.max())):
        rows = rows[(step[rows] > 1e-3) & (iteration < steps[rows])]
        if not len(rows):
            break
        clean, label, point, classifier = origin[rows], y[rows], best[rows], of(rows)
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
        free = x + step[:, None] * normal
        short = level - (normal * free.clamp(low, high)).sum(1)
        slope = (normal.square() * ((free > low) & (free < high))).sum(1)
        # A row that has arrived stays, whatever the others do.
        moving = (short > 1e-6 * missing) & (slope > 0)
        step = torch.where(moving, step + short / slope, step)
        if not moving.any():
            break
    return (x + step[:, None] * normal).clamp(low, high)


def _pull(classifier, origin: Tensor, y: Tensor, best: Tensor, evaluations: int) -> Tensor:
    """Each adversarial point moved along its ray towards the clean one, up to the boundary, by regula falsi."""

    def height(fraction) -> Tensor:
        with torch.no_grad():
            logits = classifier(origin + fraction[:, None] * (best - origin))
        return margin(logits, y) - slack(logits)

    low, high = torch.zeros_like(best[:, 0]), torch.ones_like(best[:, 0])
    under, over = height(low), height(high)
    for _ in range(evaluations):
        middle = low + (high - low) * (under / (under - over)).clamp(0.01, 0.99)
        value = height(middle)
        crossed = value > 0
        # The Illinois rule: an end that stays counts half, so that both ends close in.
        under, over = torch.where(crossed, under / 2, value), torch.where(crossed, value, over / 2)
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
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
