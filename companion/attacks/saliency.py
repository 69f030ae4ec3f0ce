"""An attack that changes few pixels, each as far as it goes: the Jacobian-based saliency map."""

from __future__ import annotations

import torch
from torch import Tensor

from companion import _validation as check
from companion._calls import guarded
from companion._types import Box, Model, Numbers
from companion.attacks.margin import checked, misclassified, require_gradient
from companion.attacks.sign import reached

# Numbers in one table of candidate pairs; a batch that needs more is taken in parts.
_TABLE = 2**24


def jsma(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    bounds: Box | None,
    theta: float | None = None,
    max_fraction: float = 0.145,
    targeted: bool = False,
) -> Tensor:
    """Jacobian-based saliency map attack: step by step, the two pixels that most raise one class and lower the rest.

    A pixel is one entry of the image; every step moves a pair of them by `theta`. Of all pairs the exact best one is
    taken, found among the few pixels that at most one other pixel beats in both respects.

    Args:
        classifier: (n, *image) -> (n, K) logits, differentiable. Attack `lambda x: f(x).softmax(1)` for the variant
            on probabilities.
        x: (n, *image) images.
        y: (n,) their labels, or with `targeted` the labels to reach.
        bounds: the pixel box (low, high).
        theta: what a step adds to a pixel; negative darkens. By default `high - low`: a pixel is changed once.
        max_fraction: share of the pixels that may be changed, in (0, 1].
        targeted: reach the labels `y`. Otherwise the class with the largest logit but one is raised, and any
            other label is a success.

    Returns:
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Raises:
        ValueError: for shapes that do not fit, NaN, no box, a classifier in training mode or without gradients.

    Source: Papernot et al. (2016), The limitations of deep learning in adversarial settings, algorithms 2 and 3.
    """
    x, y, bounds = checked(classifier, x, y, bounds)
    if bounds is None:
        raise ValueError("bounds must be a pair (low, high) for jsma, got None")
    low, high = bounds
    theta = high - low if theta is None else check.tensor("theta", theta).item()
    if theta == 0:
        raise ValueError("theta must not be 0")
    max_fraction = check.tensor("max_fraction", max_fraction).item()
    if not 0 < max_fraction <= 1:
        raise ValueError(f"max_fraction must lie in (0, 1], got {max_fraction!r}")
    with guarded("classifier", classifier, x, trusted=True) as (classifier, x):
        return _search(classifier, x, y, theta, max_fraction, (low, high), targeted)


def _search(
    classifier: Model,
    x: Tensor,
    y: Tensor,
    theta: float,
    max_fraction: float,
    bounds: tuple[float, float],
    targeted: bool,
) -> Tensor:
    (low, high), result = bounds, x.clone()
    rows = torch.nonzero(~(misclassified(classifier, x, y) ^ bool(targeted)))[:, 0]
    if not len(rows):
        return result
    point, label = x[rows].flatten(1), y[rows]
    target = label if targeted else _runner_up(classifier, x[rows], label)
    for _ in range(int(point.shape[1] * max_fraction / 2)):
        rise, fall = _forward_derivative(classifier, point.reshape(-1, *x.shape[1:]), target)
        if theta < 0:
            rise, fall = -rise, -fall
        room = point < high if theta > 0 else point > low
        pair, found = best_pair(rise, fall, room)
        # Without a pair that helps, a row is given up.
        rows, label, target, point, pair = (part[found] for part in (rows, label, target, point, pair))
        if not len(rows):
            break
        point = point.scatter(1, pair, (point.gather(1, pair) + theta).clamp(low, high))
        images = point.reshape(-1, *x.shape[1:])
        with torch.no_grad():
            won = reached(classifier(images), label, targeted=targeted)
        result[rows[won]] = images[won]
        rows, label, target, point = rows[~won], label[~won], target[~won], point[~won]
        if not len(rows):
            break
    return result


def best_pair(rise: Tensor, fall: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p ≠ q with the largest (rise_p + rise_q)(fall_p + fall_q), both sums positive.

    A pixel that two others equal or exceed in `rise` and in `fall` cannot be needed: one of the two is not its
    partner, and may take its place. Sorted by `rise`, those are the ones whose `fall` does not exceed the
    second-largest before them; a handful of thousands is left, and all their pairs are compared.

    Args:
        rise: (n, pixels), what a pixel adds to the target's logit.
        fall: (n, pixels), what it takes away from the sum of the other logits.
        room: (n, pixels), which pixels may still be changed.

    Returns:
        (n, 2) the pixels, and (n,) whether there is such a pair.
    """
    if rise.shape[1] < 2:
        return torch.zeros(len(rise), 2, dtype=torch.long, device=rise.device), room.any(1) & False
    # Pixels without room come last and are never candidates.
    order = rise.masked_fill(~room, -torch.inf).argsort(dim=1, descending=True, stable=True)
    u, v, free = rise.gather(1, order), fall.gather(1, order), room.gather(1, order)
    v = v.masked_fill(~free, -torch.inf)
    lowest = torch.full_like(v[:, :1], -torch.inf)
    largest = torch.cat([lowest, v.cummax(1).values[:, :-1]], 1)
    second = torch.cat([lowest, torch.minimum(v, largest).cummax(1).values[:, :-1]], 1)
    candidate = free & (v > second)
    width = max(2, int(candidate.sum(1).max()))
    place = candidate.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    upper = torch.ones(width, width, dtype=torch.bool, device=u.device).triu(1)
    pairs, found = [], []
    for part in torch.arange(len(u), device=u.device).split(max(1, _TABLE // width**2)):
        at = place[part]
        a, b, kept = (value[part].gather(1, at) for value in (u, v, candidate))
        up, down = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
        allowed = upper & kept[:, :, None] & kept[:, None] & (up > 0) & (down > 0)
        score, best = torch.where(allowed, up * down, -torch.inf).flatten(1).max(1)
        chosen = torch.stack([best // width, best % width], 1)
        pairs.append(order[part].gather(1, at.gather(1, chosen)))
        found.append(score > -torch.inf)
    return torch.cat(pairs), torch.cat(found)


def _forward_derivative(classifier: Model, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives (n, pixels) of the target's logit, and of the sum of the other logits with the sign turned."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        require_gradient(logits)
        wanted = logits.gather(1, target[:, None])[:, 0]
        (own,) = torch.autograd.grad(wanted.sum(), x, retain_graph=True)
        (others,) = torch.autograd.grad((logits.sum(1) - wanted).sum(), x)
    rise, fall = (part.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).flatten(1) for part in (own, -others))
    return rise, fall


def _runner_up(classifier: Model, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(x).scatter(1, y[:, None], -torch.inf).argmax(1)
