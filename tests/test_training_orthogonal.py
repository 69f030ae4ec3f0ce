"""Weights that stay orthogonal: where they begin, how they are brought back, what they end as."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from companion.training.orthogonal import orthogonal_end, orthogonal_start, step_back


@pytest.fixture
def network():
    torch.manual_seed(0)
    return orthogonal_start(nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 6)), 3.0)


def singular_values(network: nn.Sequential) -> list[torch.Tensor]:
    return [torch.linalg.svdvals(layer.weight.detach().double()) for layer in network if isinstance(layer, nn.Linear)]


def is_orthogonal(network: nn.Sequential, tolerance: float = 1e-6) -> bool:
    pairs = zip(singular_values(network), (1.0, 1.0, 3.0), strict=True)
    return all(torch.allclose(values / scale, torch.ones_like(values), atol=tolerance) for values, scale in pairs)


def disturb(network: nn.Sequential, size: float) -> None:
    with torch.no_grad():
        for layer in (network[0], network[2], network[3]):
            layer.weight += size * torch.randn(layer.weight.shape)


def test_start_is_orthogonal(network):
    assert is_orthogonal(network)
    disturb(network, 1e-4)
    assert not is_orthogonal(network)


def test_a_step_back_follows_its_formula(network):
    disturb(network, 0.02)
    errors = [values / scale - 1 for values, scale in zip(singular_values(network), (1, 1, 3), strict=True)]
    step_back(network, 3.0)
    for values, scale, error in zip(singular_values(network), (1, 1, 3), errors, strict=True):
        expected = 1 - 1.5 * error**2 - 0.5 * error**3
        torch.testing.assert_close(values / scale, expected.sort(descending=True).values, rtol=1e-6, atol=1e-6)


def test_steps_back_and_the_end_find_the_nearest_orthogonal_weights(network):
    disturb(network, 0.02)
    stepped = copy.deepcopy(network)
    for _ in range(6):
        step_back(stepped, 3.0)
    orthogonal_end(network, 3.0)
    assert is_orthogonal(network)
    for first, second in zip(network.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
