"""Certified constants: never exceeded, above every rounding, with multipliers too; whatever is not known is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

from companion import certificates, models
from companion.certificates import certified_lipschitz, fit_multipliers, load_multipliers, rounding
from companion.models import architectures
from companion.models.architectures import Generator, Residual
from companion.robustness import in_distribution_radius, latent_radius
from companion.smoothness import lipschitz_at
from companion.training import LIPSCHITZ
from companion.vulnerability import least_favourable, nearest_other_label, robustness_quantile


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """The layers with random weights and batch-norm statistics, float64, in evaluation mode."""
    model, generator = nn.Sequential(*layers).double(), draws(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, dtype=torch.float64, generator=generator)
            value.copy_(noise.abs() + 0.5 if "running_var" in name else noise * 0.3 + 0.1)
    return model.eval()


def steepest(model: nn.Module, shape: tuple[int, ...], n: int = 40, seed: int = 0) -> float:
    """The largest norm of a Jacobian at n random inputs, by reverse mode."""
    x = torch.randn(n, *shape, dtype=torch.float64, generator=draws(seed)) * 2
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0].flatten()))(x)
    return torch.linalg.svdvals(jacobians.reshape(n, -1, math.prod(shape)))[:, 0].max().item()


def constant(model: nn.Module, shape: tuple[int, ...], **options) -> float:
    return float(certified_lipschitz(model, shape, **options).constant)


# Whole networks.

NETWORKS = {
    "mlp": ((8,), (nn.Linear(8, 30), nn.LeakyReLU(0.2), nn.Linear(30, 20), nn.Tanh())),
    "batch norm": ((8,), (nn.Linear(8, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4))),
    "dcgan": (
        (8,),
        (
            nn.Linear(8, 4 * 3 * 3),
            nn.Unflatten(1, (4, 3, 3)),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
            nn.BatchNorm2d(3),
            nn.SiLU(),
            nn.ConvTranspose2d(3, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        ),
    ),
    "classifier": (
        (2, 9, 9),
        (
            nn.Conv2d(2, 6, 3, stride=2, dilation=2),
            nn.BatchNorm2d(6),
            nn.GELU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=3),
            nn.ELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
    ),
    "upsampling": (
        (1, 4, 4),
        (nn.Upsample(scale_factor=2), nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.AvgPool2d(3, stride=2)),
    ),
    "residual": (
        (3, 6, 6),
        (
            nn.Conv2d(3, 4, 3, padding=1),
            Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))),
            Residual(nn.Conv2d(4, 2, 3, stride=2, padding=1), nn.Conv2d(4, 2, 1, stride=2)),
            nn.Mish(),
        ),
    ),
    "overlapping": ((1, 8, 8), (nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten())),
}
BOTH = pytest.mark.parametrize("largest", [2**24, 0], ids=["written out", "layer by layer"])


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_certified_constant_is_never_exceeded(name, largest):
    shape, layers = NETWORKS[name]
    model = randomised(*layers)
    bound = constant(model, shape, largest_matrix=largest)
    x = torch.randn(300, *shape, dtype=torch.float64, generator=draws()) * 2
    with torch.no_grad():
        pairs = (model(x) - model(x.flip(0))).flatten(1).norm(dim=1) / (x - x.flip(0)).flatten(1).norm(dim=1)
    below = steepest(model, shape)
    assert pairs.nan_to_num().max() <= bound and below <= bound
    # Not by far: a product bound of a few layers.
    assert bound < 100 * below


SMOOTH = [nn.SiLU, nn.GELU, nn.Tanh, nn.Mish, nn.Softplus, nn.ELU, nn.SELU, nn.ReLU, nn.Hardswish]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from(SMOOTH), st.booleans()), min_size=1, max_size=5), st.data()
)
def test_deep_random_networks(description, data):
    layers, width = [], 4
    for out, kind, normed in description:
        block = [nn.Linear(width, out), *[nn.BatchNorm1d(out)] * normed, kind()]
        layers.append(Residual(nn.Sequential(*block)) if out == width else nn.Sequential(*block))
        width = out
    model = randomised(*layers, seed=data.draw(st.integers(0, 10**6)))
    assert steepest(model, (4,), n=10) <= constant(model, (4,)) * (1 + 1e-12)


@pytest.mark.parametrize(
    "network, shape",
    [
        (architectures.digits_generator(latent_dim=4, width=8), (4,)),
        (architectures.digits_cnn(width=2), (1, 8, 8)),
        (architectures.digits_critic(width=4), (1, 8, 8)),
        (architectures.dcgan_generator(latent_dim=3, width=2), (3,)),
        (architectures.dcgan_critic(width=2), (3, 32, 32)),
        (architectures.lenet(), (3, 32, 32)),
        (architectures.vgg(depth=11, width=2), (3, 32, 32)),
        (architectures.resnet(depth=18, width=2), (3, 32, 32)),
        (architectures.resnet(depth=50, width=1), (3, 32, 32)),
        (architectures.wide_resnet(depth=10, width=1), (3, 32, 32)),
    ],
    ids=["generator", "cnn", "critic", "dcgan", "dcgan critic", "lenet", "vgg", "resnet", "resnet-50", "wide resnet"],
)
def test_every_architecture_of_the_package_is_certified(network, shape):
    model = randomised(network)
    assert steepest(model, shape, n=2) <= constant(model, shape, largest_matrix=2**16) < math.inf


def test_the_shipped_digits_generator():
    generator = models.load("digits/generator")
    bound = constant(generator, (16,))
    z = torch.randn(500, 16, dtype=torch.float64, generator=draws())
    assert lipschitz_at(copy.deepcopy(generator).double(), z).max() < bound == pytest.approx(1735.9, abs=0.1)
    # Neither dtype nor tied weights nor gradients change what is certified: the weights are exact in float64.
    assert constant(copy.deepcopy(generator).double().requires_grad_(), (16,)) == bound
    assert constant(nn.Sequential(*generator).half().eval(), (16,)) == bound


def test_affine_layers_have_their_norm():
    model = randomised(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 4))
    assert constant(model, (6,)) == pytest.approx(steepest(model, (6,)), rel=1e-12)
    assert constant(nn.Sequential().eval(), (6,)) == 1
    tied = nn.Linear(6, 6).eval()
    twice = torch.linalg.matrix_norm((tied.weight @ tied.weight).double(), 2).item()
    assert constant(nn.Sequential(tied, tied).eval(), (6,)) == pytest.approx(twice, rel=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 4, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1),
        nn.ConvTranspose2d(4, 6, 3, stride=3, groups=2),
    ],
    ids=str,
)
def test_fourier_bound_is_nearly_attained_on_large_images(layer):
    model, shape = randomised(layer), (layer.in_channels, 13, 13)
    assert constant(model, shape, largest_matrix=0) <= 1.15 * constant(model, shape)


@BOTH
def test_a_kernel_whose_channels_cancel(largest):
    """Its symbol annihilates (1, 1) at every frequency, and vanishes at the first."""
    layer = nn.Conv1d(1, 2, 2, bias=False)
    layer.weight.data = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])
    bound = constant(nn.Sequential(layer).eval(), (1, 40), largest_matrix=largest)
    assert 2.82 < bound < 2.0001 * math.sqrt(2) * 1.01


# Rounding.


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6), st.integers(-300, 300))
def test_the_norm_of_a_matrix_is_rounded_up(rows, columns, seed, exponent):
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=draws(seed)) * 10.0**exponent
    with mpmath.workdps(50):
        exact = max(mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False))
        assert exact <= rounding.spectral_norm(matrix) <= exact * (1 + mpmath.mpf(10) ** -13)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.booleans())
def test_what_is_not_positive_is_never_proved(n, seed, imaginary):
    """Whole numbers, so exact: a singular matrix is at the border, and rounding cannot tell on which side."""
    factor = torch.randint(-9, 10, (n - 1, n), generator=draws(seed)).double()
    if imaginary:
        factor = torch.complex(factor, torch.randint(-9, 10, (n - 1, n), generator=draws(seed + 1)).double())
    gram = factor.mH @ factor
    identity = torch.eye(n, dtype=torch.float64)
    assert not rounding.positive(gram, 0.0)
    assert rounding.positive(gram + 1e-6 * identity, 0.0)
    assert not rounding.positive(gram + 1e-6 * identity, 1e-6)
    assert not rounding.positive(torch.full_like(gram, math.nan), 0.0)


def test_the_norm_of_a_large_matrix():
    """Only guessed in a Krylov space, then proved; the two largest singular values are hard to tell apart."""
    values = torch.linspace(1.0, 0.1, 520, dtype=torch.float64)
    values[1] = 1 - 1e-9
    rotation = torch.linalg.qr(torch.randn(520, 520, dtype=torch.float64, generator=draws()))[0]
    assert 1 - 1e-13 < rounding.spectral_norm(rotation * values) < 1 + 1e-8
    assert 1 - 1e-13 < rounding.spectral_norm(rotation) < 1 + 1e-10


def test_a_chain_of_products_is_rounded_up():
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(1.1)
    model = nn.Sequential(*[layer, nn.ReLU()] * 40).eval()
    with mpmath.workdps(50):
        exact = mpmath.mpf(1.1) ** 40
        assert exact <= constant(model, (1,)) <= exact * (1 + mpmath.mpf(10) ** -13)


# Right values where the constant once was too small.


def test_circular_padding_whose_stride_does_not_divide_the_side():
    layer = nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    layer.weight.data = torch.tensor([[[1.0, 1.0, 0.0]]])
    model = nn.Sequential(layer).double().eval()
    # The first and the last window both hold the last pixel: √3, where the symbol is at most √2.
    assert constant(model, (1, 9)) == pytest.approx(math.sqrt(3))
    assert math.sqrt(3) < constant(model, (1, 9), largest_matrix=0) < 2.02


def test_bicubic_upsampling_is_refused_and_not_taken_for_an_average():
    model = nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic")).eval()
    with pytest.raises(ValueError, match="upsample by mode nearest, nearest-exact, linear or bilinear, got Upsample"):
        certified_lipschitz(model, (1, 4, 4))


@BOTH
def test_batch_norm_after_a_linear_layer_on_the_last_dimension(largest):
    linear, norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False, eps=0.0)
    linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.01]])
    norm.running_var = torch.tensor([1e4, 1.0])
    # Channels 0.01 and 1, entries 1 and 0.01: 1 is reached, and was 0.01 where both were taken for the same axis.
    assert constant(nn.Sequential(linear, norm).eval(), (2, 2), largest_matrix=largest) == pytest.approx(1)


def test_a_constant_network_has_constant_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    for network in (nn.Sequential(layer), nn.Sequential(layer, nn.SiLU(), nn.Linear(2, 5))):
        modulus = certified_lipschitz(network.eval(), (3,))
        assert modulus.constant == 0 and modulus.inverse(1.0) == math.inf
    assert constant(network, (3,), multipliers=[torch.ones(2)]) == 0
    with pytest.raises(ValueError, match="network must not be constant"):
        fit_multipliers(network, (3,))


# Multipliers.


def test_the_shipped_multipliers_prove_a_quarter_of_the_product():
    generator, multipliers = models.load("digits/generator"), load_multipliers("digits/generator")
    assert constant(generator, (16,), multipliers=multipliers) == pytest.approx(440.21, abs=0.01)
    # Rounded to four digits they are worth the same: it is the check that counts.
    rounded = [(part * 1.0001).float() for part in multipliers]
    assert constant(generator, (16,), multipliers=rounded) == pytest.approx(440.21, abs=0.1)


def small(seed: int, kind=nn.SiLU) -> nn.Sequential:
    layers = nn.Linear(3, 7), kind(), nn.Linear(7, 5), nn.BatchNorm1d(5), kind(), nn.Linear(5, 4), nn.Sigmoid()
    return randomised(*layers, nn.Unflatten(1, (2, 2)), seed=seed)


def proves(model: nn.Module, multipliers) -> float:
    """The constant that multipliers prove, infinite where they prove none."""
    try:
        return constant(model, (3,), multipliers=multipliers)
    except ValueError as error:
        assert "multipliers must" in str(error)
        return math.inf


@pytest.mark.parametrize("kind", [nn.SiLU, nn.ReLU, nn.Tanh, nn.Hardswish, nn.LeakyReLU])
def test_fitted_multipliers_hold_and_are_tighter(kind):
    for seed in range(5):
        model = small(seed, kind)
        fitted = fit_multipliers(model, (3,))
        proved, product = constant(model, (3,), multipliers=fitted), constant(model, (3,))
        assert steepest(model, (3,), n=500, seed=seed) <= proved < product
        # The best: no multipliers near them prove less.
        for trial in range(10):
            other = [part * torch.exp(0.1 * torch.randn(len(part), generator=draws(trial))) for part in fitted]
            assert proves(model, other) >= proved * (1 - 1e-5)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.floats(-3, 6), st.floats(-3, 6), st.sampled_from([nn.SiLU, nn.ReLU, nn.Hardswish]))
def test_whatever_multipliers_prove_is_true(seed, first, second, kind):
    model = small(seed, kind)
    noise = [torch.rand(count, generator=draws(seed)) + 0.5 for count in (7, 5)]
    multipliers = [10.0**first * noise[0], 10.0**second * noise[1]]
    assert steepest(model, (3,), n=30) <= proves(model, multipliers)


def test_a_slope_range_that_is_too_narrow_is_caught(monkeypatch):
    """Planted: SiLU taken for a function with slopes in [0, 1]. One neuron that attains 1.0998 shows it."""
    model = nn.Sequential(nn.Linear(1, 1), nn.SiLU(), nn.Linear(1, 1)).double().eval()
    for value, where in zip(model.parameters(), (1.0, 2.39935728, 1.0, 0.0), strict=True):
        value.data.fill_(where)
    slope = torch.func.grad(lambda z: model(z[None]).sum())(torch.zeros(1, dtype=torch.float64)).item()
    multipliers = fit_multipliers(model, (1,))
    assert slope <= constant(model, (1,), multipliers=multipliers) < 1.09984
    monkeypatch.setattr("companion.certificates.activations._SLOPES", {nn.SiLU: (0.0, 1.0)})
    assert slope > constant(model, (1,), multipliers=multipliers)


# Refusals.


class Skips(nn.Sequential):
    def forward(self, z):
        return z + super().forward(z)


class Fused(nn.Linear):
    def forward(self, x):
        return 4 * super().forward(x)


def altered(change) -> nn.Sequential:
    """An honest network after `change`."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 3))).eval()
    change(network)
    return network.eval()


