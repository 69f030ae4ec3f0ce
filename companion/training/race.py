"""The networks of the arms race, of digits and of photographs: a small network, undefended and defended in three ways,
and what attackers make of each victim who see only its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from companion import _registry, arms_race, models
from companion._fit import fit
from companion._types import Model
from companion.defences.adversarial import adversarial_loss
from companion.defences.distillation import label_loss, teacher_loss
from companion.defences.masking import RandomActivations, eot, quantise
from companion.defences.surrogates import substitute
from companion.training.run import Run

DEFENDED = ("surrogate", "distilled", "fgsm-trained", "ensemble-trained")
# The victims of the matrix. Behind those that are no trained defence is the undefended network.
VICTIMS = tuple(name.lower() for name in arms_race.VICTIMS)
NETWORKS = (*DEFENDED, *(f"substitute-{victim}" for victim in VICTIMS))
TEMPERATURE, ROUNDS = 20.0, 6


def train_defended(
    run: Run,
    kind: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    static: Sequence[Model],
    eps: float,
    steps: int,
    batch_size: int,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with one of the training defences, or, as surrogate, with none; and what its card says of it.

    Args:
        run: seeds it and keeps its checkpoints.
        kind: one of `DEFENDED`.
        network: an untrained classifier; it stays as it is.
        images: (n, *image), as `augment` takes them.
        labels: (n,) their labels.
        augment: (images, generator) -> images in [0, 1], distorted.
        static: the networks whose perturbations the ensemble-trained one sees besides its own.
        eps: size of the perturbations, in L∞.
        steps: steps of each training; distillation has two.
        batch_size: images a step.
        precision: the context in which networks are evaluated; their logits are float32 again.
    """

    def within(network: Model) -> Model:
        def logits(x: Tensor) -> Tensor:
            with precision():
                found = network(x)
            return found.float()

        return logits

    def fitted(run: Run, loss: Callable[[Model, Tensor], Tensor]) -> nn.Module:
        def precise(network: nn.Module, chosen: Tensor) -> Tensor:
            return loss(within(network), chosen)

        return fit(network, precise, len(images), run, steps=steps, batch_size=batch_size)

    if kind == "surrogate":
        return fitted(run, label_loss(images, labels, 1.0, run, augment)), {}
    if kind == "distilled":
        first = run.part("teacher")
        teacher = fitted(first, label_loss(images, labels, TEMPERATURE, first, augment))
        run.seconds = first.seconds
        student = fitted(run, teacher_loss(images, within(teacher), TEMPERATURE, run, augment))
        return student, {"temperature": TEMPERATURE}
    others = [within(other) for other in static] if kind == "ensemble-trained" else []
    return fitted(run, adversarial_loss(images, labels, others, eps, (0.0, 1.0), run, augment)), {"eps": eps}


def train_substitute(
    run: Run,
    data: str,
    victim: str,
    network: nn.Module,
    behind: nn.Sequential,
    seeds: Tensor,
    judged: Tensor,
    *,
    steps: int,
    batch_size: int = 64,
) -> tuple[nn.Module, dict[str, Any]]:
    """What an attacker makes of a victim's labels, who begins with generated images; not resumed, begun again.

    Args:
        run: seeds it.
        data: "digits" or "cifar10".
        victim: one of `VICTIMS`.
        network: an untrained classifier of the attacker's choice.
        behind: the trained network behind the victim.
        seeds: (n, *image) the attacker's images to begin with.
        judged: (m, *image) images on which the two are compared.
        steps: training steps a round.
        batch_size: images a step.
    Returns:
        The substitute, and for its card how many labels it took and how often it agrees with the victim.
    """
    asked: Model = behind
    setting = arms_race.SETTINGS[data]
    if victim == "quantised":
        asked = lambda x: behind(quantise(x, levels=setting.levels))  # noqa: E731
    elif victim == "random":
        asked = eot(RandomActivations(behind, keep=setting.keep, seed=run.seed), draws=setting.draws)
    options = dict(rounds=ROUNDS, steps=steps, batch_size=batch_size, seed=run.seed)
    network, queries = substitute(network, asked, seeds, **options)
    agreed = [network(part).argmax(1) == asked(part).argmax(1) for part in judged.split(1000)]
    return network, {"victim": victim, "queries": queries, "agreement": torch.cat(agreed).double().mean().item()}


def made(name: str, out: Path) -> nn.Sequential:
    """The network of this run if it is there, else the shipped one."""
    folder = out if name in _registry.trained(out) else models.WEIGHTS
    return models.load(name, folder=folder)
