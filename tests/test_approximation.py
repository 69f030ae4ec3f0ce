"""Theorem 4: the bound where it is attained, W₁ by second ways, its certificate and its chance, on real scans."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import linprog
from scipy.stats import norm, wasserstein_distance

from companion import models
from companion.approximation import (
    critic,
    deviation,
    expected_in_distribution_radius,
    expected_robustness,
    transport,
)
from companion.circle import Circle, HalfPlane, class_probabilities, exact_radii
from companion.data import held_out_digits
from companion.robustness import unconstrained_radius
from companion.smoothness import CircleModulus, Holder, Interpolated, Lipschitz, Modulus
from companion.tightness import exact_latent_radius, random_partition
from companion.vulnerability import expected_latent_radius, robustness_quantile

LAWS = [[0.5, 0.5], [0.7, 0.2, 0.1], [0.98, 0.02], [0.1] * 10, [0.5, 0.5, 0.0]]
HALVES = [0.5, 0.5]


def draws(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Square(Modulus):
    """ω(t) = t², which no modulus of a generator on R^d is, and which is not concave."""

    def _forward(self, t):
        return t.square()

    def __repr__(self):
        return "Square()"


def extreme_mean(modulus, p) -> float:
    """E ω(T) by SciPy: ∫ ω(t) Σ φ(a_i + t) dt."""
    a = norm.isf([one for one in p if one > 0])
    kinks = [0.25, 0.5, 1.0, 2.0]
    integrand = lambda t: float(modulus(t)) * norm.pdf(a + t).sum()  # noqa: E731
    parts = zip([0.0, *kinks], [*kinks, 45.0], strict=True)
    return sum(quad(integrand, low, high, epsabs=1e-12, limit=200)[0] for low, high in parts)


# The theorem


@pytest.mark.parametrize("p", LAWS, ids=str)
def test_bound_is_modulus_of_the_mean_latent_radius_plus_distance(p):
    delta = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    mean = expected_latent_radius(p)
    torch.testing.assert_close(expected_robustness(Lipschitz(3.0), delta, p), 3 * mean + delta)
    torch.testing.assert_close(expected_robustness(Holder(2.0, 0.5), delta, p), 2 * mean.sqrt() + delta)


def test_two_halves_give_the_constant_of_the_paper():
    assert expected_robustness(Lipschitz(1.0), 0, HALVES).item() == pytest.approx(math.sqrt(2 / math.pi), rel=1e-12)
    assert expected_robustness(CircleModulus(), 0.25, HALVES).item() == pytest.approx(2.25, rel=1e-12)


def test_it_is_attained_and_smaller_constants_are_caught():
    """g(z) = 3z, a half-space through 0, and real images that are all pushed away from its boundary by 0.4."""
    z = draws(10**6, 2)
    generated = 3 * z
    real = generated + 0.4 * torch.stack([generated[:, 0].sign(), torch.zeros(10**6)], dim=1)
    radius = real[:, 0].abs()
    error = radius.std() / 1e3
    # The dual function |x_1| shows that no coupling is cheaper than this push.
    assert (real[:, 0].abs() - generated[:, 0].abs()).mean() == pytest.approx(0.4)
    bound = expected_robustness(Lipschitz(3.0), 0.4, HALVES)
    assert abs(radius.mean() - bound) < 4 * error
    for latent, distance in ((0.99, 1.0), (1.0, 0.95)):
        assert radius.mean() - 4 * error > expected_robustness(Lipschitz(3 * latent), 0.4 * distance, HALVES)


@pytest.mark.parametrize("offset", [0.0, 0.3, -0.7])
def test_noisy_circle(offset):
    """Points moved along their rays: the dual function | ‖x‖ − 1 | shows that W₁ is the mean length of the move."""
    line = HalfPlane([0.6, 0.8], offset)
    z, noise = draws(10**5, 1), draws(10**5, 1, seed=1)
    generated = Circle()(z)
    real = generated * (1 + 0.2 * noise)
    moved = (real - generated).norm(dim=1).mean()
    assert (real.norm(dim=1) - 1).abs().mean() == pytest.approx(moved.item())
    radius = (real @ line.normal - line.offset).abs().mean()
    p = class_probabilities(line)
    assert radius <= exact_radii(line, z)[2].mean() + moved
    assert radius <= expected_in_distribution_radius(CircleModulus(), p) + moved
    assert radius <= expected_robustness(CircleModulus(), moved, p)


@pytest.mark.parametrize("seed", range(30))
def test_the_mean_radius_of_every_classifier_moves_by_at_most_the_distance(seed):
    """The step of the proof that needs neither generator nor Gaussian, both ways, on finite samples."""
    classifier = random_partition(4, 3, seed=seed)
    first, second = draws(60, 3, seed=seed), 1 + 2 * draws(30, 3, seed=100 + seed)
    here, there = exact_latent_radius(classifier, first), exact_latent_radius(classifier, second)
    assert (here[:, None] - there).abs().le(torch.cdist(first, second) + 1e-9).all()
    assert (here.mean() - there.mean()).abs() <= transport(first, second).distance + 1e-9


def test_one_class_only_is_never_changed():
    assert expected_robustness(CircleModulus(), [0.0, 1.0], [1.0, 0.0]).tolist() == [math.inf] * 2
    assert expected_in_distribution_radius(CircleModulus(), [0.0, 1.0]) == math.inf


def test_a_modulus_that_is_not_concave_is_refused():
    convex = Interpolated([0.5, 1.0, 50.0], [0.1, 2.0, 100.0])
    for modulus in (Square(), convex):
        with pytest.raises(ValueError, match="modulus must be concave.* needs no concavity"):
            expected_robustness(modulus, 0.0, HALVES)
    with pytest.raises(ValueError, match="modulus must be concave"):
        expected_robustness(Interpolated([1.0], [2.0]), 0.0, HALVES)  # nothing is known beyond t = 1
    for modulus in (Lipschitz(1e-6), Lipschitz(1e6), Holder(1.0, 1e-3), CircleModulus()):
        assert expected_robustness(modulus, 0.0, HALVES).isfinite()


@pytest.mark.parametrize("p", LAWS, ids=str)
@pytest.mark.parametrize("modulus", [Lipschitz(2.0), Holder(3.0, 0.5), CircleModulus(), Square()], ids=repr)
def test_mean_of_the_modulus(p, modulus):
    found = expected_in_distribution_radius(modulus, p)
    assert found.item() == pytest.approx(extreme_mean(modulus, p), rel=1e-6)
    if not isinstance(modulus, Square):
        assert found <= expected_robustness(modulus, 0.0, p) * (1 + 1e-9)


def test_mean_of_the_modulus_is_that_of_the_largest_quantiles():
    p, q = [0.6, 0.3, 0.1], (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    convex = Interpolated([0.5, 1.0, 50.0], [0.1, 2.0, 100.0])
    for modulus in (convex, CircleModulus(), Lipschitz(2.0)):
        by_quantiles = robustness_quantile(q, p, modulus).mean()
        assert expected_in_distribution_radius(modulus, p).item() == pytest.approx(by_quantiles.item(), rel=1e-3)


def test_mean_of_the_modulus_bounds_the_circle():
    line = HalfPlane([1.0, 0.0], 0.4)
    mean = exact_radii(line, draws(10**5, 1))[1].mean()
    assert mean < expected_in_distribution_radius(CircleModulus(), class_probabilities(line)) < 1.9
    assert expected_in_distribution_radius(Interpolated([1.0], [2.0]), HALVES) == math.inf


# W₁


def by_linear_programming(first, second) -> float:
    m, n = len(first), len(second)
    rows, columns = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    shares = np.r_[np.full(m, 1 / m), np.full(n, 1 / n)]
    cost = torch.cdist(first, second).flatten().numpy()
    return linprog(cost, A_eq=np.r_[rows, columns], b_eq=shares).fun


@pytest.mark.parametrize(("m", "n"), [(1, 1), (7, 7), (12, 4), (9, 1)])
def test_transport_is_the_linear_programme(m, n):
    first, second = draws(m, 3), 0.5 + draws(n, 3, seed=1)
    found = transport(first, second)
    assert found.distance.item() == pytest.approx(by_linear_programming(first, second), rel=1e-9)
    assert torch.bincount(found.partner, minlength=n).tolist() == [m // n] * n


@pytest.mark.parametrize(("m", "n"), [(300, 300), (600, 200)])
def test_transport_on_a_line(m, n):
    first, second = draws(m, 1), 0.3 + 2 * draws(n, 1, seed=1)
    expected = wasserstein_distance(first[:, 0], second[:, 0])
    assert transport(first, second).distance.item() == pytest.approx(expected, rel=1e-9)


def test_transport_finds_a_permutation_and_a_shift():
    images = draws(50, 1, 4, 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    found = transport(images, images[order])
    assert found.distance == 0 and torch.equal(order[found.partner], torch.arange(50))
    shift = draws(1, 4, 4, seed=1)
    assert transport(images, images + shift).distance.item() == pytest.approx(shift.norm().item())


def test_distance_of_samples_exceeds_that_of_laws_and_falls_as_they_grow():
    """Gaussians a shift of length 1 apart: W₁ = 1."""
    apart = draws(4, seed=2)
    apart = apart / apart.norm()
    first, second = draws(40, 64, 4, seed=3), apart + draws(40, 64, 4, seed=4)
    means = []
    for size in (8, 16, 32, 64):
        found = [transport(a[:size], b[:size]).distance for a, b in zip(first, second, strict=True)]
        means.append(torch.stack(found).mean().item())
    assert means == sorted(means, reverse=True) and means[0] > 1.5 and means[-1] > 1
    # Not only on average: the pairings of two halves together are one pairing of the whole.
    a, b = first[0], second[0]
    halves = (transport(a[:32], b[:32]).distance + transport(a[32:], b[32:]).distance) / 2
    assert transport(a, b).distance <= halves + 1e-12


def test_transport_is_differentiable():
    first, second = draws(6, 2).requires_grad_(), draws(3, 2, seed=1)
    (gradient,) = torch.autograd.grad(transport(first, second).distance, first)
    step = 1e-6 * draws(6, 2, seed=2)
    with torch.no_grad():
        ends = [transport(first + sign * step, second).distance for sign in (1, -1)]
    assert (gradient * step).sum().item() == pytest.approx((ends[0] - ends[1]).item() / 2, rel=1e-4)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (40, 40), (120, 30), (20, 1)])
def test_critic_certifies_the_pairing(m, n):
    first, second = draws(m, 3), 1 + draws(n, 3, seed=1)
    found = transport(first, second)
    h = critic(first, second, found.partner)
    assert (h(first).mean() - h(second).mean()).item() == pytest.approx(found.distance.item(), abs=1e-12)
    points = 3 * draws(300, 3, seed=2)
    assert (h(points)[:, None] - h(points)).abs().le(torch.cdist(points, points) + 1e-9).all()


def test_critic_refuses_a_pairing_that_is_not_the_cheapest():
    first, second = draws(20, 2), draws(20, 2, seed=1)
    partner = transport(first, second).partner
    with pytest.raises(ValueError, match="partner must be a cheapest pairing"):
        critic(first, second, partner.roll(1))
    with pytest.raises(ValueError, match="partner must give each of the 20 images of second 1 partners"):
        critic(first, second, torch.zeros(20, dtype=torch.long))


def test_critic_on_fresh_samples_bounds_from_below():
    """Gaussians a shift of length 2 apart: the sample's own value is above 2, that on fresh samples below."""
    first, second = draws(200, 5), draws(200, 5, seed=1) + torch.eye(5, dtype=torch.float64)[0] * 2
    found = transport(first, second)
    h = critic(first, second, found.partner)
    left, right = draws(20_000, 5, seed=2), draws(20_000, 5, seed=3)
    right[:, 0] += 2
    assert 1 < h(left).mean() - h(right).mean() < 2 < found.distance


