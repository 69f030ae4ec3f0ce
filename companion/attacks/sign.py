"""Attacks that climb the loss inside a ball: one step, many steps, many steps with momentum."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from companion import _validation as check
from companion._calls import guarded
from companion._types import Box, Model, Numbers
from companion.attacks.margin import checked, margin, misclassified, require_gradient, slack

NORMS = ("linf", "l2")


def fgsm(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    eps: float,
    steps: int = 1,
    step_size: float | None = None,
    norm: str = "linf",
    bounds: Box | None = None,
    targeted: bool = False,
    keep_failed: bool = False,
) -> Tensor:
    """Fast gradient sign method: x + eps sign(∇J), J the cross-entropy; with `steps` > 1 its iterated form.

    Args:
        classifier: (n, *image) -> (n, K) logits, differentiable.
        x: (n, *image) images.
        y: (n,) their labels, or with `targeted` the labels to reach.
        eps: largest change, in the norm of `norm`; positive.
        steps: gradients a row.
        step_size: length of a step; by default `eps / steps`.
        norm: "linf", every pixel moves by the sign of its derivative; or "l2", the image moves along the gradient.
        bounds: None, or the pixel box (low, high).
        targeted: descend towards the labels `y` instead of away from them.
        keep_failed: return the last iterate of every row, fooled or not. For transfer: what did not fool `classifier`
            may fool another one.

    Returns:
        (n, *image): the last iterate that fooled the classifier; rows without one come back unchanged. Without
        gradient a row does not move.

    Raises:
        ValueError: for shapes that do not fit, NaN, a classifier in training mode or without gradients.

    Source: Goodfellow et al. (2015), section 4; iterated: Kurakin et al. (2017), section 2.2.
    """
    return _climb(classifier, x, y, eps, steps, step_size, 0.0, norm, bounds, targeted, keep_failed)


def mi_fgsm(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    norm: str = "linf",
    bounds: Box | None = None,
    targeted: bool = False,
    keep_failed: bool = False,
) -> Tensor:
    """Momentum iterative FGSM: the steps follow a decaying sum of the gradients, each divided by its L1 norm.

    To attack several classifiers at once, pass their `logit_ensemble`.

    Args:
        classifier, x, y, eps, norm, bounds, targeted, keep_failed: as for `fgsm`.
        steps: gradients a row.
        step_size: length of a step; by default `eps / steps`.
        decay: what is left of the sum at the next step; 0 is the iterated FGSM, 1 forgets nothing.

    Returns:
        (n, *image): the last iterate that fooled the classifier; rows without one come back unchanged.

    Source: Dong et al. (2018), algorithm 1.
    """
    decay = check.tensor("decay", decay, minimum=0.0).item()
    return _climb(classifier, x, y, eps, steps, step_size, decay, norm, bounds, targeted, keep_failed)


def logit_ensemble(classifiers: Sequence[Model], *, weights: Sequence[float] | None = None) -> Model:
    """The classifier whose logits are the weighted mean of the logits of `classifiers`.

    Args:
        classifiers: at least one classifier, all with the same classes.
        weights: as many non-negative numbers that sum to 1; equal by default.

    Source: Dong et al. (2018), section 3.3 (ensemble in logits), algorithm 2.
    """
    classifiers = list(classifiers)
    if not classifiers:
        raise ValueError("classifiers must hold at least one classifier, got none")
    for index, classifier in enumerate(classifiers):
        check.network(f"classifiers[{index}]", classifier)
    count = len(classifiers)
    weights = [1 / count] * count if weights is None else check.tensor("weights", weights, minimum=0.0).tolist()
    if not isinstance(weights, list) or len(weights) != count or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"weights must be {count} numbers that sum to 1, got {weights!r}")

    return functools.partial(_weighted_logits, classifiers, weights)


def _weighted_logits(classifiers: Sequence[Model], weights: list[float], x: Tensor) -> Tensor:
    # Copies: each of the classifiers may work in place.
    parts = (weight * classifier(x.clone()) for weight, classifier in zip(weights, classifiers, strict=True))
    return sum(parts, start=torch.zeros(()).to(x))


def loss_gradient(classifier: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (n, K), and the gradient of every row's cross-entropy, shaped like `x`; 0 where it is not finite."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        loss = F.cross_entropy(logits, y, reduction="sum")
        require_gradient(loss)
        (gradient,) = torch.autograd.grad(loss, x)
    return logits.detach(), gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def reached(logits: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Which rows (n,) are safely not classified as `y`; with `targeted`, which safely are."""
    margins = margin(logits, y)
    return (-margins if targeted else margins) > slack(logits, y)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The steepest step of length 1 in `norm`; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    return gradient / _per_row(gradient.flatten(1).norm(dim=1), gradient)


def _climb(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    eps: float,
    steps: int,
    step_size: float | None,
    decay: float,
    norm: str,
    bounds: Box | None,
    targeted: bool,
    keep_failed: bool,
) -> Tensor:
    x, y, bounds = checked(classifier, x, y, bounds)
    eps, steps = check.positive("eps", eps), check.integer("steps", steps, minimum=1)
    step_size = eps / steps if step_size is None else check.positive("step_size", step_size)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    with guarded("classifier", classifier, x, trusted=True) as (classifier, x):
        return _steps(classifier, x, y, eps, steps, step_size, decay, norm, bounds, targeted, keep_failed)


def _steps(
    classifier: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    decay: float,
    norm: str,
    bounds: tuple[float, float] | None,
    targeted: bool,
    keep_failed: bool,
) -> Tensor:
    result = x.clone()
    done = misclassified(classifier, x, y) ^ bool(targeted)
    rows = torch.nonzero(torch.ones_like(done) if keep_failed else ~done)[:, 0]
    if not len(rows):
        return result
    clean, label = x[rows], y[rows]
    point, best, velocity = clean, clean.clone(), torch.zeros_like(clean)
    for iteration in range(steps):
        logits, gradient = loss_gradient(classifier, point, label)
        if iteration:
            won = reached(logits, label, targeted=targeted)
            best[won] = point[won]
        velocity = decay * velocity + gradient / _per_row(gradient.flatten(1).abs().sum(1), gradient)
        step = step_size * direction(velocity, norm)
        moved = (point - step if targeted else point + step) - clean
        if norm == "linf":
            moved = moved.clamp(-eps, eps)
        else:
            length = moved.flatten(1).norm(dim=1)
            moved = moved * _per_row((eps / _nonzero(length)).clamp(max=1.0), moved)
        point = clean + moved if bounds is None else (clean + moved).clamp(*bounds)
    with torch.no_grad():
        won = reached(classifier(point), label, targeted=targeted)
    best[won] = point[won]
    result[rows] = point if keep_failed else best
    return result


def _per_row(value: Tensor, like: Tensor) -> Tensor:
    """`value` (n,), nowhere 0, shaped to multiply or divide the rows of `like`."""
    return _nonzero(value).reshape(-1, *[1] * (like.ndim - 1))


def _nonzero(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)
