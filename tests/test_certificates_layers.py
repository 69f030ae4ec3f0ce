"""Every supported layer and option against the singular values of the real map, with and without writing it out."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from companion.certificates import activations, certified_lipschitz, convolutions, linear
from companion.models.architectures import Centre, MaxMin

WRITTEN_OUT, LAYER_BY_LAYER = 2**24, 0
many = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def randomised(layers: list[nn.Module], seed: int) -> nn.Sequential:
    """The layers with random weights and batch-norm statistics, float64, in evaluation mode."""
    draws = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*layers).double()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, dtype=torch.float64, generator=draws)
            value.copy_(noise.square() + 0.1 if "running_var" in name else noise)
    return model.eval()


def norm(model: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of an affine model, from its values at the unit vectors; NumPy's."""
    with torch.no_grad():
        basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        matrix = (model(basis) - model(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1)
    return float(np.linalg.norm(matrix.numpy(), 2))


def compare(layers: list[nn.Module], shape: tuple[int, ...], seed: int = 0) -> None:
    """Both bounds hold, and that of the matrix is its norm."""
    model = randomised(layers, seed)
    exact = norm(model, shape)
    # 1e-13 for the reference, which is float64 too and loses digits to the bias.
    for largest in (WRITTEN_OUT, LAYER_BY_LAYER):
        assert certified(model, shape, largest) >= exact * (1 - 1e-13)
    assert certified(model, shape, WRITTEN_OUT) <= exact * (1 + 1e-10) + 1e-13


def certified(model: nn.Module, shape: tuple[int, ...], largest: int) -> float:
    return float(certified_lipschitz(model, shape, largest_matrix=largest).constant)


seeds, sides, channels = st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4)


def each(strategy, axes: int):
    return st.tuples(*[strategy] * axes)


@many
@given(st.lists(sides, min_size=1, max_size=3), sides, st.booleans(), st.booleans(), seeds)
def test_linear(shape, out, bias, followed, seed):
    layers = [nn.Linear(shape[-1], out, bias=bias)]
    if followed and len(shape) < 3:
        # Channels are the first dimension, also where the linear layer acts on the last.
        layers.append(nn.BatchNorm1d([*shape[:-1], out][0]))
    compare(layers, tuple(shape), seed)


@many
@given(st.lists(sides, min_size=1, max_size=3), st.booleans(), st.sampled_from([1e-5, 0.1]), seeds)
def test_batch_norm(shape, affine, eps, seed):
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    compare([kind(shape[0], affine=affine, eps=eps)], tuple(shape), seed)


@many
@given(st.data())
def test_convolution(data):
    axes, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    size = data.draw(each(st.integers(1, 3), axes))
    stride, dilation = (data.draw(each(st.integers(1, most), axes)) for most in (3, 2))
    side = data.draw(each(st.integers(2, 8 if axes == 1 else 5), axes))
    mode = data.draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    padding = data.draw(st.one_of(st.just("same"), each(st.integers(0, 2), axes)))
    if padding == "same":
        stride = (1,) * axes
    within = [(d * (k - 1) + 1) // 2 for d, k in zip(dilation, size, strict=True)] if padding == "same" else padding
    assume(
        all(p <= s - (mode == "reflect") or mode in ("zeros", "replicate") for p, s in zip(within, side, strict=True))
    )
    if padding != "same":
        assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(side, padding, dilation, size, strict=True)))
    inputs, outputs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, padding_mode=mode)
    layers = [(nn.Conv1d, nn.Conv2d)[axes - 1](inputs, outputs, size, **options)]
    if data.draw(st.booleans()):
        layers.append((nn.BatchNorm1d, nn.BatchNorm2d)[axes - 1](outputs))
    compare(layers, (inputs, *side), data.draw(seeds))


@many
@given(st.data())
def test_transposed_convolution(data):
    axes, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    size, stride, dilation = (data.draw(each(st.integers(1, most), axes)) for most in (4, 3, 2))
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    padding, side = data.draw(each(st.integers(0, 2), axes)), data.draw(each(st.integers(1, 4), axes))
    lengths = zip(side, stride, padding, dilation, size, extra, strict=True)
    assume(all((n - 1) * s - 2 * p + d * (k - 1) + e + 1 > 0 for n, s, p, d, k, e in lengths))
    inputs, outputs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    options = dict(stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups)
    layers = [(nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1](inputs, outputs, size, **options)]
    if data.draw(st.booleans()):
        layers.append((nn.BatchNorm1d, nn.BatchNorm2d)[axes - 1](outputs))
    compare(layers, (inputs, *side), data.draw(seeds))