def hidden_branch(network):
    """What runs need not be registered: `forward` takes the object's own attribute first."""
    network.append(Residual(nn.Linear(3, 3)))
    vars(network[2])["body"] = nn.Sequential(nn.Linear(3, 3)).eval()
    network[2].body[0].register_forward_hook(lambda module, inputs, output: 10 * output)


def own_forward(network):
    network[1][0].forward = lambda x: 10 * x


def spoilt(name: str, value) -> nn.Sequential:
    return altered(lambda network: setattr(network[0], name, nn.Parameter(value, requires_grad=False)))


def normed(**options):
    return nn.BatchNorm2d(1, **options)


REFUSED = [
    (lambda: nn.Sequential(Skips(nn.Linear(3, 3))), (3,), "exactly these types: .* got Skips, a subclass"),
    (lambda: Skips(nn.Linear(3, 3)), (3,), "got Skips, a subclass"),
    (lambda: nn.Sequential(Fused(3, 3)), (3,), "got Fused, a subclass"),
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), (3,), "got Softmax"),
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()), (3,), "got Hardshrink"),
    (lambda: altered(lambda n: n[1][0].register_forward_hook(lambda m, i, o: 10 * o)), (3,), "no hooks.* got ReLU"),
    (lambda: altered(lambda n: n[0].register_forward_pre_hook(lambda m, i: 10 * i[0])), (3,), "no hooks.* got Linear"),
    (lambda: altered(lambda n: n[1].register_forward_hook(lambda m, i, o: 10 * o)), (3,), "no hooks.* got Sequential"),
    (lambda: altered(lambda n: n.register_full_backward_hook(lambda *_: None)), (3,), "no hooks"),
    (lambda: altered(lambda n: n.register_full_backward_pre_hook(lambda *_: None)), (3,), "no hooks"),
    (lambda: altered(hidden_branch), (3,), "no hooks.* got Linear"),
    (lambda: altered(own_forward), (3,), "without a forward of an object's own, got ReLU"),
    (lambda: altered(lambda n: setattr(n, "_call_impl", lambda x: 10 * x)), (3,), "without a _call_impl of"),
    (lambda: altered(lambda n: nn.utils.spectral_norm(n[0])), (3,), "no hooks.* got Linear"),
    (
        lambda: altered(lambda n: nn.utils.parametrizations.spectral_norm(n[0])),
        (3,),
        "got ParametrizedLinear; .*remove",
    ),
    (lambda: altered(lambda n: nn.utils.parametrizations.weight_norm(n[0])), (3,), "got ParametrizedLinear"),
    (lambda: altered(lambda n: prune.l1_unstructured(n[0], "weight", 2)), (3,), "no hooks.* got Linear"),
    (lambda: spoilt("weight", torch.full((3, 3), math.nan)), (3,), "finite weight, got Linear"),
    (lambda: spoilt("bias", torch.full((3,), math.inf)), (3,), "finite bias, got Linear"),
    (lambda: spoilt("weight", torch.eye(3) * 1j), (3,), "real weight, got Linear"),
    (lambda: spoilt("weight", torch.eye(3).to_sparse()), (3,), "plain dense tensor, got Linear"),
    (lambda: spoilt("weight", torch.eye(3, device="meta")), (3,), "plain dense tensor, got Linear"),
    (lambda: spoilt("weight", torch.eye(3, dtype=torch.float64) * 1e200), (3,), None),
    (
        lambda: nn.Sequential(normed(track_running_stats=False)),
        (1, 4, 4),
        "without running statistics.* got BatchNorm2d",
    ),
    (lambda: nn.Sequential(normed(eps=-2.0)), (1, 4, 4), "positive variance, got BatchNorm2d"),
    (lambda: nn.Sequential(normed()), (2, 4, 4), "its 1 channels, not 2"),
    (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), (5, 5), "inputs of 3 dimensions beside the batch"),
    (lambda: nn.Sequential(nn.Conv2d(3, 1, 3)), (1, 5, 5), "input_shape must suit the network, but Conv2d"),
    (lambda: nn.Sequential(nn.Linear(3, 3)), (4,), "input_shape must suit the network, but Linear"),
    (lambda: nn.Sequential(nn.Flatten(0)), (4,), "leave the batch, dimension 0, as it is, got Flatten"),
    (lambda: nn.Sequential(nn.Flatten(-2)), (4,), "leave the batch, dimension 0, as it is, got Flatten"),
    (lambda: nn.Sequential(nn.Unflatten(0, (1, -1))), (4,), "leave the batch, dimension 0, as it is, got Unflatten"),
    (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), (1, 4, 4), "returns no indices, got MaxPool2d"),
    (lambda: nn.Sequential(nn.Softplus(threshold=5)), (4,), "Softplus with .* a threshold of at least 15"),
    (lambda: nn.Sequential(nn.Softplus(beta=-1)), (4,), "Softplus with positive beta"),
    (lambda: nn.Sequential(nn.CELU(-1.0)), (4,), "CELU with positive alpha"),
    (lambda: nn.Sequential(nn.ELU(math.nan)), (4,), "finite alpha"),
    (lambda: nn.Sequential(Residual(nn.ReLU(inplace=True))), (4,), "no in-place layers inside a Residual"),
    (lambda: nn.Sequential(Residual(nn.Linear(4, 1))), (4,), "outputs of the same shape in a Residual"),
    (lambda: lambda z: z, (3,), "network must be an nn.Sequential"),
    (lambda: nn.Sequential(nn.Linear(3, 3)).train(), (3,), "network must be in evaluation mode"),
    (lambda: nn.Sequential(nn.Linear(3, 3)), 3, "input_shape must be a tuple of positive integers"),
    (lambda: nn.Sequential(nn.Linear(3, 3)), (), "input_shape must be a tuple of positive integers"),
    (lambda: nn.Sequential(nn.Linear(3, 3)), (0,), "input_shape must be an integer of at least 1, got 0"),
]


