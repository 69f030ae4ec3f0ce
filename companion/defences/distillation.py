"""Defensive distillation: a network taught by another one's probabilities, at a temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion import _validation as check
from companion._fit import Plain, fit
from companion._types import Model, Numbers


def distill(
    network: nn.Module,
    images: Numbers,
    labels: Numbers,
    *,
    temperature: float = 20.0,
    steps: int = 2_000,
    batch_size: int = 64,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> nn.Module:
    """A student of itself: trained at a temperature on labels, then again on its own probabilities.

    Both the teacher and the student begin as `network` and are trained with logits divided by `temperature`. The
    student is used without dividing, so its logits are about `temperature` times larger than usual. That saturates
    the softmax: the gradient of the cross-entropy all but vanishes, while the classes and their borders are where they
    would be without defence.

    Args:
        network: an untrained classifier; it stays as it is.
        images: (n, *image) training images.
        labels: (n,) their labels.
        temperature: positive; 1 is ordinary training.
        steps: steps of each of the two trainings.
        batch_size: images a step.
        augment: None, or (images, generator) -> images, applied to every batch.
        seed: seeds the order of the images and `augment`.
        progress: show a bar.

    Returns:
        The student, in evaluation mode, its parameters frozen.

    Source: Papernot et al. (2016), Distillation as a defense; why it fails: Carlini & Wagner (2017), section 4.
    """
    images = check.images("images", images)
    labels = check.labels("labels", labels, images)
    temperature = check.positive("temperature", temperature)
    options = dict(steps=steps, batch_size=batch_size)
    run = Plain(seed, progress)
    teacher = fit(network, label_loss(images, labels, temperature, run, augment), len(images), run, **options)
    run = Plain(seed, progress)
    return fit(network, teacher_loss(images, teacher, temperature, run, augment), len(images), run, **options)


def label_loss(
    images: Tensor,
    labels: Tensor,
    temperature: float,
    run: Any,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Callable[[Model, Tensor], Tensor]:
    """The loss of the teacher for `_fit.fit`: cross-entropy of logits / temperature with the labels."""

    def loss(network: Model, chosen: Tensor) -> Tensor:
        logits = network(batch(images, chosen, run, augment))
        return F.cross_entropy(logits / temperature, labels[chosen.to(labels.device)])

    return loss


def teacher_loss(
    images: Tensor,
    teacher: Model,
    temperature: float,
    run: Any,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Callable[[Model, Tensor], Tensor]:
    """The loss of the student for `_fit.fit`: cross-entropy with the teacher's probabilities, both softened."""

    def loss(network: Model, chosen: Tensor) -> Tensor:
        seen = batch(images, chosen, run, augment)
        with torch.no_grad():
            wanted = (teacher(seen) / temperature).softmax(1)
        return F.cross_entropy(network(seen) / temperature, wanted)

    return loss


def batch(
    images: Tensor, chosen: Tensor, run: Any, augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
) -> Tensor:
    """The chosen images, augmented with the run's random numbers."""
    seen = images[chosen.to(images.device)]
    return seen if augment is None else augment(seen, run.random)
