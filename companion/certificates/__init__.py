"""Proved Lipschitz constants of networks.

A table says of every exact type of layer what its map is; whatever is not in it, or may do something else than its type
says, is refused. `network` multiplies norms, `semidefinite` does better with multipliers that it checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from companion import _validation as check
from companion.certificates.layers import input_dimensions
from companion.certificates.network import parts, product_bound
from companion.certificates.semidefinite import fit_multipliers, semidefinite_bound
from companion.certificates.stored import load_multipliers
from companion.smoothness import Lipschitz

__all__ = ["certified_lipschitz", "fit_multipliers", "load_multipliers"]


def certified_lipschitz(
    network: nn.Module,
    input_shape: Sequence[int],
    *,
    multipliers: Sequence[Tensor] | None = None,
    largest_matrix: int = 2**24,
) -> Lipschitz:
    """A certified Lipschitz constant of a feed-forward network: the product of its layers' operator norms.

    Neighbouring affine layers (linear, convolution, batch norm in evaluation mode, reshaping, average pooling,
    upsampling) are taken as one map. Where that map is small enough it is written out as a matrix and its norm is
    exact but for rounding; where not, its layers are bounded one by one, a convolution by the supremum of its Fourier
    symbol, which holds for every image size. A `Residual` has the sum of the constants of its two branches.

    The number is above the constant of the network in real arithmetic, with the weights as they are: every rounding
    error of the computation here is bounded and added (`rounding`). Not covered is the rounding of the network itself.
    If evaluated images are off by at most e, two of them are at most L ‖z − z'‖ + 2 e apart.

    Args:
        network: an `nn.Sequential`, possibly nested, of layers in the table, activations and max pooling included;
            the networks of `models.architectures` are made of these.
        input_shape: shape of one input, (latent_dim,) for a generator.
        multipliers: positive tensors, one for each activation between two affine maps, from `fit_multipliers` or
            `load_multipliers`; the result is then the smaller of the product and what they prove (`semidefinite`).
        largest_matrix: most entries of a matrix that is written out; the default takes 128 MB. More gives a tighter
            bound for convolutions, and takes longer.

    Returns:
        `Lipschitz(L)` with ‖network(z) − network(z')‖ ≤ L ‖z − z'‖ for all z, z'; L = 0 for a network that is seen to
        be constant.

    Raises:
        ValueError: if the network is in training mode, or has anything whose effect is not known for sure: a layer that
            is not of exactly a type in the table, a hook, a parametrisation, a replaced method, an option that is
            not covered, weights that are not finite and real. It is named.

    Source: product bound, Szegedy et al. (2013), section 4.3; Fourier symbol, Sedghi et al. (2019); from grid to
    supremum, Ehlich and Zeller (1964); multipliers, Fazlyab et al. (2019).
    """
    # Everything is computed on the CPU in float64, wherever the network is and whatever the caller's defaults.
    with torch.device("cpu"), torch.inference_mode(False):
        return _certified(network, input_shape, multipliers, largest_matrix)


def _certified(
    network: nn.Module, input_shape: Sequence[int], multipliers: Sequence[Tensor] | None, largest_matrix: int
) -> Lipschitz:
    check.network("network", network)
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be an nn.Sequential of feed-forward layers, got {type(network).__name__}")
    largest_matrix = check.integer("largest_matrix", largest_matrix, minimum=0)
    found = parts(network, input_dimensions(input_shape))
    bound = product_bound(found, largest_matrix)
    if multipliers is not None and bound > 0:
        bound = min(bound, semidefinite_bound(found, multipliers))
    if not math.isfinite(bound):
        raise ValueError("network must have a bound below 1.8e308, the largest number in float64, and has none")
    return Lipschitz(bound)
