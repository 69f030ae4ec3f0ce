"""Affine layers but convolutions: linear layers, batch norm, averages, upsampling, and what only moves entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn import functional as F

from companion.certificates import rounding
from companion.certificates.layers import Affine, Shape, Table, ranked, refuse, weight, weights
from companion.models.architectures import Centre


def _linear(layer: nn.Linear, shape: Shape) -> Affine:
    weights(layer, "bias")
    return _matrix(weight(layer, "weight"), shape, roundings=0)


def _matrix(matrix: Tensor, shape: Shape, roundings: int) -> Affine:
    """x ↦ matrix x on the last dimension; the entries of the matrix have gone through `roundings`."""
    return Affine(
        shape,
        apply=lambda x: F.linear(x, matrix),
        absolute=lambda x: F.linear(x, matrix.abs()),
        norm=lambda: rounding.spectral_norm(matrix, matrix.abs(), roundings),
        roundings=matrix.shape[1] + roundings,
        # Channels are the last dimension only if there is one beside the batch.
        rescaled=(lambda scale: _matrix(scale[:, None] * matrix, shape, roundings + 8)) if len(shape) == 1 else None,
    )


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, shape: Shape) -> Affine:
    """In evaluation mode: every channel times weight / √(running_var + eps), within eight roundings."""
    ranked(layer, shape, *((3,) if type(layer) is nn.BatchNorm2d else (1, 2)))
    mean, variance = weights(layer, "running_mean"), weights(layer, "running_var")
    if mean is None or variance is None:
        raise refuse("have no batch norm without running statistics, which depends on the batch", layer)
    scale = (variance + layer.eps).rsqrt()
    weight = weights(layer, "weight")
    weights(layer, "bias")
    if weight is not None:
        scale = scale * weight
    if not scale.isfinite().all():
        raise refuse("have batch norm of positive variance", layer)
    if len(scale) != shape[0]:
        raise refuse(f"give batch norm its {len(scale)} channels, not {shape[0]}", layer)
    factors = scale.reshape(-1, *[1] * (len(shape) - 1))
    largest = rounding.product(scale.abs().max().item(), 1 + rounding.gamma(8))
    return Affine(shape, lambda x: factors * x, lambda x: factors.abs() * x, lambda: largest, roundings=8, scale=scale)


def _centre(layer: Centre, shape: Shape) -> Affine:
    return Affine(shape, lambda x: 4 * x, lambda x: 4 * x, lambda: 4.0)


def _moves_entries(layer: nn.Module, shape: Shape) -> Affine:
    if type(layer) is nn.PixelShuffle:
        ranked(layer, shape, 3)
    for name in ("start_dim", "end_dim", "dim"):
        where = getattr(layer, name, 1)
        if not isinstance(where, int) or where % (len(shape) + 1) == 0:
            raise refuse("leave the batch, dimension 0, as it is", layer)
    return Affine(shape, layer.forward, layer.forward, lambda: 1.0, keeps_norm=True)


def _average(layer: nn.Module, shape: Shape) -> Affine:
    ranked(layer, shape, 3 if type(layer) in (nn.AvgPool2d, nn.AdaptiveAvgPool2d) else 2)
    return _same_sign(layer, shape)


def _upsample(layer: nn.Upsample, shape: Shape) -> Affine:
    """Interpolation with the weights that PyTorch computes in float64."""
    ranked(layer, shape, 2, 3)
    if layer.mode not in ("nearest", "nearest-exact", "linear", "bilinear"):
        raise refuse("upsample by mode nearest, nearest-exact, linear or bilinear", layer)
    return _same_sign(layer, shape)


def _same_sign(layer: nn.Module, shape: Shape) -> Affine:
    """A map whose entries all have one sign: √(‖A‖₁ ‖A‖_∞), its largest column sum and its largest row sum."""

    def norm() -> float:
        found: Any = vjp(layer.forward, torch.ones(1, *shape, dtype=torch.float64))
        rows, pull_back = found
        (columns,) = pull_back(torch.ones_like(rows))
        square = rows.abs().max().item() * columns.abs().max().item()
        return rounding.root(square * (1 + 4 * rounding.gamma(roundings)))

    roundings = 4 + torch.Size(shape).numel()
    with torch.no_grad():
        if not layer.forward(torch.ones(1, *shape, dtype=torch.float64)).isfinite().all():
            raise refuse("average over at least one entry", layer)
    return Affine(shape, layer.forward, lambda x: layer.forward(x).abs(), norm, roundings=roundings)


TABLE: Table = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    Centre: _centre,
    nn.AvgPool1d: _average,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool1d: _average,
    nn.AdaptiveAvgPool2d: _average,
    nn.Upsample: _upsample,
    nn.Flatten: _moves_entries,
    nn.Unflatten: _moves_entries,
    nn.PixelShuffle: _moves_entries,
    nn.Identity: _moves_entries,
    nn.Dropout: _moves_entries,
}
