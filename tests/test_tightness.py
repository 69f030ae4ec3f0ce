"""Tightness: exact radii and laws of linear partitions, what is a theorem about them, and where it ends."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import binom, norm

from companion.robustness import latent_radius
from companion.smoothness import Lipschitz
from companion.tightness import (
    LinearPartition,
    balanced,
    balancing_biases,
    class_probabilities,
    empirical_law,
    exact_latent_radius,
    half_space,
    half_space_perimeter,
    latent_law,
    perimeter,
    random_partition,
    simplex_law,
    simplex_partition,
    simplex_perimeter,
)
from companion.vulnerability import vulnerable_fraction

UNIT = Lipschitz(1.0)
T = torch.tensor([0.01, 0.05, 0.1, 0.3, 0.7, 1.5], dtype=torch.float64)


def equal(num_classes: int) -> torch.Tensor:
    return torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Partitions and their exact radius.


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 50])
def test_simplex_is_regular(num_classes):
    corners = simplex_partition(num_classes).weights
    expected = torch.full((num_classes, num_classes), -1 / (num_classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(corners @ corners.T, expected, rtol=0, atol=1e-13)
    wide = simplex_partition(num_classes, num_classes + 3)
    assert wide.latent_dim == num_classes + 3
    torch.testing.assert_close(wide.weights @ wide.weights.T, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("partition", [random_partition(7, 4), simplex_partition(5, 6), half_space(3)], ids=repr)
def test_radius_is_the_distance_to_another_class(partition):
    """No step shorter than r_Z changes the label, in 500 random directions; one a hair longer does."""
    z = normal(300, partition.latent_dim)
    radius, label = exact_latent_radius(partition, z), partition(z).argmax(1)
    for direction in torch.nn.functional.normalize(normal(500, partition.latent_dim, seed=1)):
        assert (partition(z + 0.999999 * radius[:, None] * direction).argmax(1) == label).all()
    logits = partition(z)
    step = partition.weights - partition.weights[label][:, None]
    towards = step * ((logits.amax(1, keepdim=True) - logits) / step.square().sum(2)).unsqueeze(2)
    nearest = towards[torch.arange(300), towards.norm(dim=2).masked_fill(step.norm(dim=2) == 0, torch.inf).argmin(1)]
    torch.testing.assert_close(nearest.norm(dim=1), radius)
    assert (partition(z + 1.000001 * nearest).argmax(1) != label).all()


def test_the_attack_agrees_and_is_never_below():
    partition, z = random_partition(6, 5, seed=3), normal(500, 5)
    found, exact = latent_radius(_Identity(5), partition, z, steps=60), exact_latent_radius(partition, z)
    assert (found >= exact * (1 - 1e-9)).all()
    assert ((found / exact) < 1.001).double().mean() >= 0.998


def test_a_class_that_cannot_be_told_apart_is_no_neighbour():
    twins = LinearPartition([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [1.0, 0.0, 0.0])
    torch.testing.assert_close(exact_latent_radius(twins, torch.zeros(1, 2).double()), torch.tensor([0.5]).double())
    alone = LinearPartition([[1.0], [1.0]], [1.0, 0.0])
    assert exact_latent_radius(alone, [[0.3]]).tolist() == [math.inf]
    assert latent_law(alone, [0.0, 5.0], samples=100).fraction.tolist() == [0, 0]


# Laws that are known.


@pytest.mark.parametrize("dim, probability", [(1, 0.5), (3, 0.1), (500, 0.7)])
def test_half_space_attains_the_bound(dim, probability):
    """Equality in (4) at 10⁶ samples; one of these 18 intervals misses with a probability below 2e-4."""
    law = latent_law(half_space(dim, probability=probability), T, confidence=1 - 1e-5)
    bound = vulnerable_fraction(T, [1 - probability, probability], UNIT)
    assert ((law.low <= bound) & (bound <= law.high)).all()
    assert (law.high - law.low).max() < 0.005


@pytest.mark.parametrize("num_classes", [2, 3, 10, 40])
def test_simplex_law_agrees_with_counting(num_classes):
    law = latent_law(simplex_partition(num_classes, 60), T, confidence=1 - 1e-5, seed=num_classes)
    exact = simplex_law(T, num_classes)
    assert ((law.low <= exact) & (exact <= law.high)).all()


def test_simplex_law_agrees_with_other_integrals():
    for t in (0.0, 1e-6, 0.1, 0.7, 2.0, 4.0):
        assert simplex_law(t, 2).item() == pytest.approx(2 * norm.cdf(t) - 1, abs=1e-14)
        # In the plane what is left of a cell is a wedge of 120 degrees with its tip at 2t/√3.
        tip = 2 * t / math.sqrt(3)
        width = lambda x, tip=tip: norm.pdf(x) * (2 * norm.cdf(math.sqrt(3) * (x - tip)) - 1)  # noqa: E731
        assert simplex_law(t, 3).item() == pytest.approx(1 - 3 * quad(width, tip, tip + 12)[0], abs=1e-10)
    for num_classes in (10, 1000, 10**6):
        peak = norm.isf(1 / num_classes)
        chance = lambda x, k=num_classes: k * norm.pdf(x) * norm.cdf(x - math.sqrt(2) * 0.05) ** (k - 1)  # noqa: E731
        left = quad(chance, -8, peak)[0] + quad(chance, peak, peak + 8)[0]
        assert simplex_law(0.05, num_classes).item() == pytest.approx(1 - left, abs=1e-8)


def test_simplex_law_at_the_ends_and_its_gradient():
    assert simplex_law([0.0, math.inf], 10).tolist() == pytest.approx([0, 1], abs=1e-13)
    t = torch.tensor([0.01, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: simplex_law(t, 10), t)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 1000])
def test_perimeter_is_the_slope_at_zero(num_classes):
    step, p = 1e-5, equal(num_classes)
    slope = simplex_law(step, num_classes).item() / step
    assert slope == pytest.approx(simplex_perimeter(num_classes).item(), rel=1e-4)
    slope = vulnerable_fraction(step, p, UNIT).item() / step
    assert slope == pytest.approx(half_space_perimeter(p).item(), rel=1e-4)


def test_simplex_perimeter_is_the_mean_of_a_maximum():
    means = {2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}
    means[50] = quad(lambda x: x * 50 * norm.pdf(x) * norm.cdf(x) ** 49, -8, 10)[0]
    for num_classes, mean in means.items():
        assert simplex_perimeter(num_classes).item() == pytest.approx(math.sqrt(2) * mean, rel=1e-12)


def test_perimeter_by_sampling():
    for partition, exact in [(simplex_partition(k, 12), simplex_perimeter(k)) for k in (2, 3, 10)]:
        value, error = perimeter(partition, seed=5)
        assert abs(value - exact) <= 4 * error + 1e-12
    value, error = perimeter(half_space(4, probability=0.1))
    assert value.item() == pytest.approx(2 * norm.pdf(norm.ppf(0.1))) and error < 1e-9
    # A partition of no symmetry: its law, counted at a small t, agrees to within both errors and curvature.
    partition, t = random_partition(5, 3, seed=2), 0.01
    value, error = perimeter(partition, samples=2**17)
    law = latent_law(partition, t, confidence=1 - 1e-5)
    assert (law.low / t - 4 * error) * 0.98 <= value <= (law.high / t + 4 * error) * 1.02


# What is a theorem.


def test_simplex_is_strictly_above_the_bound_and_within_root_two():
    t = torch.logspace(-3, 0.5, 60, dtype=torch.float64)
    torch.testing.assert_close(simplex_law(t, 2), vulnerable_fraction(t, equal(2), UNIT), rtol=0, atol=1e-13)
    ratios = []
    for num_classes in (3, 4, 10, 100, 10**4, 10**6):
        law, bound = simplex_law(t, num_classes), vulnerable_fraction(t, equal(num_classes), UNIT)
        assert (law > bound).all()
        assert (law < vulnerable_fraction(math.sqrt(2) * t, equal(num_classes), UNIT)).all()
        ratios.append((simplex_perimeter(num_classes) / half_space_perimeter(equal(num_classes))).item())
    assert ratios == sorted(ratios) and 1.38 < ratios[-1] < math.sqrt(2)


@pytest.mark.parametrize("shares", [[0.9, 0.1], [0.6, 0.3, 0.09, 0.01], [0.3, 0.3] + [0.05] * 8], ids=str)
def test_the_bound_is_tight_up_to_root_two_for_unequal_classes(shares):
    """The largest of z_i − c_i: its law lies between the bound at t and at √2 t."""
    partition = balanced(LinearPartition(torch.eye(len(shares)).double()), shares)
    law, p = latent_law(partition, T, confidence=1 - 1e-5, seed=3), class_probabilities(partition, seed=4)
    assert (law.high >= vulnerable_fraction(T, p, UNIT)).all()
    assert (law.low <= vulnerable_fraction(math.sqrt(2) * T, p, UNIT)).all()


@pytest.mark.parametrize("num_classes, dim", [(3, 2), (3, 20), (10, 2), (10, 9), (10, 30)])
def test_no_random_partition_has_a_smaller_perimeter_than_the_simplex(num_classes, dim):
    """Milman & Neeman. Shares off by 1 % lower the smallest perimeter by 1e-4: equal shares maximise it."""
    for seed in range(6):
        partition = balanced(random_partition(num_classes, dim, seed=seed), samples=2**13)
        value, error = perimeter(partition, seed=seed)
        assert value + 4 * error > simplex_perimeter(num_classes) * 0.999


@pytest.mark.parametrize("num_classes", [3, 10])
def test_simplex_is_below_random_partitions_at_small_t(num_classes):
    """None is below by more than its interval, and the mean is above: one alone may be as good as regular."""
    t, samples = torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64), 2 * 10**5
    partitions = [balanced(random_partition(num_classes, num_classes - 1, seed=seed)) for seed in range(5)]
    laws = [latent_law(p, t, samples=samples, seed=s, confidence=1 - 1e-5) for s, p in enumerate(partitions)]
    exact = simplex_law(t, num_classes)
    assert all((law.high > exact).all() for law in laws)
    mean = torch.stack([law.fraction for law in laws]).mean(0)
    assert (mean > exact + 4 * (exact * (1 - exact) / (5 * samples)).sqrt()).all()


def test_simplex_is_not_the_best_at_large_t():
    """Three parallel slabs of equal probability leave more points further than 2 from another class."""
    edge = norm.isf(1 / 3)
    slabs = LinearPartition([[-1.0], [0.0], [1.0]], [-edge, 0.0, -edge])
    law = latent_law(slabs, [0.3, 2.0], confidence=1 - 1e-6)
    assert law.low[0] > simplex_law(0.3, 3)
    assert law.high[1] < simplex_law(2.0, 3)
    assert law.low[1] > vulnerable_fraction(2.0, equal(3), UNIT)


@pytest.fixture(scope="module")
def violations():
    """How many of 500 random partitions break (4) at odds below 1e-9: as it is, and with 1.5 t for t."""
    count, samples = np.zeros(2, dtype=int), 4000
    for seed in range(500):
        draws = torch.Generator().manual_seed(seed)
        num_classes = int(torch.randint(2, 12, (), generator=draws))
        dim = int(torch.randint(1, 30, (), generator=draws))
        partition = random_partition(num_classes, dim, seed=seed)
        p = class_probabilities(partition, samples=20_000, seed=seed)
        seen = (latent_law(partition, T, samples=samples, seed=seed + 1).fraction * samples).round()
        bound = vulnerable_fraction(torch.stack([T, 1.5 * T]), p, UNIT)
        count += (binom.cdf(seen.numpy(), samples, bound.numpy()) < 1e-9).any(axis=1)
    return count


def test_the_bound_holds_for_random_partitions(violations):
    assert violations[0] == 0


def test_the_bound_test_can_fail(violations):
    assert violations[1] > 50


# Balance.


def test_what_was_fitted_to_a_sample_is_not_measured_on_it():
    """With the same seed: on its own 400 latents each share would be ¼ but for a latent or two."""
    off = []
    for seed in range(20):
        fitted = balanced(random_partition(4, 3, seed=seed), samples=400, seed=seed)
        off.append((class_probabilities(fitted, samples=400, seed=seed) - 0.25).square().mean())
    # Both the fit and the count are off by √(¼ · ¾ / 400).
    assert torch.stack(off).mean().sqrt().item() == pytest.approx(math.sqrt(2 * 0.25 * 0.75 / 400), rel=0.3)


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (3, 2), (10, 1), (10, 50), (25, 6)])
def test_balanced_gives_every_class_its_share(num_classes, dim):
    p = class_probabilities(balanced(random_partition(num_classes, dim, seed=1)), samples=2 * 10**5, seed=9)
    assert (p - 1 / num_classes).abs().max() < 6 * math.sqrt(1 / num_classes / 2**16)


def test_balancing_reaches_given_shares():
    shares = torch.tensor([0.6, 0.3, 0.09, 0.01], dtype=torch.float64)
    logits = normal(50_000, 4).exp() * 10
    biases = balancing_biases(logits, shares)
    found = torch.bincount((logits + biases).argmax(1), minlength=4) / len(logits)
    assert (found - shares).abs().max() < 0.002 and abs(biases.mean()) < 1e-12
    assert balancing_biases(logits.float()).dtype == torch.float32


def test_balancing_says_where_it_fails():
    with pytest.warns(RuntimeWarning, match="a class probability is off by"):
        balancing_biases(normal(1000, 1).expand(-1, 3))


# Counting.


def test_the_law_depends_on_the_differences_of_weights_only():
    """Rotating, adding dimensions, and a weight common to all classes change neither radii nor their law."""
    partition, z = random_partition(4, 3, seed=8), normal(200, 3, seed=4)
    turn = torch.linalg.qr(normal(40, 40, seed=1))[0]
    turned = torch.nn.functional.pad(partition.weights, (0, 37)) @ turn + normal(40, seed=2)
    turned = LinearPartition(turned, partition.biases)
    far = torch.nn.functional.pad(z, (0, 37)) @ turn
    torch.testing.assert_close(exact_latent_radius(partition, z), exact_latent_radius(turned, far))
    first, second = (latent_law(p, T, samples=10**5, confidence=1 - 1e-5) for p in (partition, turned))
    assert ((first.low <= second.high) & (second.low <= first.high)).all()


def test_empirical_law_counts():
    radii = [0.1, 0.2, 0.2, math.inf]
    law = empirical_law(radii, [[0.3, 0.2], [0.1, 0.05]], confidence=0.9)
    assert law.fraction.tolist() == [[0.75, 0.75], [0.25, 0.0]]
    assert law.low[1, 1] == 0 and law.high[1, 1].item() == pytest.approx(1 - 0.05**0.25)
    assert binom.sf(2, 4, law.low[0, 0]) == pytest.approx(0.05)


def test_intervals_cover_at_their_confidence():
    exact = simplex_law(0.3, 3)
    laws = [latent_law(simplex_partition(3), 0.3, samples=500, seed=s, confidence=0.9) for s in range(300)]
    missed = sum(not law.low <= exact <= law.high for law in laws)
    assert binom.sf(missed - 1, 300, 0.1) > 1e-4


def test_a_million_samples_in_seconds():
    began = time.process_time()
    law = latent_law(simplex_partition(10, 100), torch.linspace(0, 2, 101))
    assert time.process_time() - began < 10
    assert law.fraction.shape == (101,) and law.fraction.dtype == torch.float32
    assert (law.fraction.diff() >= 0).all() and law.fraction[0] == 0


def test_seeds_and_empty_input():
    partition = simplex_partition(4)
    draw = [latent_law(partition, 0.2, samples=1000, seed=s).fraction.item() for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    assert exact_latent_radius(partition, torch.zeros(0, 3)).shape == (0,)
    assert latent_law(partition, torch.zeros(0), samples=10).low.shape == (0,)
    assert simplex_law(np.zeros((0, 2)), 3).shape == (0, 2)
    assert partition(torch.zeros(0, 3)).shape == (0, 4)


class _Identity:
    def __init__(self, dim: int):
        self.latent_dim = dim

    def __call__(self, z):
        return z


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: LinearPartition([[1.0, 2.0]]),
            r"weights must have shape \(K, d\) with K >= 2 and d >= 1, got \(1, 2\)",
        ),
        (lambda: LinearPartition([1.0, 2.0]), r"weights must have shape \(K, d\)"),
        (lambda: LinearPartition([[math.nan], [0.0]]), "weights must not contain NaN"),
        (lambda: LinearPartition([[1.0], [0.0]], [1.0]), r"biases must have shape \(2,\), got \(1,\)"),
        (lambda: half_space(0), "latent_dim must be an integer of at least 1, got 0"),
        (lambda: half_space(2, probability=1.0), "probability must lie strictly between 0 and 1, got 1"),
        (lambda: simplex_partition(1), "num_classes must be an integer of at least 2, got 1"),
        (lambda: simplex_partition(5, 3), "latent_dim must be at least num_classes - 1 = 4, got 3"),
        (lambda: random_partition(3, 0), "latent_dim must be an integer of at least 1"),
        (lambda: balanced("x"), "partition must be a LinearPartition, got 'x'"),
        (
            lambda: balanced(half_space(2), [0.5, 0.3, 0.2]),
            "class_probabilities must hold 2 positive numbers",
        ),
        (lambda: balanced(half_space(2), [1.0, 0.0]), "class_probabilities must hold 2 positive numbers"),
        (
            lambda: balancing_biases(torch.zeros(3)),
            r"logits must have shape \(n, K\) with n >= 1 and K >= 2, got \(3,\)",
        ),
        (lambda: balancing_biases(torch.zeros(0, 3)), r"logits must have shape \(n, K\) with n >= 1"),
        (
            lambda: exact_latent_radius(half_space(2), torch.zeros(4, 3)),
            r"z must have shape .* = \(n, 2\), got \(4, 3\)",
        ),
        (lambda: exact_latent_radius(half_space(1), [[math.inf]]), "z must be finite"),
        (
            lambda: class_probabilities(half_space(1), samples=0),
            "samples must be an integer of at least 1, got 0",
        ),
        (lambda: latent_law(half_space(1), -0.1), "t must be at least 0, got -0.1"),
        (lambda: latent_law(half_space(1), math.nan), "t must not contain NaN"),
        (
            lambda: latent_law(half_space(1), 0.1, samples=10, confidence=1.0),
            "confidence must lie strictly between 0 and 1",
        ),
        (lambda: latent_law(lambda z: z, 0.1), "partition must be a LinearPartition"),
        (lambda: empirical_law([], 0.1), r"radii must have shape \(n,\) with n >= 1, got \(0,\)"),
        (lambda: empirical_law([-1.0], 0.1), "radii must be at least 0, got -1"),
        (lambda: simplex_law(-1.0, 3), "t must be at least 0, got -1"),
        (lambda: simplex_law(1.0, 1), "num_classes must be an integer of at least 2, got 1"),
        (lambda: simplex_perimeter(0), "num_classes must be an integer of at least 2, got 0"),
        (lambda: half_space_perimeter([0.5, 0.4]), "class_probabilities must sum to 1"),
        (lambda: perimeter(half_space(1), samples=1), "samples must be an integer of at least 2, got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