@many
@given(st.data())
def test_average_pooling(data):
    axes = data.draw(st.integers(1, 2))
    side = data.draw(each(st.integers(1, 7), axes))
    if data.draw(st.booleans()):
        layer = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[axes - 1](data.draw(each(sides, axes)))
    else:
        size = data.draw(each(st.integers(1, 4), axes))
        padding = tuple(data.draw(st.integers(0, k // 2)) for k in size)
        assume(all(k <= n + 2 * p for k, n, p in zip(size, side, padding, strict=True)))
        options = dict(stride=data.draw(each(st.integers(1, 4), axes)), padding=padding)
        options |= dict(ceil_mode=data.draw(st.booleans()), count_include_pad=data.draw(st.booleans()))
        if axes == 2:
            options |= dict(divisor_override=data.draw(st.sampled_from([None, 1, 3, -2])))
        layer = (nn.AvgPool1d, nn.AvgPool2d)[axes - 1](size, **options)
    compare([layer], (data.draw(channels), *side))


@many
@given(st.data())
def test_upsampling(data):
    axes = data.draw(st.integers(1, 2))
    mode = data.draw(st.sampled_from(["nearest", "nearest-exact", "linear" if axes == 1 else "bilinear"]))
    options = {} if "nearest" in mode else {"align_corners": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options |= dict(size=data.draw(each(st.integers(1, 9), axes)))
    else:
        factor = data.draw(st.sampled_from([0.4, 0.5, 1.0, 1.3, 2.0, 3.0]))
        options |= dict(scale_factor=factor, recompute_scale_factor=data.draw(st.sampled_from([None, True])))
    side = data.draw(each(st.integers(3, 6), axes))
    compare([nn.Upsample(mode=mode, **options)], (data.draw(channels), *side))


@many
@given(st.integers(1, 3), channels, st.integers(1, 3), st.integers(1, 3), seeds)
def test_what_only_moves_entries(factor, count, height, width, seed):
    shape = (count * factor**2, height, width)
    layers = [nn.PixelShuffle(factor), nn.Identity(), nn.Dropout(0.5), Centre(), nn.Flatten(-2), nn.Flatten()]
    layers += [nn.Unflatten(1, (factor, -1)), nn.Flatten(1, 2)]
    compare(layers, shape, seed)
    for largest in (WRITTEN_OUT, LAYER_BY_LAYER):
        assert certified(nn.Sequential(*layers[:3], *layers[4:]).eval(), shape, largest) == 1


@many
@given(st.data())
def test_runs_of_affine_layers(data):
    """Neighbours are one map; batch norm goes into the weights before it, twice if it comes twice."""
    count, side = data.draw(channels), data.draw(st.integers(3, 5))
    first = data.draw(st.sampled_from(["convolution", "transposed", "none"]))
    out = data.draw(channels) if first != "none" else count
    layers = {
        "convolution": [
            nn.Conv2d(count, out, 3, padding=1, padding_mode=data.draw(st.sampled_from(["zeros", "circular"])))
        ],
        "transposed": [nn.ConvTranspose2d(count, out, 3, padding=1)],
        "none": [],
    }[first]
    layers += [nn.BatchNorm2d(out) for _ in range(data.draw(st.integers(0, 2)))]
    layers += data.draw(st.sampled_from([[], [nn.AvgPool2d(2)], [nn.Upsample(scale_factor=2), nn.Conv2d(out, out, 2)]]))
    if data.draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * out, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    assume(layers)
    compare(layers, (count, side, side), data.draw(seeds))


# Activations: difference quotients stay in the stated range, and come near both ends.


SLOPES = st.floats(-3, 3)
ACTIVATIONS = st.one_of(
    st.sampled_from([kind() for kind in activations._SLOPES]),
    st.builds(nn.GELU, st.sampled_from(["none", "tanh"])),
    st.builds(nn.Hardtanh, st.floats(-3, 0), st.floats(0.1, 3)),
    st.builds(nn.LeakyReLU, SLOPES),
    st.builds(nn.PReLU, st.just(1), SLOPES),
    st.builds(nn.ELU, SLOPES),
    st.builds(nn.CELU, st.floats(0.1, 3)),
    st.builds(nn.Softplus, st.floats(0.2, 5), st.floats(36, 40)),
)


def slopes(layer: nn.Module) -> tuple[float, float]:
    """The extreme difference quotients of an activation on a fine grid, with the points at which slopes jump."""
    x = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    with torch.no_grad():
        y = layer.double()(x)
    quotients = y.diff() / x.diff()
    return quotients.min().item(), quotients.max().item()


@many
@given(ACTIVATIONS)
def test_activations(layer):
    part = activations.TABLE[type(layer)](layer, (1,))
    low, high = slopes(layer)
    # 1e-3 for the tails of smooth ones and corners between two points, 1e-11 for the rounding of a quotient.
    assert part.low - 1e-11 <= low and high <= part.high + 1e-11
    assert low <= part.low + 1e-2 * (1 + abs(part.low)) and high >= part.high - 1e-2 * (1 + abs(part.high))
    constant = certified(nn.Sequential(layer).eval(), (3,), WRITTEN_OUT)
    assert constant == part.constant >= max(abs(low), abs(high)) - 1e-11


def test_smooth_activations_to_many_digits():
    with mpmath.workdps(40):
        root = mpmath.sqrt(2 / mpmath.pi)
        functions = {
            nn.SiLU(): (lambda x: x / (1 + mpmath.exp(-x)), (-2.4, 2.4)),
            nn.GELU(): (lambda x: x * mpmath.ncdf(x), (-1.41, 1.41)),
            nn.GELU("tanh"): (lambda x: x / 2 * (1 + mpmath.tanh(root * (x + 0.044715 * x**3))), (-1.42, 1.42)),
            nn.Mish(): (lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))), (-2.26, 1.49)),
        }
        for layer, (function, guesses) in functions.items():
            part = activations.TABLE[type(layer)](layer, (1,))
            where = [mpmath.findroot(lambda x, f=function: mpmath.diff(f, x, 2), guess) for guess in guesses]
            low, high = (mpmath.diff(function, x) for x in where)
            assert part.low <= low <= part.low + 1e-9 and part.high - 1e-9 <= high <= part.high, layer
        steepest = mpmath.mpf("1.0507009873554804934193349852946") * mpmath.mpf("1.6732632423543772848170429916717")
        assert steepest <= activations._SLOPES[nn.SELU][1] <= steepest + 1e-9


@many
@given(st.data())
def test_max_pooling(data):
    """√(most windows an entry is in), attained: one bright pixel fills all its windows."""
    axes = data.draw(st.integers(1, 2))
    side, size = data.draw(each(st.integers(2, 6), axes)), data.draw(each(st.integers(1, 3), axes))
    stride, dilation = data.draw(each(st.integers(1, 3), axes)), data.draw(each(st.integers(1, 2), axes))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in size)
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(side, padding, dilation, size, strict=True)))
    options = dict(stride=stride, padding=padding, dilation=dilation, ceil_mode=data.draw(st.booleans()))
    layer = (nn.MaxPool1d, nn.MaxPool2d)[axes - 1](size, **options).eval()
    dark = torch.zeros(1, 1, *side, dtype=torch.float64)
    assume(layer(dark).isfinite().all())
    lit = torch.eye(math.prod(side), dtype=torch.float64).reshape(-1, 1, *side)
    attained = (layer(lit) - layer(dark)).flatten(1).norm(dim=1).max().item()
    bound = certified(nn.Sequential(layer).eval(), (1, *side), WRITTEN_OUT)
    assert attained <= bound <= attained * (1 + 1e-15) + 1e-15
    x = torch.randn(2, 50, 1, *side, dtype=torch.float64, generator=torch.Generator().manual_seed(data.draw(seeds)))
    moved = (layer(x[0]) - layer(x[1])).flatten(1).norm(dim=1)
    assert (moved <= (1 + 1e-14) * bound * (x[0] - x[1]).flatten(1).norm(dim=1)).all()


