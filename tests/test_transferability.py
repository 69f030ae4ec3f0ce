"""Theorem 3: the formulas against mpmath, the inequality against exact joint radii, the search against closed forms."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

from companion import models
from companion.circle import Circle, HalfPlane, class_probabilities
from companion.robustness import compose, unconstrained_radius
from companion.smoothness import Lipschitz, Modulus
from companion.tightness import LinearPartition, exact_latent_radius, random_partition
from companion.transferability import (
    balanced_transferable_fraction,
    exact_joint_radius,
    joint_radius,
    overlap,
    overlap_transferable_fraction,
    transferable_fraction,
)
from companion.vulnerability import vulnerable_fraction

UNIT = Lipschitz(1.0)
T = torch.tensor([1e-8, 1e-3, 0.05, 0.3, 0.7, 1.5, 3.0, 8.0, 30.0], dtype=torch.float64)
PROBABILITIES = [[0.5, 0.5], [0.9, 0.1], [0.999, 0.001], [0.5, 0.3, 0.2], [0.1] * 10, [1e-3] * 1000]


def draws(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The formulas.


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("delta", [0.0, 1e-9, 1e-4, 0.03, 0.2])
@pytest.mark.parametrize("p", PROBABILITIES, ids=lambda p: f"K={len(p)},max={max(p):g}")
def test_bound_matches_mpmath(p, delta, k):
    with mpmath.workdps(40):
        enlarged = sorted(map(mpmath.mpf, p), reverse=True)
        for i in range(min(k, len(p)) - 1):
            enlarged[i] = min(enlarged[i] + mpmath.mpf(delta), mpmath.mpf(1))
        # Decimals that sum to 1 only after rounding: the formula takes the sum for 1.
        rounding = sum(map(mpmath.mpf, p)) - 1
        expected = [_by_mpmath(t, enlarged, delta) + rounding for t in T.tolist()]
    found = transferable_fraction(T, delta, p, UNIT, num_classifiers=k).tolist()
    assert found == pytest.approx([float(max(0, e)) for e in expected], rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("unions", [[0.5, 0.5], [0.6, 0.7], [1.0, 1e-9], [0.35, 0.4, 0.31], [0.12] * 10], ids=str)
def test_overlap_form_matches_mpmath(unions):
    with mpmath.workdps(40):
        expected = [float(max(0, _by_mpmath(t, list(map(mpmath.mpf, unions)), 0.04))) for t in T.tolist()]
    found = overlap_transferable_fraction(T, 0.04, unions, UNIT).tolist()
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-15)


def _by_mpmath(t: float, unions: list, delta: float):
    """1 − δ − Σ ψ(u), as the chapter writes it."""

    def psi(u):
        if u in (0, 1):
            return u
        # Φ⁻¹(u) is −Φ⁻¹(1 − u): from the smaller tail, with its lower quantile by root finding.
        tail, sign = (u, 1) if u <= 0.5 else (1 - u, -1)
        start = norm.ppf(float(tail))
        quantile = sign * mpmath.findroot(lambda a: mpmath.ncdf(a) - tail, start)
        return mpmath.ncdf(quantile - t)

    values = {u: psi(u) for u in set(unions)}
    return 1 - mpmath.mpf(delta) - sum(values[u] for u in unions)


@pytest.mark.parametrize("p", PROBABILITIES, ids=lambda p: f"K={len(p)},max={max(p):g}")
def test_without_disagreement_it_is_theorem_1(p):
    expected = vulnerable_fraction(T, p, UNIT)
    for k in (1, 2, 3):
        found = transferable_fraction(T, 0.0, p, UNIT, num_classifiers=k)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("p", [[0.4, 0.35, 0.25], [0.1] * 10, [0.3, 0.3, 0.3, 0.1]], ids=str)
def test_printed_form_is_weaker_where_it_holds(p):
    t = torch.linspace(0, 6, 200, dtype=torch.float64)
    for delta in (0.0, 0.01, 0.1):
        sharp, printed = transferable_fraction(t, delta, p, UNIT), balanced_transferable_fraction(t, delta, p, UNIT)
        # What the chapter proves on the way: 2Q(t) for √(π/2) exp(−t²/2), and (1 + δ) for 1.
        between = 1 - delta - 2 * torch.special.ndtr(-t) * (1 + delta)
        assert (sharp >= between - 1e-15).all() and (between >= printed - 1e-15).all()
    assert printed.tolist() == pytest.approx((1 - np.sqrt(np.pi / 2) * np.exp(-(t.numpy() ** 2) / 2) - 0.2).tolist())


def test_printed_form_is_false_without_balance():
    """f = h, a half-space of probability 0.95: its exact law is below what the deck promises."""
    t, p = 2.0, [0.95, 0.05]
    law = vulnerable_fraction(t, p, UNIT).item()
    assert law < 1 - math.sqrt(math.pi / 2) * math.exp(-(t**2) / 2) - 0.1
    for delta, shares in ((0.0, p), (0.11, [0.4, 0.6 - 0.2, 0.2])):
        with pytest.raises(ValueError, match="p_i \\+ disagreement <= 1/2"):
            balanced_transferable_fraction(t, delta, shares, UNIT)
    assert balanced_transferable_fraction(t, 0.1, [0.4, 0.4, 0.2], UNIT) > 0


def test_it_decreases_in_delta_and_in_the_number_of_classifiers():
    p = [0.5, 0.2, 0.2, 0.1]
    by_delta = torch.stack([transferable_fraction(T, delta, p, UNIT) for delta in np.linspace(0, 1, 21)])
    assert (by_delta.diff(dim=0) <= 1e-15).all() and by_delta[-1].max() == 0
    by_number = torch.stack([transferable_fraction(T, 0.02, p, UNIT, num_classifiers=k) for k in range(1, 7)])
    assert (by_number.diff(dim=0) <= 1e-15).all() and by_number[0, 5] > by_number[1, 5] > by_number[3, 5]
    # A point has at most K − 1 wrong labels.
    assert torch.equal(by_number[3], by_number[5])


def test_gradients():
    logits = torch.tensor([0.2, -0.3, 1.1], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([0.9, 3.0], dtype=torch.float64, requires_grad=True)
    delta = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda e, s, d: transferable_fraction(e, d, s.softmax(0), UNIT), (eta, logits, delta)
    )


def test_shapes_and_dtypes():
    eta = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    for bound in (transferable_fraction, balanced_transferable_fraction, overlap_transferable_fraction):
        found = bound(eta, 0.1, [0.4, 0.35, 0.25], UNIT)
        assert found.shape == eta.shape and found.dtype == torch.float32
        assert bound(np.zeros(0), 0.1, [0.4, 0.35, 0.25], UNIT).shape == (0,)
        assert bound(1, 0.1, [0.4, 0.35, 0.25], UNIT).dtype == torch.float64
    assert transferable_fraction(math.inf, 0.1, [0.4, 0.6], UNIT).item() == pytest.approx(0.9)


# What is a theorem about the formulas.


@pytest.mark.parametrize("k", [2, 3, 4])
def test_delta_and_p_alone_never_promise_more_than_the_overlap(k):
    """Any joint law of k labels: the bound from (δ, p) is at most the bound from (δ, ν(U_i)), whoever is f."""
    eta, tight = torch.linspace(0.1, 4, 40, dtype=torch.float64), math.inf
    for seed in range(60):
        num_classes, random = 2 + seed % 4, np.random.default_rng(seed)
        table = random.integers(num_classes, size=(12, k))
        table[:num_classes] = np.arange(num_classes)[:, None]
        weight = random.dirichlet(np.where(np.arange(12) < num_classes, 5.0, 0.05))
        unions = [weight[(table == i).any(1)].sum() for i in range(num_classes)]
        delta = weight[(table != table[:, :1]).any(1)].sum()
        exact = overlap_transferable_fraction(eta, delta, unions, UNIT)
        for column in table.T:
            p = np.bincount(column, weights=weight, minlength=num_classes)
            worst = transferable_fraction(eta, delta, p, UNIT, num_classifiers=k)
            assert (worst <= exact + 1e-14).all()
            if worst[-1] > 0:
                tight = min(tight, float((exact - worst).max()))
    assert tight < 1e-3 or k > 2


def test_what_pairs_of_classifiers_promise():
    """The exercise on pairs: Δ added to one class only is the best of three forms; the printed one may be the worst."""
    t, random = torch.linspace(0.05, 4, 40, dtype=torch.float64), np.random.default_rng(0)
    decay = torch.exp(-t.square() / 2)
    for _ in range(100):
        size, k = int(random.integers(3, 30)), int(random.integers(3, 30))
        p = random.dirichlet(np.full(size, 20.0))
        delta = float(random.uniform(0, 0.5 - min(p.max(), 0.5)))
        pairs, joint = (transferable_fraction(t, delta, p, UNIT, num_classifiers=j) for j in (2, k))
        assert (pairs >= joint - 1e-14).all()
        if p.max() + delta <= 0.5:
            assert (pairs >= 1 - decay - (1 + decay) * delta - 1e-14).all()
    few, many = [0.1] * 10, [0.01] * 100
    decay = math.exp(-0.5)
    assert transferable_fraction(1.0, 0.05, few, UNIT, num_classifiers=3) > 1 - decay - (1 + decay) * 0.05 + 0.4
    decay = math.exp(-2.0)
    assert transferable_fraction(2.0, 0.4, many, UNIT, num_classifiers=100) < 1 - decay - (1 + decay) * 0.4 - 0.4


@pytest.mark.parametrize("low, high", [(-0.4, 0.3), (0.2, 0.9), (-1.7, -1.2), (0.5, 0.5)])
def test_two_classes_attain_the_bound(low, high):
    """f and h are 1 beyond `high` and beyond `low`: a point is fooled twice if it crosses both."""
    t = torch.linspace(0, 4, 81, dtype=torch.float64).numpy()
    up = norm.cdf(np.maximum(low + t, high)) - norm.cdf(high)
    down = norm.cdf(low) - norm.cdf(np.minimum(high - t, low))
    law, delta = up + down, norm.cdf(high) - norm.cdf(low)
    measured = overlap_transferable_fraction(t, delta, [norm.cdf(high), norm.sf(low)], UNIT)
    np.testing.assert_allclose(measured, law, rtol=0, atol=1e-14)
    # From (δ, p) alone the same, if one of the two has a class above 1/2 that the other enlarges.
    larger = max(norm.cdf(low), norm.sf(high))
    bound = transferable_fraction(t, delta, [larger, 1 - larger], UNIT)
    if larger < 0.5:
        assert (bound.numpy() <= law + 1e-14).all()
        return
    np.testing.assert_allclose(bound, law, rtol=0, atol=1e-14)
    if delta:
        assert (transferable_fraction(t, 0.9 * delta, [larger, 1 - larger], UNIT).numpy() > law + 1e-3).any()


# The theorem. Joint radii are exact for linear partitions and on the circle.

ETAS = torch.tensor([0.1, 0.3, 0.7, 1.5, 2.5], dtype=torch.float64)
SAMPLES, RARE = 2000, 1e-9


@cache
def random_pairs() -> list:
    """For 600 random pairs: η (5,), how many of the samples are fooled twice within η, (δ, p, modulus), overlap."""
    families = (_parallel_pair, _linear_pair, _circle_pair)
    pairs = []
    for seed in range(600):
        radius, eta, *known = families[seed % 3](seed)
        pairs.append((eta, (radius[:, None] <= eta).sum(0), *known))
    return pairs


def violations(*, reach: float = 1.0, deltas: float = 2.0, measured: bool = False) -> int:
    """How many pairs break the bound with t·reach for t and δ·deltas for 2δ.

    A pair breaks it if, at some η, as few points as were seen would come up less than once in 10⁹ draws were the bound
    true: over all pairs and η a false alarm has a probability below 10⁻⁵.
    """
    count = 0
    for eta, seen, delta, p, modulus, unions in random_pairs():
        if measured:
            bound = overlap_transferable_fraction(eta * reach, *unions, modulus)
        else:
            bound = transferable_fraction(eta * reach, delta, p, modulus)
            bound = torch.where(bound > 0, bound + (2 - deltas) * delta, 0.0)
        count += bool((binom.cdf(seen.numpy(), SAMPLES, bound.clamp(0, 1).numpy()) < RARE).any())
    return count


@pytest.mark.parametrize("measured", [False, True], ids=["(δ, p)", "overlap"])
def test_theorem_3_holds_for_six_hundred_pairs(measured):
    assert violations(measured=measured) == 0


@pytest.mark.parametrize("wrong", [dict(reach=1.3), dict(deltas=1.0), dict(reach=1.3, measured=True)], ids=str)
def test_the_theorem_test_can_fail(wrong):
    """A longer reach, or δ for 2δ, is caught: equality holds for the parallel half-spaces among the pairs."""
    assert violations(**wrong) > 40


def _parallel_pair(seed):
    """g(z) = Lz and two parallel half-spaces: equality."""
    random = np.random.default_rng(seed)
    constant, low = 10 ** random.uniform(-1, 1), random.normal()
    high = low + random.uniform(0.02, 0.5)
    first = draws(SAMPLES, seed=seed).numpy()
    distance = np.where(first > high, first - low, np.where(first < low, high - first, np.inf))
    larger = max(norm.cdf(low), norm.sf(high))
    delta = norm.cdf(high) - norm.cdf(low)
    unions = (delta, [norm.cdf(high), norm.sf(low)])
    radius = torch.from_numpy(constant * distance)
    return radius, constant * ETAS, delta, [larger, 1 - larger], Lipschitz(constant), unions


def _linear_pair(seed):
    """Two linear partitions, the second near the first; δ and the unions are upper limits at odds below 10⁻⁹."""
    random = np.random.default_rng(seed)
    num_classes, dim = int(random.integers(2, 8)), int(random.integers(1, 10))
    f = random_partition(num_classes, dim, seed=seed)
    noise = 10 ** random.uniform(-2, -0.5)
    h = LinearPartition(f.weights + noise * draws(num_classes, dim, seed=seed), f.biases)
    many = draws(20_000, dim, seed=10_000 + seed)
    labels = torch.stack([f(many).argmax(1), h(many).argmax(1)], 1)
    limits = overlap(labels, num_classes, confidence=1 - RARE)
    p = torch.bincount(labels[:, 0], minlength=num_classes).double() / len(labels)
    radius = exact_joint_radius(f, h, draws(SAMPLES, dim, seed=20_000 + seed))
    limits = limits.disagreement.item(), limits.class_unions
    return radius, ETAS, limits[0], p, UNIT, limits


def _circle_pair(seed):
    """The circle, two half-planes and the exact modulus: the joint in-distribution radius is a chord."""
    random = np.random.default_rng(seed)
    angle, offset = random.uniform(0, 2 * np.pi), random.uniform(-0.9, 0.9)
    turn, shift = random.uniform(-0.2, 0.2), random.uniform(-0.05, 0.05)
    f = HalfPlane([math.cos(angle), math.sin(angle)], offset)
    h = HalfPlane([math.cos(angle + turn), math.sin(angle + turn)], offset + shift)
    radius = 2 * torch.sin(math.pi * _circle_latent_radius(f, h, draws(SAMPLES, 1, seed=seed)).clamp(max=0.5))
    delta, unions = _circle_overlap(f, h)
    return radius, ETAS / 2, delta, class_probabilities(f), Circle.modulus, (delta, unions)


def _ends(*lines: HalfPlane) -> torch.Tensor:
    """Where the labels change on the circle, in turns, each in [0, 1)."""
    ends = []
    for line in lines:
        centre, width = math.atan2(line.normal[1], line.normal[0]), math.acos(line.offset)
        ends += [centre - width, centre + width]
    return (torch.tensor(ends, dtype=torch.float64) / (2 * math.pi)) % 1


def _circle_latent_radius(f: HalfPlane, h: HalfPlane, z: torch.Tensor) -> torch.Tensor:
    """The joint latent radius on the circle: the nearest end of an arc where both labels differ from those of z."""
    own = torch.stack([line(Circle()(z)).argmax(1) for line in (f, h)], 1)
    ends, nearest = _ends(f, h), torch.full((len(z),), math.inf, dtype=torch.float64)
    for end in ends:
        away = z[:, 0] - end
        distance = (away - away.round()).abs()
        for side in (-1e-9, 1e-9):
            beyond = Circle()((end + side).reshape(1, 1))
            label = torch.stack([line(beyond).argmax(1) for line in (f, h)], 1)
            nearest = torch.where((label != own).all(1), nearest.minimum(distance), nearest)
    return nearest


def _circle_overlap(f: HalfPlane, h: HalfPlane) -> tuple[float, list[float]]:
    """δ and the unions exactly: the wrapped normal masses of the arcs between the ends."""
    ends = np.sort(_ends(f, h).numpy())
    upper = np.append(ends[1:], ends[0] + 1)
    turns = np.arange(-12, 13)[:, None]
    mass = (norm.cdf(upper + turns) - norm.cdf(ends + turns)).sum(0)
    middle = Circle()(torch.from_numpy((ends + upper) / 2)[:, None])
    label = np.stack([line(middle).argmax(1).numpy() for line in (f, h)], 1)
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    return mass[label[:, 0] != label[:, 1]].sum(), [mass[(label == i).any(1)].sum() for i in (0, 1)]


@pytest.mark.parametrize("k", [3, 4])
def test_theorem_3_holds_for_more_classifiers(k):
    """The search gives radii that are too large, if anything: too few points would be fooled, not too many."""
    for seed in range(4):
        f = random_partition(4, 5, seed=seed)
        noise = [0.1 * draws(4, 5, seed=9 * seed + j) for j in range(k - 1)]
        family = [f] + [LinearPartition(f.weights + one, f.biases) for one in noise]
        z, many = draws(400, 5, seed=seed), draws(50_000, 5, seed=50 + seed)
        labels = torch.stack([one(many).argmax(1) for one in family], 1)
        radius = joint_radius(family, z, many[:2000], starts=4)
        seen = (radius[:, None] <= ETAS).sum(0).numpy()
        limits = overlap(labels, 4, confidence=1 - RARE)
        p = torch.bincount(labels[:, 0], minlength=4).double() / len(labels)
        sharper = overlap_transferable_fraction(ETAS, *limits, UNIT)
        assert sharper.max() > 0.5
        assert (binom.cdf(seen, 400, sharper.numpy()) > RARE).all()
        bound = transferable_fraction(ETAS, limits.disagreement, p, UNIT, num_classifiers=k)
        assert (binom.cdf(seen, 400, bound.numpy()) > RARE).all()


# Measured labels.


def test_overlap_counts():
    labels = torch.tensor([[0, 0, 0], [0, 1, 0], [2, 1, 0], [1, 1, 1], [1, 1, 2]])
    found = overlap(labels, 4)
    assert found.disagreement.item() == pytest.approx(0.6)
    assert found.class_unions.tolist() == pytest.approx([0.6, 0.8, 0.4, 0.0])
    assert overlap(labels.numpy(), 4).class_unions.tolist() == found.class_unions.tolist()


def test_upper_limits_hold_jointly_and_count_classes_never_seen():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    random, missed = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        first = torch.multinomial(shares, 400, replacement=True, generator=random)
        second = torch.where(torch.rand(400, generator=random) < 0.1, 3, first)
        limits = overlap(torch.stack([first, second], 1), 4, confidence=0.9)
        true = torch.tensor([0.1 * 0.95, 0.5, 0.3, 0.15, 0.05 + 0.1 * 0.95], dtype=torch.float64)
        missed += bool((torch.cat([limits.disagreement[None], limits.class_unions]) < true).any())
    assert binom.sf(missed - 1, 1000, 0.1) > 1e-4
    unseen = overlap(torch.zeros(100, 2, dtype=torch.long), 2, confidence=0.97)
    assert unseen.class_unions[1].item() == pytest.approx(1 - 0.01 ** (1 / 100))


# The exact joint radius and the search.


def test_exact_joint_radius_is_that_of_brute_force():
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for seed in range(4):
        f, h = (random_partition(4, 2, seed=seed + shift) for shift in (0, 50))
        z = draws(40, 2, seed=seed)
        fooled = (f(grid).argmax(1) != f(z).argmax(1)[:, None]) & (h(grid).argmax(1) != h(z).argmax(1)[:, None])
        nearest = torch.cdist(z, grid).masked_fill(~fooled, torch.inf).amin(1)
        exact = exact_joint_radius(f, h, z)
        # A half-space is met within a grid cell; the tip of a wedge may be narrower than one.
        assert (nearest >= exact - 1e-12).all() and ((nearest - exact) < 0.02).double().mean() > 0.9


def test_exact_joint_radius_of_equal_and_opposite_partitions():
    f, z = random_partition(5, 3, seed=1), draws(100, 3)
    torch.testing.assert_close(exact_joint_radius(f, f, z), exact_latent_radius(f, z))
    line = LinearPartition([[-1.0], [1.0]], [1.0, -1.0])
    other = LinearPartition([[-1.0], [1.0]], [-1.0, 1.0])
    found = exact_joint_radius(line, other, [[0.0], [2.0], [-3.0]])
    # 0 lies between −1 and 1, where both labels differ from each other: no point has both of the others.
    assert found.tolist() == pytest.approx([math.inf, 3.0, 4.0])
    constant = LinearPartition([[1.0], [1.0]], [1.0, 0.0])
    assert exact_joint_radius(line, constant, [[0.3]]).tolist() == [math.inf]


def test_exact_joint_radius_keeps_its_digits_at_thin_wedges():
    """Two lines at an angle of 1e-6: the edge is far away, and the law of sines says how far."""
    angle = 1e-6
    f = LinearPartition([[0.0, 0.0], [0.0, 1.0]], [0.0, -1.0])
    h = LinearPartition([[0.0, 0.0], [-math.sin(angle), -math.cos(angle)]], [0.0, -1.0])
    # y ≥ 1 and below the turned line: they meet where 1 = −(1 + x sin)/cos.
    x = -(1 + math.cos(angle)) / math.sin(angle)
    assert exact_joint_radius(f, h, torch.zeros(1, 2).double()).item() == pytest.approx(math.hypot(x, 1), rel=1e-9)


@pytest.mark.parametrize("num_classes, dim", [(2, 2), (3, 5), (8, 12)])
def test_search_finds_the_exact_joint_radius(num_classes, dim):
    f = random_partition(num_classes, dim, seed=3)
    h = LinearPartition(f.weights + 0.5 * draws(num_classes, dim, seed=4), f.biases)
    z, pool = draws(200, dim, seed=5), draws(2000, dim, seed=6)
    exact, (found, witness) = exact_joint_radius(f, h, z), joint_radius([f, h], z, pool, return_witness=True)
    assert (found >= exact * (1 - 1e-9)).all()
    assert ((found / exact) < 1.01).double().mean() >= 0.97
    for one in (f, h):
        assert (one(witness).argmax(1) != one(z).argmax(1)).all()
    torch.testing.assert_close((witness - z).norm(dim=1), found)


def test_search_on_the_circle_and_in_its_plane():
    f, h = HalfPlane([0.6, 0.8], 0.2), HalfPlane([0.8, 0.6], 0.3)
    z, pool = draws(200, 1), draws(500, 1, seed=1)
    x = Circle()(z)
    exact = _circle_latent_radius(f, h, z)
    latent, witness = joint_radius([compose(Circle(), one) for one in (f, h)], z, pool, return_witness=True)
    assert (latent >= exact - 1e-12).all() and ((latent - exact) < 1e-3).double().mean() > 0.98
    plane = [LinearPartition(torch.stack([-one.normal, one.normal]), [one.offset, -one.offset]) for one in (f, h)]
    exact = exact_joint_radius(*plane, x)
    image = joint_radius([f, h], x, Circle()(pool), start=Circle()(witness))
    assert exact.isfinite().all()
    torch.testing.assert_close(image, exact, rtol=1e-3, atol=1e-6)
    assert (image >= exact * (1 - 1e-9)).all()
    assert (image <= 2 * torch.sin(math.pi * latent.clamp(max=0.5)) + 1e-12).all()


@pytest.fixture(scope="module")
def digits():
    generator = models.load("digits/generator")
    classifiers = [models.load(f"digits/{name}") for name in ("linear", "mlp", "cnn")]
    return generator, classifiers, draws(24, 16).float(), draws(1000, 16, seed=1).float()


def test_search_on_digits(digits):
    generator, classifiers, z, pool = digits
    composed = [compose(generator, one) for one in classifiers]
    x = generator(z)
    latent, latent_witness = joint_radius(composed, z, pool, starts=8, return_witness=True)
    along = generator(latent_witness)
    image, witness = joint_radius(classifiers, x, generator(pool), starts=8, start=along, return_witness=True)
    assert latent.isfinite().all() and image.dtype == torch.float32
    for one in classifiers:
        for point in (along, witness):
            assert (one(point).argmax(1) != one(x).argmax(1)).all()
        # Whatever fools all fools each.
        alone = unconstrained_radius(one, x, start=witness, steps=20)
        assert (alone <= image * (1 + 1e-6)).all()
    assert (image <= (along - x).flatten(1).norm(dim=1) * (1 + 1e-6)).all()
    pair = joint_radius(classifiers[:2], x, generator(pool), starts=8, start=witness)
    assert (pair <= image * (1 + 1e-6)).all() and (pair < image * 0.99).any()


def test_one_classifier_has_its_own_radius():
    f, z = random_partition(4, 3, seed=2), draws(100, 3)
    found = joint_radius([f], z, draws(500, 3, seed=1))
    torch.testing.assert_close(found, exact_latent_radius(f, z), rtol=1e-4, atol=0)


def test_no_row_depends_on_its_batch_or_is_lost(digits):
    f, h = random_partition(3, 2, seed=0), random_partition(3, 2, seed=1)
    z, pool = draws(30, 2), draws(300, 2, seed=1)
    before = z.clone()
    whole, parts = joint_radius([f, h], z, pool), joint_radius([f, h], z, pool, chunk_size=7)
    torch.testing.assert_close(whole, parts)
    assert torch.equal(z, before)
    # Nobody is fooled by a constant classifier: the row comes back as it went.
    never = lambda x: x @ torch.zeros(2, 2, dtype=x.dtype) + torch.tensor([1.0, 0.0], dtype=x.dtype)  # noqa: E731
    radius, witness = joint_radius([f, never], z, pool, return_witness=True)
    assert radius.isinf().all() and torch.equal(witness, z)
    assert joint_radius([f, h], z[:0], pool).shape == (0,)
    assert exact_joint_radius(f, h, z[:0]).shape == (0,)


# Bad input.


class _Decreasing(Modulus):
    def _inverse(self, eta):
        return 1 / (1 + eta)


HALF, LABELS = [0.5, 0.5], torch.zeros(3, 2, dtype=torch.long)
LINE = LinearPartition([[0.0, 0.0], [1.0, 0.0]])
POINT = torch.zeros(1, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: transferable_fraction(-0.1, 0.1, HALF, UNIT), "eta must be at least 0, got -0.1"),
        (lambda: transferable_fraction(math.nan, 0.1, HALF, UNIT), "eta must not contain NaN"),
        (lambda: transferable_fraction(1, 1.1, HALF, UNIT), "disagreement must be one number from 0 to 1, got 1.1"),
        (lambda: transferable_fraction(1, -0.1, HALF, UNIT), "disagreement must be one number from 0 to 1"),
        (lambda: transferable_fraction(1, [0.1, 0.2], HALF, UNIT), "disagreement must be one number from 0 to 1"),
        (lambda: transferable_fraction(1, math.nan, HALF, UNIT), "disagreement must not contain NaN"),
        (lambda: transferable_fraction(1, 0.1, [1.0], UNIT), r"class_probabilities must have shape \(K,\) with K >= 2"),
        (lambda: transferable_fraction(1, 0.1, [0.5, 0.4], UNIT), "class_probabilities must sum to 1"),
        (lambda: transferable_fraction(1, 0.1, HALF, 2.0), "modulus must have a method inverse"),
        (lambda: transferable_fraction([0.1, 0.2], 0.1, HALF, _Decreasing()), "modulus must be increasing"),
        (
            lambda: transferable_fraction(1, 0.1, HALF, UNIT, num_classifiers=0),
            "num_classifiers must be an integer of at least 1, got 0",
        ),
        (lambda: balanced_transferable_fraction(-1, 0.0, HALF, UNIT), "eta must be at least 0"),
        (lambda: balanced_transferable_fraction(1, 0.01, HALF, UNIT), "for every i, got 0.51"),
        (lambda: overlap_transferable_fraction(-1, 0.1, HALF, UNIT), "eta must be at least 0"),
        (lambda: overlap_transferable_fraction(1, 2, HALF, UNIT), "disagreement must be one number from 0 to 1, got 2"),
        (lambda: overlap_transferable_fraction(1, 0.1, [1.0], UNIT), r"class_unions must have shape \(K,\)"),
        (lambda: overlap_transferable_fraction(1, 0.1, [1.5, 0.5], UNIT), "class_unions must be at most 1, got 1.5"),
        (lambda: overlap_transferable_fraction(1, 0.1, [0.5, 0.3], UNIT), "class_unions must sum to at least 1"),
        (lambda: overlap_transferable_fraction(1, 0.1, [math.inf, 0.5], UNIT), "class_unions must be finite"),
        (lambda: overlap(LABELS[:, 0], 2), r"labels must be integers of shape \(n, k\)"),
        (lambda: overlap(LABELS[:, :1], 2), r"labels must be integers of shape \(n, k\)"),
        (lambda: overlap(LABELS[:0], 2), r"labels must be integers of shape \(n, k\) with n >= 1"),
        (lambda: overlap(LABELS.double(), 2), "labels must be integers"),
        (lambda: overlap(LABELS + 2, 2), r"labels must lie in 0..1, got 2..2"),
        (lambda: overlap(LABELS - 1, 2), r"labels must lie in 0..1, got -1..-1"),
        (lambda: overlap(LABELS, 1), "num_classes must be an integer of at least 2, got 1"),
        (lambda: overlap(LABELS, 2, confidence=1.0), "confidence must lie strictly between 0 and 1, got 1"),
        (lambda: joint_radius(LINE, POINT, POINT), "classifiers must be a sequence of classifiers"),
        (lambda: joint_radius([], POINT, POINT), "classifiers must hold at least one classifier"),
        (lambda: joint_radius([LINE, None], POINT, POINT), r"classifiers\[1\] must be callable"),
        (lambda: joint_radius([nn.Linear(2, 2)], POINT, POINT), r"classifiers\[0\] must be in evaluation mode"),
        (lambda: joint_radius([lambda x: x[:, :1]], POINT, POINT), r"classifier must return logits of shape \(1, K\)"),
        (lambda: joint_radius([LINE], [[math.nan, 0.0]], POINT), "x must not contain NaN"),
        (lambda: joint_radius([LINE], POINT[0], POINT), r"x must be a batch of shape \(n, \*image\)"),
        (lambda: joint_radius([LINE], POINT, POINT[:0]), "pool must hold points of the shape of x's"),
        (lambda: joint_radius([LINE], POINT, [[0.0]]), "pool must hold points of the shape of x's"),
        (lambda: joint_radius([LINE], POINT, [[math.inf, 0.0]]), "pool must be finite"),
        (lambda: joint_radius([LINE], POINT, POINT, start=[[0.0]]), "start must have the shape of x"),
        (lambda: joint_radius([LINE], POINT, POINT, starts=0), "starts must be an integer of at least 1, got 0"),
        (lambda: joint_radius([LINE], POINT, POINT, steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: joint_radius([LINE], POINT, POINT, chunk_size=0), "chunk_size must be an integer of at least 1"),
        (
            lambda: joint_radius([lambda x: LINE(x).detach()], POINT, POINT + 1),
            "classifier must be differentiable in its input",
        ),
        (lambda: exact_joint_radius(LINE, lambda x: x, POINT), "second must be a LinearPartition"),
        (lambda: exact_joint_radius(LINE, random_partition(2, 3), POINT), "second must have latent_dim = 2, got 3"),
        (lambda: exact_joint_radius(LINE, LINE, [[0.0]]), r"z must have shape \(n, latent_dim\) = \(n, 2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