def test_deviation_is_the_formula():
    expected = 8 * math.sqrt(math.log(20) / 2 * (1 / 450 + 1 / 1800))
    assert deviation(8.0, [450, 1800]).item() == pytest.approx(expected, rel=1e-12)
    assert deviation(8.0, 100, confidence=0.99).item() == pytest.approx(8 * math.sqrt(math.log(100) / 200), rel=1e-12)


def test_deviation_covers_and_half_of_it_does_not():
    """W₁ between 20 and 20 tosses of a coin, and the mean of 40: how often each falls short by more."""
    coins = torch.randint(0, 2, (4000, 40, 1), generator=torch.Generator().manual_seed(0)).double()
    mean = coins.mean((1, 2))
    limit = deviation(1.0, 40)
    assert (mean < 0.5 - limit).double().mean() < 0.05 < (mean < 0.5 - limit / 2).double().mean()
    apart = [transport(toss[:20], toss[20:]).distance for toss in coins[:400]]
    apart = torch.stack(apart)
    assert (apart + deviation(1.0, [20, 20]) >= apart.mean()).all()


# Real scans


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_real_digits(name):
    generator, classifier = models.load("digits/generator"), models.load(f"digits/{name}")
    scans = held_out_digits()[0][:100]
    generated = generator(torch.randn(100, 16, generator=torch.Generator().manual_seed(0)))
    distance, partner = transport(generated, scans)
    real = unconstrained_radius(classifier, scans, steps=30)
    radius, witness = unconstrained_radius(classifier, generated, steps=30, return_witness=True)
    assert real.mean() <= radius.mean() + distance
    # The proof makes an adversarial image of each scan: its partner, or that image's adversarial one.
    label, carried = classifier(scans)[partner].argmax(1), classifier(generated).argmax(1)
    fooling = torch.where((carried == label)[:, None, None, None], witness, generated)
    assert (classifier(fooling).argmax(1) != label).all()
    reach = (fooling - scans[partner]).flatten(1).norm(dim=1)
    assert (reach <= radius + (generated - scans[partner]).flatten(1).norm(dim=1) + 1e-5).all()
    assert reach.mean() <= radius.mean() + distance


