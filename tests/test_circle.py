"""The circle's closed forms against definitions, quadrature and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from companion.circle import Circle, HalfPlane, class_probabilities, exact_law, exact_radii

LINES = [((1.0, 0.0), 0.0), ((0.6, 0.8), 0.3), ((0.0, 2.0), -1.4), ((-1.0, 0.3), 0.95)]


@pytest.fixture(params=LINES, ids=str)
def line(request) -> HalfPlane:
    return HalfPlane(*request.param)


def latents(n: int) -> torch.Tensor:
    return torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_generator_lands_on_the_circle():
    x = Circle()(latents(100))
    assert x.shape == (100, 2)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(100, dtype=torch.float64))


def test_modulus_is_attained_and_never_exceeded():
    generator, z = Circle(), latents(1000)
    for t in (0.01, 0.2, 0.5, 0.7):
        moved = (generator(z + t) - generator(z)).norm(dim=1)
        assert (moved <= generator.modulus(t) + 1e-12).all()
        if t <= 0.5:
            torch.testing.assert_close(moved, generator.modulus(t).expand_as(moved))
    # Beyond half a turn the farthest point is half a turn away, at the diameter.
    assert generator.modulus(0.7).item() == 2
    assert generator.modulus.inverse(2.0).item() == math.inf


def test_signed_distance_does_not_depend_on_the_length_of_the_normal():
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(HalfPlane((0.0, 5.0), 10.0)(x), torch.tensor([[-2.0, 2.0]], dtype=torch.float64))


def test_class_probabilities_match_quadrature(line):
    boundary = np.sort(_boundary(line))
    total = 0.0
    for left, right in zip(boundary[:-1], boundary[1:], strict=True):
        middle = torch.tensor([[(left + right) / 2]], dtype=torch.float64)
        if line(Circle()(middle)).argmax() == 1:
            total += quad(norm.pdf, left, right, epsabs=1e-13)[0]
    assert class_probabilities(line)[1].item() == pytest.approx(total, rel=1e-9)


def test_radii_match_brute_force(line):
    z, generator = latents(200), Circle()
    latent, in_distribution, unconstrained = exact_radii(line, z)
    grid = torch.from_numpy(_boundary(line))
    torch.testing.assert_close(latent, (z - grid).abs().amin(1))
    chords = (generator(z)[:, None] - generator(grid[:, None])).norm(dim=2)
    torch.testing.assert_close(in_distribution, chords.amin(1))
    # Moving by r_unc along the normal reaches the line, and no shorter step does.
    x = generator(z)
    signed = line(x)[:, 1]
    reached = x - signed[:, None] * line.normal
    torch.testing.assert_close(line(reached)[:, 1].abs(), torch.zeros(200, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(unconstrained, (reached - x).norm(dim=1))


def test_radii_are_ordered_and_chords_of_the_latent_radius(line):
    latent, in_distribution, unconstrained = exact_radii(line, latents(1000))
    assert (unconstrained <= in_distribution + 1e-12).all()
    torch.testing.assert_close(in_distribution, Circle.modulus(latent))


def test_law_matches_monte_carlo(line):
    eta = torch.tensor([0.0, 0.05, 0.4, 1.0, 1.7, 2.0], dtype=torch.float64)
    radius = exact_radii(line, latents(200_000))[1]
    measured = (radius[:, None] <= eta).double().mean(0)
    # Four standard errors of 200,000 draws.
    torch.testing.assert_close(exact_law(line, eta), measured, atol=4 * 0.5 / math.sqrt(200_000), rtol=0)
    assert exact_law(line, 2.0).item() == pytest.approx(1)


@pytest.mark.parametrize("offset", [1.0, 1.5, -2.0])
def test_a_line_that_misses_the_circle_leaves_one_class(offset):
    line = HalfPlane((1.0, 0.0), offset)
    latent, in_distribution, unconstrained = exact_radii(line, latents(10))
    assert latent.isinf().all() and in_distribution.isinf().all()
    assert unconstrained.isfinite().all()
    assert class_probabilities(line).max().item() == pytest.approx(1)
    assert exact_law(line, [0.5, 2.0]).tolist() == [0, 0]


def test_dtype_is_kept_and_empty_batches_stay_empty():
    line = HalfPlane((1.0, 1.0))
    assert exact_radii(line, latents(3).float())[0].dtype == torch.float32
    assert all(radius.shape == (0,) for radius in exact_radii(line, torch.zeros(0, 1)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: HalfPlane((0.0, 0.0)), "normal must be a non-zero vector"),
        (lambda: HalfPlane([[1.0, 0.0]]), "normal must be a non-zero vector"),
        (lambda: HalfPlane((math.nan, 0.0)), "normal must not contain NaN"),
        (lambda: HalfPlane((1.0, 0.0), math.inf), "offset must be finite"),
        (lambda: HalfPlane((1.0, 0.0), [0.1, 0.2]), "offset must be one number"),
        (lambda: exact_radii(HalfPlane((1.0, 0.0)), torch.zeros(3)), r"z must have shape \(n, latent_dim\)"),
        (lambda: exact_radii(HalfPlane((1.0, 0.0)), [[math.nan]]), "z must not contain NaN"),
        (lambda: exact_radii(HalfPlane((1.0, 0.0, 0.0)), [[0.0]]), "classifier must be a HalfPlane of the plane"),
        (lambda: exact_law(HalfPlane((1.0, 0.0)), -0.1), "eta must be at least 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _boundary(line: HalfPlane, turns: int = 12) -> np.ndarray:
    """All latents in ±`turns` whose image lies on the line, straight from cos(2πz − angle) = offset."""
    angle = math.atan2(line.normal[1], line.normal[0])
    opening = math.acos(line.offset)
    return np.array([(angle + s * opening) / (2 * math.pi) + k for k in range(-turns, turns + 1) for s in (-1, 1)])
