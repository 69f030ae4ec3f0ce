"""Training on adversarial images: one's own, or those of other networks as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion import _validation as check
from companion._fit import Plain, fit
from companion._types import Box, Model, Numbers
from companion.attacks.sign import loss_gradient
from companion.defences.distillation import batch


def ensemble_adversarial_training(
    network: nn.Module,
    static: Sequence[Model],
    images: Numbers,
    labels: Numbers,
    *,
    eps: float,
    bounds: Box | None = (0.0, 1.0),
    steps: int = 2_000,
    batch_size: int = 64,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> nn.Module:
    """Train on images and, with equal weight, on their FGSM perturbations, by `network` or one of `static`.

    With an empty `static` this is the plain adversarial training of Goodfellow et al.: the network learns from
    perturbations that it makes itself, and may learn to make bad ones. Those of static networks it cannot spoil.

    Args:
        network: an untrained classifier; it stays as it is.
        static: trained classifiers, whose perturbations are used besides the network's own; may be empty.
        images: (n, *image) training images.
        labels: (n,) their labels.
        eps: size of the perturbations, in L∞; positive.
        bounds: None, or the pixel box (low, high).
        steps: training steps; each draws one source of perturbations.
        batch_size: images a step.
        augment: None, or (images, generator) -> images, applied to every batch.
        seed: seeds the order of the images and `augment`.
        progress: show a bar.

    Returns:
        The trained network, in evaluation mode, its parameters frozen.

    Source: Tramèr et al. (2018), section 4; plain: Goodfellow et al. (2015), section 6.
    """
    images = check.images("images", images)
    labels = check.labels("labels", labels, images)
    bounds, eps, run = check.box("bounds", bounds, images), check.positive("eps", eps), Plain(seed, progress)
    for index, classifier in enumerate(static):
        check.network(f"static[{index}]", classifier)
    loss = adversarial_loss(images, labels, static, eps, bounds, run, augment)
    return fit(network, loss, len(images), run, steps=steps, batch_size=batch_size)


def adversarial_loss(
    images: Tensor,
    labels: Tensor,
    static: Sequence[Model],
    eps: float,
    bounds: tuple[float, float] | None,
    run: Any,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Callable[[Model, Tensor], Tensor]:
    """The loss for `_fit.fit`: the mean of the cross-entropies of a batch and of its FGSM perturbation.

    The source of the perturbation follows from the random numbers, so that a run goes on as it would have.
    """

    def loss(network: Model, chosen: Tensor) -> Tensor:
        clean, wanted = batch(images, chosen, run, augment), labels[chosen.to(labels.device)]
        turn = int(torch.randint(1 + len(static), (), generator=run.random)) if static else 0
        _, gradient = loss_gradient(static[turn - 1] if turn else network, clean, wanted)
        perturbed = clean + eps * gradient.sign()
        if bounds is not None:
            perturbed = perturbed.clamp(*bounds)
        return (F.cross_entropy(network(clean), wanted) + F.cross_entropy(network(perturbed), wanted)) / 2

    return loss