# Manners


def test_dtype_and_shape_are_kept():
    single = torch.tensor([[0.1], [0.2]])
    found = expected_robustness(Lipschitz(2.0), single, HALVES)
    assert found.dtype == torch.float32 and found.shape == (2, 1)
    assert expected_robustness(Lipschitz(2.0), np.float32(0.5), HALVES).dtype == torch.float32
    assert expected_robustness(Lipschitz(2.0), math.inf, HALVES) == math.inf
    assert expected_robustness(Lipschitz(2.0), [], HALVES).shape == (0,)
    half = torch.tensor(HALVES)
    assert expected_in_distribution_radius(Lipschitz(2.0), half).dtype == torch.float32
    first, second = draws(6, 1, 2, 2).float(), draws(3, 1, 2, 2, seed=1).float()
    distance, partner = transport(first, second)
    assert distance.dtype == torch.float32 and distance.shape == () and partner.shape == (6,)
    h = critic(first, second, partner)
    assert h(first).dtype == torch.float32 and h(first[:0]).shape == (0,)
    assert deviation(torch.tensor(2.0), 10).dtype == torch.float32
    assert deviation(2, 10).dtype == torch.float64


def test_gradients_reach_the_distance_the_modulus_and_the_probabilities():
    delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    constant = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.6, 0.4], dtype=torch.float64, requires_grad=True)
    expected_robustness(Lipschitz(constant), delta, p).backward()
    assert delta.grad == 1 and constant.grad.item() == pytest.approx(expected_latent_radius(p).item())
    slope = p.grad.clone()
    p.grad = None
    expected_in_distribution_radius(Lipschitz(2.0), p).backward()
    torch.testing.assert_close(p.grad, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("wasserstein", "p", "message"),
    [
        (-0.1, HALVES, "wasserstein must be at least 0, got -0.1"),
        (math.nan, HALVES, "wasserstein must not contain NaN"),
        ("far", HALVES, "wasserstein must be a number"),
        (0.1, [1.0], "class_probabilities must have shape .K,. with K >= 2"),
        (0.1, [0.5, 0.6], "class_probabilities must sum to 1"),
        (0.1, [1.5, -0.5], "class_probabilities must be at least 0"),
    ],
)
def test_bad_bounds(wasserstein, p, message):
    with pytest.raises(ValueError, match=message):
        expected_robustness(Lipschitz(1.0), wasserstein, p)


