"""Moduli and local Lipschitz constants: against exact values and against what a search can reach."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from companion.circle import Circle
from companion.smoothness import (
    CircleModulus,
    Holder,
    Interpolated,
    Lipschitz,
    Modulus,
    lipschitz_at,
    local_modulus,
)
from companion.vulnerability import robustness_quantile, vulnerable_fraction

MODULI = [
    Lipschitz(3.0),
    Holder(2.0, 0.5),
    CircleModulus(),
    Interpolated([0.1, 0.5, 1.0], [0.2, 0.6, 0.6]),
]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear:
    """g(z) = z A."""

    def __init__(self, matrix: torch.Tensor):
        self.matrix, self.latent_dim = matrix, matrix.shape[0]

    def __call__(self, z):
        return z @ self.matrix


def randomised(*layers: nn.Module) -> nn.Sequential:
    """The layers with random weights and batch-norm statistics, float64, in evaluation mode."""
    model = nn.Sequential(*layers).double()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, dtype=torch.float64, generator=draws(len(name)))
            value.copy_(noise.abs() + 0.5 if "running_var" in name else noise * 0.3 + 0.1)
    return model.eval()


# Moduli.


@pytest.mark.parametrize("modulus", MODULI, ids=repr)
def test_moduli_start_at_zero_and_increase(modulus):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    omega = modulus(t)
    assert omega[0] == 0 and (omega.diff() >= 0).all()


@pytest.mark.parametrize("modulus", MODULI, ids=repr)
def test_inverse_is_the_longest_step_that_stays_below(modulus):
    """ω⁻¹(η) = sup{t : ω(t) ≤ η}: ω stays at or below η up to there, and exceeds it just beyond."""
    eta = torch.linspace(0.01, 2.5, 50, dtype=torch.float64)
    t = modulus.inverse(eta)
    inside = t.isfinite()
    assert (modulus(t[inside]) <= eta[inside] * (1 + 1e-12)).all()
    assert (modulus(t[inside] * (1 + 1e-9) + 1e-9) > eta[inside]).all()


def test_the_modulus_of_a_constant_map():
    """ω = 0: no step moves the image. Whatever is smaller than an image distance is certain then, and bounds are 1."""
    modulus = Lipschitz(0.0)
    assert modulus([0.0, 1.0, 9.0]).tolist() == [0, 0, 0]
    assert modulus.inverse([0.0, 1.0]).tolist() == [math.inf, math.inf]
    assert vulnerable_fraction([0.0, 1.0], [0.5, 0.5], modulus).tolist() == [1, 1]
    assert robustness_quantile(0.25, [0.5, 0.5], modulus) == 0


def test_circle_modulus_ends_at_the_diameter():
    assert CircleModulus()([0.25, 0.5, 3.0]).tolist() == pytest.approx([math.sqrt(2), 2, 2])
    assert CircleModulus().inverse([math.sqrt(2), 2.0, 5.0]).tolist() == pytest.approx([0.25, math.inf, math.inf])


def test_interpolated_knows_nothing_beyond_its_points():
    modulus = Interpolated([0.1, 0.5, 1.0], [0.2, 0.6, 0.6])
    assert modulus([0.0, 0.05, 0.1, 0.3, 1.0, 1.1]).tolist() == [0, 0.2, 0.2, 0.6, 0.6, math.inf]
    # At a flat piece the inverse is its right end, and never more than the last point.
    assert modulus.inverse([0.1, 0.2, 0.4, 0.6, 9.0]).tolist() == [0, 0.1, 0.1, 1.0, 1.0]


# g(z) = sign(z) √|z| has the concave modulus √(2t). With a class on either side of 0, r_in = √|z|.


def root_law(eta: torch.Tensor) -> torch.Tensor:
    """P(r_in ≤ η) = P(|z| ≤ η²)."""
    return torch.special.erf(eta.square() / math.sqrt(2))


@pytest.mark.parametrize("points", [[0.5, 2.0], [0.01, 0.1, 0.8, 3.0], [1.0]], ids=str)
def test_interpolated_is_a_modulus_if_its_points_are(points):
    points = torch.tensor(points, dtype=torch.float64)
    modulus = Interpolated(points, (2 * points).sqrt())
    z = torch.linspace(-2, 2, 801, dtype=torch.float64)
    image = z.sign() * z.abs().sqrt()
    assert ((image[:, None] - image).abs() <= modulus((z[:, None] - z).abs() * (1 - 1e-12))).all()
    assert (modulus.inverse((2 * points).sqrt()) == points).all()
    eta = torch.linspace(0.01, 3, 300, dtype=torch.float64)
    bound = vulnerable_fraction(eta, [0.5, 0.5], modulus)
    assert (bound <= root_law(eta)).all() and (bound > 0).any()


def test_chords_between_exact_points_promise_too_much():
    """The planted error: through the exact points at t = ½ and 2, straight lines "prove" 0.1585; 0.1271 is true."""

    class Chords(Modulus):
        def _inverse(self, eta):
            return torch.as_tensor(np.interp(eta, [0.0, 1.0, 2.0], [0.0, 0.5, 2.0]))

    eta = torch.tensor(0.4, dtype=torch.float64)
    assert root_law(eta).item() == pytest.approx(0.1271, abs=1e-4)
    assert vulnerable_fraction(eta, [0.5, 0.5], Chords()).item() == pytest.approx(0.1585, abs=1e-4)
    assert vulnerable_fraction(eta, [0.5, 0.5], Interpolated([0.5, 2.0], [1.0, 2.0])) <= root_law(eta)


def test_a_modulus_at_the_latent_radius_need_not_bound_the_in_distribution_radius():
    """A generator that jumps from 0 to 1 just after 0 and to 2 just after 1; a classifier that splits off 2."""
    z = torch.linspace(-3, 4, 7001, dtype=torch.float64).round(decimals=3)
    image = (z > 0).double() + (z > 1).double()
    moved, apart = (image[:, None] - image).abs(), (z[:, None] - z).abs().round(decimals=3)
    others = z[image == 2]
    # At z = 0: r_Z = inf of the steps beyond 1, none of which is 1; every one of them moves the image by 2.
    assert others.min() > 1 and others.min() == pytest.approx(1, abs=2e-3)
    assert moved[apart <= 1].max() == 1  # ω(r_Z) = 1 < 2 = r_in
    assert moved[apart <= 1.001].max() == 2  # ω(r_Z⁺) = 2


# The Jacobian's top singular value.


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lipschitz_at_agrees_with_the_svd(method, dtype):
    model = randomised(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 60), nn.Sigmoid()).to(dtype)
    model.latent_dim = 12
    z = torch.randn(50, 12, dtype=dtype, generator=draws())
    jacobians = torch.func.vmap(torch.func.jacrev(model.double()))(z.double())
    exact = torch.linalg.svdvals(jacobians)[:, 0]
    model.to(dtype)
    value = lipschitz_at(model, z, method=method)
    assert value.dtype == dtype and value.shape == (50,)
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("ratio", [0.5, 0.98])
def test_lanczos_finds_a_barely_dominant_direction(ratio):
    """σ₂/σ₁ = 0.98 as in a DCGAN, d = 300: plain power iteration under-reports there."""
    values = ratio ** torch.arange(300, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(300, 300, dtype=torch.float64, generator=draws()))[0]
    generator = Linear(rotation * values)
    z = torch.randn(4, 300, dtype=torch.float64, generator=draws(1))
    value = lipschitz_at(generator, z)
    torch.testing.assert_close(value, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    assert (value <= 1 + 1e-9).all()


def test_lanczos_says_when_it_has_not_converged_and_errs_from_below():
    values = torch.linspace(1, 0.9, 200, dtype=torch.float64)
    generator = Linear(torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64, generator=draws()))[0] * values)
    z = torch.randn(3, 200, dtype=torch.float64, generator=draws(1))
    with pytest.warns(RuntimeWarning, match="Lanczos has not converged for 3 of 3 latents after 4 iterations"):
        value = lipschitz_at(generator, z, iterations=4)
    assert (value < 1).all()


def test_lipschitz_at_in_chunks_and_on_the_circle():
    z = torch.randn(100, 1, dtype=torch.float64, generator=draws())
    value = lipschitz_at(Circle(), z, chunk_size=7)
    torch.testing.assert_close(value, torch.full((100,), 2 * math.pi, dtype=torch.float64))
    assert lipschitz_at(Circle(), z[:0]).shape == (0,)


def test_a_constant_generator_has_constant_zero():
    generator = Linear(torch.zeros(4, 6, dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("exact", "lanczos"):
            assert lipschitz_at(generator, torch.ones(2, 4, dtype=torch.float64), method=method).max() < 1e-100


# The local modulus.


def test_local_modulus_of_a_linear_map_is_its_norm_times_t():
    generator = Linear(torch.randn(5, 9, dtype=torch.float64, generator=draws()))
    t = torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64)
    value = local_modulus(generator, torch.randn(20, 5, dtype=torch.float64, generator=draws(1)), t)
    exact = torch.linalg.matrix_norm(generator.matrix, 2) * t
    torch.testing.assert_close(value, exact.expand(20, 4), rtol=1e-6, atol=1e-12)


def test_local_modulus_on_the_circle_is_the_chord():
    t = torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64)
    value = local_modulus(Circle(), torch.randn(30, 1, dtype=torch.float64, generator=draws()), t)
    torch.testing.assert_close(value, CircleModulus()(t).expand(30, 3))


def test_local_modulus_beats_random_search_and_grows_with_t():
    model = randomised(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 20))
    model.latent_dim = 6
    z = torch.randn(20, 6, dtype=torch.float64, generator=draws())
    t = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    value = local_modulus(model, z, t)
    assert (value.diff(dim=1) >= 0).all()
    steps = nn.functional.normalize(torch.randn(2000, 6, dtype=torch.float64, generator=draws(1)), dim=1)
    with torch.no_grad():
        for column, radius in enumerate(t):
            moved = model((z[:, None] + radius * steps).flatten(0, 1)).reshape(20, 2000, 20) - model(z)[:, None]
            assert (moved.norm(dim=2).amax(1) <= value[:, column] * (1 + 1e-6)).all()


def generator() -> Linear:
    return Linear(torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Lipschitz(1.0)(-1), "t must be at least 0, got -1"),
        (lambda: Lipschitz(1.0).inverse([math.nan]), "eta must not contain NaN"),
        (lambda: Lipschitz([1.0, 2.0]), "constant must be one positive number"),
        (lambda: Lipschitz(-1.0), "constant must be one positive number, or 0 for a constant map, got -1.0"),
        (lambda: Holder(-1.0, 0.5), "constant must be one positive number, got -1.0"),
        (lambda: Interpolated([], []), r"t and omega must have the same shape \(T,\)"),
        (lambda: Interpolated([0.1, 0.2], [0.3]), r"t and omega must have the same shape \(T,\)"),
        (lambda: lipschitz_at(generator(), torch.zeros(2, 4)), r"z must have shape .*\(n, 3\), got \(2, 4\)"),
        (lambda: lipschitz_at(generator(), torch.full((2, 3), math.nan)), "z must not contain NaN"),
        (lambda: lipschitz_at(generator(), torch.zeros(2, 3), method="power"), "method must be None, 'exact' or"),
        (lambda: lipschitz_at(lambda z: z, torch.zeros(2, 3)), "generator must have a positive integer .* latent_dim"),
        (lambda: lipschitz_at(nn.Linear(3, 3), torch.zeros(2, 3)), "generator must be in evaluation mode"),
        (lambda: local_modulus(generator(), torch.zeros(2, 3), 0.1), r"t must have shape \(T,\) and increase"),
        (lambda: local_modulus(generator(), torch.zeros(2, 3), [0.2, 0.1]), r"t must have shape \(T,\) and increase"),
        (lambda: local_modulus(generator(), torch.zeros(2, 3), [0.1], steps=0), "steps must be an integer of at least"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_empty_batches_stay_empty():
    assert local_modulus(generator(), torch.zeros(0, 3), [0.1, 0.2]).shape == (0, 2)
    assert lipschitz_at(generator(), torch.zeros(0, 3)).shape == (0,)