@pytest.mark.parametrize("build, shape, message", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_known_is_refused_by_name(build, shape, message):
    network = build()
    if isinstance(network, nn.Module) and "evaluation" not in (message or ""):
        network.eval()
    if message is None:
        assert constant(network, shape) > 1e199
    else:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            certified_lipschitz(network, shape)


def test_hooks_for_every_module_are_refused():
    handle = torch_module.register_module_forward_hook(lambda module, inputs, output: 2 * output)
    try:
        with pytest.raises(ValueError, match="hooks, got some registered for every module"):
            certified_lipschitz(altered(lambda network: None), (3,))
    finally:
        handle.remove()
    assert constant(altered(lambda network: None), (3,)) > 0


def test_parametrizations_made_plain_are_certified():
    """The weight that `forward` uses is the one that is certified."""
    network = altered(lambda network: nn.utils.parametrizations.spectral_norm(network[0]))
    nn.utils.parametrize.remove_parametrizations(network[0], "weight", leave_parametrized=True)
    assert steepest(copy.deepcopy(network).double(), (3,)) <= constant(network, (3,))


def test_the_callers_settings_change_nothing():
    model = randomised(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.ReLU())
    expected = constant(model, (1, 8, 8), largest_matrix=0)
    torch.set_default_dtype(torch.float64)
    try:
        assert constant(model, (1, 8, 8), largest_matrix=0) == expected
    finally:
        torch.set_default_dtype(torch.float32)
    for setting in (torch.inference_mode(), torch.no_grad(), torch.device("meta"), torch.autocast("cpu")):
        with setting:
            assert constant(model, (1, 8, 8), largest_matrix=0) == expected


def test_in_place_layers_elsewhere_change_nothing():
    layers = nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)
    plain = nn.Sequential(*layers).eval()
    assert constant(nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[2]).eval(), (3,)) == constant(plain, (3,))
    assert constant(Generator(*layers).eval(), (3,)) == constant(plain, (3,))


