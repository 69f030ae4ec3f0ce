"""Convolutions: their norm at every image size, from the Fourier symbol."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.certificates import rounding
from companion.certificates.layers import Affine, Shape, Table, ranked, refuse, weight, weights

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d}
_Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


def _convolution(layer: nn.Conv1d | nn.Conv2d, shape: Shape) -> Affine:
    weights(layer, "bias")
    ranked(layer, shape, len(layer.kernel_size) + 1)
    if layer.padding_mode not in ("zeros", "reflect", "replicate", "circular"):
        raise refuse("pad convolutions by zeros, reflect, replicate or circular", layer)
    return _convolving(layer, weight(layer, "weight"), shape, roundings=0)


def _convolving(layer: nn.Conv1d | nn.Conv2d, kernel: Tensor, shape: Shape, roundings: int) -> Affine:
    padded, convolve = layer.padding_mode != "zeros", _CONVOLVE[kernel.ndim - 2]
    padding = 0 if padded else layer.padding

    def apply(x: Tensor, kernel: Tensor = kernel) -> Tensor:
        if padded:
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        return convolve(x, kernel, None, layer.stride, padding, layer.dilation, layer.groups)

    def norm() -> float:
        bound = _norm(kernel.chunk(layer.groups), layer, roundings)
        return rounding.product(bound, _padding_norm(layer, shape, affine.out)) if padded else bound

    def rescaled(scale: Tensor) -> Affine:
        return _convolving(layer, kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), shape, roundings + 8)

    affine = Affine(
        shape, apply, lambda x: apply(x, kernel.abs()), norm, kernel[0].numel() + roundings, rescaled=rescaled
    )
    return affine


def _transposed(layer: nn.ConvTranspose1d | nn.ConvTranspose2d, shape: Shape) -> Affine:
    weights(layer, "bias")
    ranked(layer, shape, len(layer.kernel_size) + 1)
    if layer.padding_mode != "zeros":
        raise refuse("pad transposed convolutions by zeros", layer)
    return _transposing(layer, weight(layer, "weight"), shape, roundings=0)


def _transposing(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d, kernel: Tensor, shape: Shape, roundings: int
) -> Affine:
    """The adjoint of a convolution, whose rows are our input channels: the norms are equal."""
    transpose = _TRANSPOSE[kernel.ndim - 2]

    def apply(x: Tensor, kernel: Tensor = kernel) -> Tensor:
        options = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return transpose(x, kernel, None, *options)

    def rescaled(scale: Tensor) -> Affine:
        parts = zip(kernel.chunk(layer.groups), scale.chunk(layer.groups), strict=True)
        groups = [group * part.reshape(1, -1, *[1] * (kernel.ndim - 2)) for group, part in parts]
        return _transposing(layer, torch.cat(groups), shape, roundings + 8)

    return Affine(
        shape,
        apply,
        lambda x: apply(x, kernel.abs()),
        lambda: _norm(kernel.chunk(layer.groups), layer, roundings),
        kernel[:, 0].numel() + roundings,
        rescaled=rescaled,
    )


def _padding_norm(layer: nn.Conv1d | nn.Conv2d, shape: Shape, out: Shape) -> float:
    """How much longer a padded image can be than the image: √(the most copies of one pixel), axis by axis.

    Circular padding costs nothing if the stride divides the side and no window comes twice: on periodic images the
    convolution then is multiplication by some values of its symbol.
    """
    copies, pads = 1, layer._reversed_padding_repeated_twice
    for axis, stride in enumerate(layer.stride, start=1):
        side, first = shape[axis], 2 * (len(shape) - 1 - axis)
        if layer.padding_mode == "circular" and side % stride == 0 and out[axis] <= side // stride:
            continue
        pixels = torch.arange(side, dtype=torch.float64)[None, None]
        padded = F.pad(pixels, pads[first : first + 2], mode=layer.padding_mode)
        copies *= int(torch.bincount(padded.flatten().long()).max())
    return 1.0 if copies == 1 else rounding.root(copies)


def _norm(groups: tuple[Tensor, ...], layer: _Convolution, roundings: int) -> float:
    return max(_symbol_supremum(_dilate(group, layer.dilation), layer.stride, roundings) for group in groups)


def _dilate(kernel: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """The kernel (rows, columns, *taps) with zeros between its taps."""
    for axis, gap in enumerate(dilation, start=2):
        size = (kernel.shape[axis] - 1) * gap + 1
        spread = kernel.new_zeros(*kernel.shape[:axis], size, *kernel.shape[axis + 1 :])
        spread.index_copy_(axis, torch.arange(0, size, gap), kernel)
        kernel = spread
    return kernel


def _symbol_supremum(kernel: Tensor, stride: tuple[int, ...], roundings: int) -> float:
    """An upper bound on sup_θ ‖P(θ)‖, P the Fourier symbol of a strided convolution on an infinite grid.

    Zero padding and cropping only restrict that convolution, so its norm bounds the layer's at every image size. With
    stride s the symbol is a (rows, columns·s^dims) matrix, one block per phase of the input. Each entry is a
    trigonometric polynomial of degree m = ⌊Q/2⌋ for Q taps per phase, and on N equidistant points such a polynomial
    reaches at least cos(πm/N) times its maximum: dividing by that turns the largest grid value into a bound.
    """
    for axis, step in enumerate(stride, start=2):
        missing = -kernel.shape[axis] % step
        kernel = torch.cat([kernel, kernel.new_zeros(*kernel.shape[:axis], missing, *kernel.shape[axis + 1 :])], axis)
        kernel = kernel.unflatten(axis, (-1, step)).movedim(axis + 1, 2).flatten(1, 2)
    kernel, exponent = rounding.scaled(kernel)
    taps = kernel.shape[2:]
    degrees = [count // 2 for count in taps]
    grid = [max(1, 32 * degree) for degree in degrees]
    top = _largest_symbol(kernel, _waves(taps, grid), roundings)
    slack = math.prod(math.cos(math.pi * degree / size) for degree, size in zip(degrees, grid, strict=True))
    # Eight roundings for the cosines, their product and the quotient.
    bound = rounding.product(rounding.root(top) / slack, 1 + rounding.gamma(8 * len(taps) + 8))
    return math.ldexp(bound, exponent)


def _waves(taps: torch.Size, grid: list[int]) -> Tensor:
    """exp(−2πi Σ_a j_a τ_a / N_a) for points j of the grid and taps τ: (points, taps).

    Real weights make the symbol at −θ the conjugate of that at θ, so half of the last axis is enough.
    """
    waves = torch.ones(1, 1, dtype=torch.complex128)
    for axis, (count, size) in enumerate(zip(taps, grid, strict=True)):
        points = size // 2 + 1 if axis == len(grid) - 1 else size
        turns = (torch.arange(points)[:, None] * torch.arange(count) % size).double() / size
        factor = torch.exp(-2j * math.pi * turns)
        waves = (waves[:, None, :, None] * factor[None, :, None, :]).flatten(2).flatten(0, 1)
    return waves


def _largest_symbol(kernel: Tensor, waves: Tensor, roundings: int) -> float:
    """An upper bound on max ‖P(θ)‖² over the grid, P(θ) = Σ_τ kernel_τ waves(θ, τ).

    The error of each entry of P is at most ε Σ_τ |kernel_τ| with ε = γ_{4 (taps + roundings + 64)}: angles, of at most
    2π, and exponentials are good for 64 roundings. So with F = ‖Σ_τ |kernel_τ|‖_F both ‖P‖_F ≤ F (1 + ε) and the norm
    of the error ≤ ε F hold, and PPᴴ is computed to within 3 ε F² + γ_{8 columns} F².
    """
    rows, columns = kernel.shape[:2]
    entries, bound = kernel.flatten(2).flatten(0, 1).mT.to(waves), 0.0
    size = kernel.abs().flatten(2).sum(2).square().sum().item()
    error = 1.1 * size * rounding.gamma(12 * (waves.shape[1] + roundings + 64) + 8 * (rows + columns))
    if size == 0:
        return 0.0
    identity = torch.eye(min(rows, columns), dtype=torch.float64)
    for part in waves.split(max(1, 2**21 // (rows * columns))):
        symbol = (part @ entries).unflatten(1, (rows, columns))
        if rows > columns:
            symbol = symbol.mT
        gram = symbol @ symbol.mH

        def holds(square: float, gram: Tensor = gram) -> bool:
            return rounding.positive(square * identity - gram, error)

        if not holds(bound):
            bound = rounding.least(_guess(gram) + error, holds)
    return bound


def _guess(grams: Tensor) -> float:
    """Nearly the largest eigenvalue of many matrices: computed only where a few power steps find large ones."""
    vector = torch.randn(grams.shape[-1], 1, dtype=grams.dtype, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        vector = nn.functional.normalize(grams @ vector, dim=-2)
    likely = (grams @ vector).norm(dim=(-2, -1)).topk(min(4, len(grams))).indices
    return torch.linalg.eigvalsh(grams[likely])[:, -1].max().item()


TABLE: Table = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
}
