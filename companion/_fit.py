"""One way to train a classifier, shared by the recipe of the shipped networks and by the defences that train."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from companion import _validation as check


class Plain:
    """A run that is seeded and keeps no checkpoints; `companion.training.Run` is one that does."""

    def __init__(self, seed: int = 0, progress: bool = False) -> None:
        self.random = torch.Generator().manual_seed(check.integer("seed", seed, minimum=0))
        self.progress = progress

    def loop(
        self,
        step: Callable[[int], dict[str, float]],
        steps: int,
        parts: dict[str, Any],
        optimizers: dict[str, Optimizer],
    ) -> None:
        """Call `step(index)` for every index."""
        for index in tqdm(range(steps), desc="training", disable=not self.progress):
            step(index)


def fit(
    network: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    count: int,
    run: Any,
    *,
    steps: int,
    batch_size: int = 64,
    rate: float = 2e-3,
) -> nn.Module:
    """A copy of `network`, trained with AdamW and a cosine schedule, in evaluation mode; `network` stays as it was.

    Args:
        network: where to begin.
        loss: (network, (batch_size,) indices of images) -> mean loss.
        count: number of images to draw indices from.
        run: its `random` draws the indices, its `loop` calls the steps.
        steps: number of steps.
        batch_size: images a step.
        rate: the learning rate at the beginning.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a torch module, got {network!r}")
    if not count:
        raise ValueError("images must hold at least one image, got none")
    steps, batch_size = check.integer("steps", steps, minimum=1), check.integer("batch_size", batch_size, minimum=1)
    network = copy.deepcopy(network).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)

    def step(index: int) -> dict[str, float]:
        set_rate(optimizer, rate * (1 + math.cos(math.pi * index / steps)) / 2)
        chosen = torch.randint(count, (batch_size,), generator=run.random)
        value = loss(network, chosen)
        descend(optimizer, value)
        return {"loss": value.item()}

    run.loop(step, steps, {"network": network}, {"optimizer": optimizer})
    return network.eval().requires_grad_(False)


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
