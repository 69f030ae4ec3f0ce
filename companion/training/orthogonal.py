"""Networks whose weights stay orthogonal while they are trained, and the plain dense ones they end as."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal


class Times(nn.Module):
    """A weight -> `factor` times that weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        """The scaled weight, in the shape of `weight`."""
        return self.factor * weight


def constrain(network: nn.Sequential, constant: float) -> nn.Sequential:
    """`network` itself, the weight of every linear layer held orthogonal and that of the last `constant` times so.

    A weight that is not square has orthonormal rows or columns, whichever are fewer: all singular values are 1.

    Source: A. Trockman and J. Z. Kolter, Orthogonalizing convolutional layers with the Cayley transform, 2021.
    """
    layers = linear_layers(network)
    for layer in layers:
        orthogonal(layer, orthogonal_map="cayley")
    parametrize.register_parametrization(layers[-1], "weight", Times(constant))
    return network


def dense(network: nn.Sequential) -> nn.Sequential:
    """`network` itself, its constrained weights made plain parameters of their present values."""
    for layer in linear_layers(network):
        parametrize.remove_parametrizations(layer, "weight")
    return network


def linear_layers(network: nn.Sequential) -> list[nn.Linear]:
    """The linear layers, first to last; a constrained one is of a subclass."""
    return [layer for layer in network if isinstance(layer, nn.Linear)]
