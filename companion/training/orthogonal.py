"""Networks whose linear layers stay orthogonal while they are trained, by a step back after every step of descent."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def orthogonal_start(network: nn.Sequential, constant: float) -> nn.Sequential:
    """`network` itself with random orthogonal weights, the last one `constant` times so."""
    for weight, scale in _weights(network, constant):
        nn.init.orthogonal_(weight, gain=scale)
    return network


@torch.no_grad()
def step_back(network: nn.Sequential, constant: float) -> None:
    """Move every weight W most of the way to the nearest orthogonal one: 3/2 W − 1/2 W WᵀW.

    It takes a singular value 1 + e to 1 − 3/2 e² − 1/2 e³, so that after a small step of descent it is enough.

    Source: Å. Björck and C. Bowie, SIAM Journal on Numerical Analysis 8, 1971; C. Anil et al., ICML 2019.
    """
    for weight, scale in _weights(network, constant):
        tall = (weight if weight.shape[0] >= weight.shape[1] else weight.T) / scale
        tall = 1.5 * tall - 0.5 * tall @ (tall.T @ tall)
        weight.copy_(scale * (tall if weight.shape[0] >= weight.shape[1] else tall.T))


@torch.no_grad()
def orthogonal_end(network: nn.Sequential, constant: float) -> nn.Sequential:
    """`network` itself, every weight replaced by the nearest orthogonal one, the last by `constant` times that.

    A weight that is not square gets orthonormal rows or columns, whichever are fewer: all singular values are equal.
    """
    for weight, scale in _weights(network, constant):
        left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
        weight.copy_(scale * left @ right)
    return network


def _weights(network: nn.Sequential, constant: float) -> list[tuple[Tensor, float]]:
    """Weight and scale of every linear layer, first to last."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [(layer.weight, constant if layer is layers[-1] else 1.0) for layer in layers]