@many
@given(st.integers(1, 6), st.lists(sides, max_size=2), seeds)
def test_maxmin(pairs, sides, seed):
    """1, attained by inputs whose pairs are in the same order and passed by none."""
    shape = (2 * pairs, *sides)
    layer = nn.Sequential(MaxMin()).eval()
    assert certified(layer, shape, WRITTEN_OUT) == 1
    x, y = torch.randn(2, 50, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for other, least in ((y, 0.0), (x + 1e-6 * y, 1 - 1e-12)):
        ratio = (layer(x) - layer(other)).flatten(1).norm(dim=1) / (x - other).flatten(1).norm(dim=1)
        assert least <= ratio.max() <= 1 + 1e-12
    with pytest.raises(ValueError, match="even number of channels"):
        certified_lipschitz(layer, (2 * pairs - 1, *sides))


def test_every_layer_in_the_table_was_tried():
    tried = {nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d}
    tried |= {nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample, nn.PixelShuffle}
    tried |= {
        nn.Identity,
        nn.Dropout,
        nn.Flatten,
        nn.Unflatten,
        Centre,
        nn.MaxPool1d,
        nn.MaxPool2d,
        MaxMin,
        *activations._SLOPES,
    }
    tried |= {nn.GELU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.Softplus}
    assert tried == set(activations.TABLE) | set(linear.TABLE) | set(convolutions.TABLE)


# Wrong constants, planted: the comparisons above see them.


def test_planted_errors_are_caught(monkeypatch):
    for target, name, wrong, comparison in [
        # Circular padding taken for free, and a Fourier symbol two per cent too small.
        (convolutions, "_padding_norm", lambda *_: 1.0, lambda: compare([circular()], (1, 9))),
        (convolutions, "_dilate", lambda kernel, _: 0.98 * kernel, lambda: compare([nn.Conv1d(2, 2, 3)], (2, 60))),
        (activations, "_GELU", {"tanh": (-0.12890429, 1.12890429)}, lambda: tried(nn.GELU("tanh"))),
        (activations, "_SLOPES", {nn.SiLU: (0.0, 1.0998393202)}, lambda: tried(nn.SiLU())),
        (linear, "TABLE", {}, test_every_layer_in_the_table_was_tried),
    ]:
        comparison()
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(target, name, wrong)
            comparison()


def circular() -> nn.Conv1d:
    """The last pixel is in the first window and in the last; `compare` does not touch what is no parameter."""
    layer = nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    del layer.weight
    layer.weight = torch.tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64)
    return layer


def tried(layer: nn.Module) -> None:
    test_activations.hypothesis.inner_test(layer)