@pytest.mark.parametrize(
    "network, multipliers, message",
    [
        (small(0), [torch.ones(7)], r"multipliers must have shapes \[\(7,\), \(5,\)\], got \[\(7,\)\]"),
        (small(0), [torch.ones(7), torch.zeros(5)], "multipliers must be positive, got 0"),
        (small(0), [torch.ones(7), torch.full((5,), math.nan)], "multipliers must not contain NaN"),
        (small(0), [torch.ones(7), torch.full((5,), 1e-6)], "multipliers must make the form .* positive"),
        (small(0), [torch.full((7,), 1e38), torch.full((5,), 1e-38)], "multipliers must"),
        (randomised(Residual(nn.Linear(3, 3))), [], "a chain of affine layers .* got Residual"),
        (randomised(nn.Unflatten(1, (1, 3)), nn.MaxPool1d(3)), [], "a chain of affine layers .* got MaxPool1d"),
        (randomised(nn.ReLU(), nn.Linear(3, 3)), [torch.ones(3)], "network must begin with an affine layer"),
    ],
)
def test_multipliers_are_checked(network, multipliers, message):
    with pytest.raises(ValueError, match=message):
        certified_lipschitz(network, (3,), multipliers=multipliers)


def test_unknown_or_damaged_multipliers(tmp_path):
    with pytest.raises(ValueError, match="name must be one of digits/generator, got 'mnist'"):
        load_multipliers("mnist")
    registry = '{"a": {"file": "a.safetensors", "sha256": "0", "recipe": "tools/multipliers.py"}}'
    (tmp_path / "registry.json").write_text(registry, encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="multipliers of a are missing"):
        load_multipliers("a", folder=tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"0")
    with pytest.raises(RuntimeError, match="damaged or were replaced"):
        load_multipliers("a", folder=tmp_path)


