"""Activations, max pooling and MaxMin: their slopes, rounded outwards."""

from __future__ import annotations

import math

import torch
from torch import nn

from companion.certificates import rounding
from companion.certificates.layers import Bounded, Elementwise, Shape, Table, ranked, refuse, weight
from companion.models.architectures import MaxMin

# Smallest and largest slope. GELU's are 1 − s and s = Φ(√2) + √2 φ(√2) = 1.128904145..., SiLU's 1.0998393201...
_SLOPES = {
    nn.ReLU: (0.0, 1.0),
    nn.ReLU6: (0.0, 1.0),
    nn.Hardtanh: (0.0, 1.0),
    nn.Tanh: (0.0, 1.0),
    nn.Softsign: (0.0, 1.0),
    nn.LogSigmoid: (0.0, 1.0),
    nn.Sigmoid: (0.0, 0.25),
    nn.Hardsigmoid: (0.0, 0.16666666666666669),
    nn.Hardswish: (-0.5, 1.5),
    nn.SiLU: (-0.0998393202, 1.0998393202),
    nn.Mish: (-0.1125261224, 1.0884981613),
    nn.SELU: (0.0, 1.7580993409),
}
_GELU = {"none": (-0.1289041452, 1.1289041452), "tanh": (-0.1289930687, 1.1289930687)}


def _fixed(layer: nn.Module, shape: Shape) -> Elementwise:
    return Elementwise(shape, *_SLOPES[type(layer)])


def _gelu(layer: nn.GELU, shape: Shape) -> Elementwise:
    if layer.approximate not in _GELU:
        raise refuse("have GELU with approximate 'none' or 'tanh'", layer)
    return Elementwise(shape, *_GELU[layer.approximate])


def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> Elementwise:
    slope = _number(layer, "negative_slope")
    return Elementwise(shape, min(slope, 1.0), max(slope, 1.0))


def _prelu(layer: nn.PReLU, shape: Shape) -> Elementwise:
    slopes = weight(layer, "weight")
    return Elementwise(shape, min(slopes.min().item(), 1.0), max(slopes.max().item(), 1.0))


def _elu(layer: nn.ELU, shape: Shape) -> Elementwise:
    # Slope alpha eˣ for x < 0, 1 for x > 0.
    alpha = _number(layer, "alpha")
    return Elementwise(shape, min(alpha, 0.0), max(alpha, 1.0))


def _celu(layer: nn.CELU, shape: Shape) -> Elementwise:
    # Slope e^(x / alpha) for x < 0: without bound if alpha is negative.
    if _number(layer, "alpha") <= 0:
        raise refuse("have CELU with positive alpha", layer)
    return Elementwise(shape, 0.0, 1.0)


def _softplus(layer: nn.Softplus, shape: Shape) -> Elementwise:
    """log(1 + exp(βx)) / β; its slope is a sigmoid.

    Above the threshold t PyTorch returns x itself, e⁻ᵗ / β less. Up to the accuracy of float32, e⁻ᵗ ≤ 2⁻²⁴ t, that is
    rounding; beyond it is a jump, and no Lipschitz constant holds.
    """
    beta, threshold = _number(layer, "beta"), _number(layer, "threshold")
    if beta <= 0 or threshold <= 0 or math.exp(-threshold) > 2**-24 * threshold:
        raise refuse("have Softplus with positive beta and a threshold of at least 15, below which it jumps", layer)
    return Elementwise(shape, 0.0, 1.0)


def _number(layer: nn.Module, name: str) -> float:
    value = float(getattr(layer, name))
    if not math.isfinite(value):
        raise refuse(f"have finite {name}", layer)
    return value


def _max_pool(layer: nn.MaxPool1d | nn.MaxPool2d, shape: Shape) -> Bounded:
    """√(the most windows that one entry is in): a maximum moves by no more than some entry of its window."""
    axes = 2 if type(layer) is nn.MaxPool2d else 1
    ranked(layer, shape, axes + 1)
    if layer.return_indices:
        raise refuse("have max pooling that returns no indices", layer)
    output = layer.forward(torch.zeros(1, *shape, dtype=torch.float64))
    if not output.isfinite().all():
        raise refuse("have no max pooling over padding alone", layer)
    names = ("kernel_size", "stride", "padding", "dilation")
    options = [torch.as_tensor(getattr(layer, name)).expand(axes).tolist() for name in names]
    windows = 1
    for axis, (size, stride, padding, dilation) in enumerate(zip(*options, strict=True), start=1):
        starts = torch.arange(output.shape[axis + 1])[:, None] * stride - padding
        touched = (starts + torch.arange(size) * dilation).flatten()
        inside = touched[(touched >= 0) & (touched < shape[axis])]
        windows *= int(torch.bincount(inside).max())
    constant = 1.0 if windows == 1 else rounding.root(windows)
    return Bounded(shape, tuple(output.shape[1:]), constant, str(layer))


def _maxmin(layer: MaxMin, shape: Shape) -> Bounded:
    """1: to sort two pairs brings them no farther apart (chapter on certificates)."""
    return Bounded(shape, tuple(layer(torch.zeros(1, *shape)).shape[1:]), 1.0, str(layer))


TABLE: Table = {kind: _fixed for kind in _SLOPES} | {
    MaxMin: _maxmin,
    nn.GELU: _gelu,
    nn.LeakyReLU: _leaky_relu,
    nn.PReLU: _prelu,
    nn.ELU: _elu,
    nn.CELU: _celu,
    nn.Softplus: _softplus,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
}
