"""The margin of a point, and its gradient: what every attack of this package follows."""

from __future__ import annotations

import torch
from torch import Tensor

from companion import _validation as check
from companion._types import Box, Model, Numbers


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


def slack(logits: Tensor, y: Tensor) -> Tensor:
    """The rounding of a margin (n,), so that a row above it keeps its verdict in another batch.

    Four units in the last place of the two logits that compete: neither a constant that is added to all logits nor a
    class that is out of the question makes it larger than it must be. Searches for a radius measure it besides.
    """
    own = y[:, None]
    rival = logits.detach().scatter(1, own, -torch.inf).amax(1)
    sizes = logits.detach().gather(1, own)[:, 0].abs() + rival.abs()
    return 4 * torch.finfo(logits.dtype).eps * sizes.nan_to_num(posinf=0.0)


def fooled(classifier: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which rows (n,) of `x` are safely not classified as `y`."""
    with torch.no_grad():
        logits = classifier(x)
    return margin(logits, y) > slack(logits, y)


def margin_and_gradient(classifier: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Margins (n,), which of them are over the boundary (n,), and the margins' gradients in the shape of `x`."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
        margins = margin(logits, y)
        require_gradient(margins)
        (gradient,) = torch.autograd.grad(margins.sum(), x)
    margins = margins.detach()
    return margins, margins > slack(logits, y), gradient


def require_gradient(output: Tensor) -> None:
    """Refuse a classifier through which no gradient flows, instead of attacking it in vain."""
    if output.grad_fn is None:
        raise ValueError(
            "classifier must be differentiable in its input, but its logits carry no gradient "
            "(does it detach, round or run under torch.no_grad?)"
        )


def checked(
    classifier: Model, x: Numbers, y: Numbers, bounds: Box | None
) -> tuple[Tensor, Tensor, tuple[float, float] | None]:
    """The arguments of an attack, checked; the images as a detached tensor."""
    check.network("classifier", classifier)
    x = check.images("x", x).detach()
    return x, check.labels("y", y, x), check.box("bounds", bounds, x)


def misclassified(classifier: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which rows (n,) are not classified as `y` to begin with; an empty batch asks the classifier nothing."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    with torch.no_grad():
        logits = check.classify(classifier, x)
    if (y >= logits.shape[1]).any():
        raise ValueError(f"y must hold labels below K = {logits.shape[1]}, got {check.where(y, y >= logits.shape[1])}")
    return logits.argmax(1) != y