def test_bad_options():
    with pytest.raises(ValueError, match="largest_matrix must be an integer of at least 0, got -1"):
        certified_lipschitz(small(0), (3,), largest_matrix=-1)
    with pytest.raises(ValueError, match="gap must be one positive number, got 0"):
        fit_multipliers(small(0), (3,), gap=0)
    deep = nn.Sequential(*[nn.Linear(1, 1).double(), nn.ReLU()] * 4).eval()
    for layer in deep[::2]:
        layer.weight.data.fill_(1e100)
    with pytest.raises(ValueError, match="network must have a bound below 1.8e308"):
        certified_lipschitz(deep, (1,))
    assert np.isfinite(constant(deep[:5].eval(), (1,)))


# Generators that are slow by construction, and what the chapter stores about them.

BUILT = [(f"digits/{kind}", limit) for kind, limit in LIPSCHITZ.items()]


@pytest.mark.parametrize(("name", "limit"), BUILT)
def test_no_latent_step_moves_an_image_of_a_built_generator_too_far(name, limit):
    generator = models.load(name).double()
    assert constant(generator, (16,)) <= limit
    z, step = torch.randn(2, 5_000, 16, dtype=torch.float64, generator=draws(1))
    for scale in (1e-3, 0.1, 1.0, 10.0):
        moved = (generator(z + scale * step) - generator(z)).flatten(1).norm(dim=1)
        assert (moved <= limit * scale * step.norm(dim=1) + 1e-12).all()
    assert lipschitz_at(generator, 3 * z[:300]).max() <= limit