def test_bad_moduli():
    for bound in (lambda m: expected_robustness(m, 0.0, HALVES), lambda m: expected_in_distribution_radius(m, HALVES)):
        with pytest.raises(ValueError, match="modulus must be callable"):
            bound(2.0)
        with pytest.raises(ValueError, match="modulus must be increasing"):
            bound(lambda t: 1 / (1 + t))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (draws(4, 2), draws(3, 2), "first must hold as many images as second, or a multiple of that.* got 4 and 3"),
        (draws(3, 2), draws(6, 2), "got 3 and 6"),
        (draws(0, 2), draws(0, 2), "at least 1; got 0 and 0"),
        (draws(4, 2), draws(4, 3), "first must hold images of shape .3., got .2."),
        (draws(4), draws(4, 2), "first must be a batch of shape"),
        (draws(4, 2) / 0, draws(4, 2), "first must be finite"),
    ],
)
def test_bad_samples(first, second, message):
    with pytest.raises(ValueError, match=message):
        transport(first, second)
    with pytest.raises(ValueError, match=message):
        critic(first, second, torch.zeros(len(first), dtype=torch.long))


def test_bad_options():
    x = draws(4, 2)
    with pytest.raises(ValueError, match="partner must hold 4 integer labels"):
        critic(x, x, torch.arange(3))
    with pytest.raises(ValueError, match="x must hold images of shape .2., got .3."):
        critic(x, x, torch.arange(4))(draws(5, 3))
    for confidence in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="confidence must lie strictly between 0 and 1"):
            deviation(1.0, 10, confidence=confidence)
    for sizes in (0, 2.5, []):
        with pytest.raises(ValueError, match="sizes must be"):
            deviation(1.0, sizes)
    with pytest.raises(ValueError, match="diameter must be at least 0"):
        deviation(-1.0, 10)
