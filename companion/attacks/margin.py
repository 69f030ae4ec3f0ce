"""The margin of a point, and its gradient: what every attack of this package follows."""

from __future__ import annotations

import torch
from torch import Tensor


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """How far each row is over the boundary: the largest logit of another class minus the logit of class `y`.

    Args:
        logits: (n, K).
        y: (n,) labels.

    Returns:
        (n,) margins, negative where the row is classified as `y`.
    """
    own = y[:, None]
    # A masked fill, not a product with a one-hot vector, which goes wrong where every logit is negative.
    others = logits.scatter(1, own, -torch.inf)
    return others.amax(1) - logits.gather(1, own)[:, 0]


def slack(logits: Tensor) -> Tensor:
    """The rounding of a margin (n,): a point is taken as fooled only if its margin exceeds this.

    Matrix products round differently for other batch sizes; 64 units in the last place of the largest logit keep the
    verdict of a row the same in any batch.
    """
    largest = logits.detach().abs().nan_to_num(posinf=0.0).amax(1)
    return 64 * torch.finfo(logits.dtype).eps * largest


def fooled(classifier, x: Tensor, y: Tensor) -> Tensor:
    """Which rows (n,) of `x` are safely not classified as `y`."""
    with torch.no_grad():
        logits = classifier(x)
    return margin(logits, y) > slack(logits)


def margin_and_gradient(classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Margins (n,), which of them are over the boundary (n,), and the margins' gradients in the shape of `x`."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        margins = margin(logits, y)
        require_gradient(margins)
        (gradient,) = torch.autograd.grad(margins.sum(), x)
    margins = margins.detach()
    return margins, margins > slack(logits), gradient


def require_gradient(output: Tensor) -> None:
    """Refuse a classifier through which no gradient flows, instead of attacking it in vain."""
    if output.grad_fn is None:
        raise ValueError(
            "classifier must be differentiable in its input, but its logits carry no gradient "
            "(does it detach, round or run under torch.no_grad?)"
        )