@pytest.mark.parametrize(("name", "limit"), BUILT)
def test_a_built_generator_keeps_the_order_of_the_radii(name, limit):
    generator, classifier = models.load(name).double(), models.load("digits/linear").double()
    z = torch.randn(20, 16, dtype=torch.float64, generator=draws(2))
    latent, witness = latent_radius(generator, classifier, z, steps=20, return_witness=True)
    inside = in_distribution_radius(generator, classifier, z, start=witness, metric_steps=3)
    assert latent.isfinite().all() and (inside <= limit * latent * (1 + 1e-9)).all()


@pytest.fixture(scope="module")
def stored():
    path = Path(certificates.__file__).parents[1] / "results" / "certificates-digits.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_stored_measurements_are_of_the_shipped_networks(stored):
    """Made again for the fast classifier: a network that was replaced would show."""
    assert set(stored) == {f"{kind}/{f}" for kind in (*LIPSCHITZ, "generator") for f in ("linear", "mlp", "cnn")}
    classifier = models.load("digits/linear").double()
    for kind in (*LIPSCHITZ, "generator"):
        generator, found = models.load(f"digits/{kind}").double(), stored[f"{kind}/linear"]
        labels = classifier(generator(torch.randn(20_000, 16, dtype=torch.float64, generator=draws(1)))).argmax(1)
        counts = torch.tensor(found["counts"])
        assert (labels.bincount(minlength=10) - counts).abs().max() <= 3 and counts.sum() == 20_000
        z = torch.randn(300, 16, dtype=torch.float64, generator=draws(0))
        near = nearest_other_label(generator, classifier, z[:20])
        torch.testing.assert_close(near, torch.tensor(found["nearest"][:20]).double(), rtol=0, atol=1e-4)


def test_the_proved_bound_is_above_what_attacks_find(stored):
    """No true quantile is above the bound; that no measured one is says that the attack did not fail by much."""
    for pair, found in stored.items():
        kind = pair.split("/")[0]
        modulus = certified_lipschitz(models.load(f"digits/{kind}"), (16,))
        p = least_favourable(found["counts"], confidence=0.999)
        radii = torch.tensor(found["radii"], dtype=torch.float64)
        assert len(radii) == len(found["nearest"]) >= 150 and (radii >= 0).all()
        for q in (0.1, 0.25, 0.5, 0.75):
            assert radii.quantile(q) <= robustness_quantile(q, p, modulus)
