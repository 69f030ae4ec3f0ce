"""What is said with 95 % confidence holds in 95 % of all samples, counted; with planted errors it does not."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binom, norm

from companion.approximation import expected_in_distribution_radius
from companion.smoothness import CircleModulus, Lipschitz
from companion.transferability import transferable_fraction
from companion.vulnerability import (
    clopper_pearson_upper,
    expected_latent_radius,
    least_favourable,
    measured_robustness_quantile,
    measured_vulnerable_fraction,
    robustness_quantile,
    vulnerable_fraction,
)

UNIT = Lipschitz(1.0)
LAWS = {
    "K=2, p=0.3": [0.3, 0.7],
    "K=2, p=0.5": [0.5, 0.5],
    "K=3, rare": [0.98, 0.01, 0.01],
    "K=6, one empty": [0.4, 0.3, 0.2, 0.05, 0.05, 0.0],
    "K=10, equal": [0.1] * 10,
}


def counts(p, labels: int, runs: int, seed: int = 0) -> list[torch.Tensor]:
    """How often each class occurs among `labels` labels, in each of many runs."""
    return list(torch.from_numpy(np.random.default_rng(seed).multinomial(labels, p, runs)))


def too_often(failures: int, runs: int, allowed: float = 0.05) -> bool:
    """Whether so many failures would come up less than once in a thousand such tests, were the confidence right."""
    return binom.sf(failures - 1, runs, allowed) < 1e-3


def more_even(p, than) -> bool:
    """Whether `than` majorises `p`: for every k its k likeliest classes have at least as much mass."""
    p, than = (torch.as_tensor(one, dtype=torch.float64).sort(descending=True).values.cumsum(0) for one in (p, than))
    return bool((p <= than + 1e-12).all())


# Counted class probabilities.


@pytest.mark.parametrize("p, labels", list(zip(LAWS.values(), (2000, 50, 300, 1000, 500), strict=True)), ids=LAWS)
def test_the_least_favourable_probabilities_majorise_the_true_ones(p, labels):
    sample = counts(p, labels, 1000)
    assert not too_often(sum(not more_even(p, least_favourable(one)) for one in sample), 1000)
    # The frequencies themselves, planted, do so far less often.
    assert too_often(sum(not more_even(p, one / labels) for one in sample), 1000)


@pytest.mark.parametrize("seed", range(12))
def test_the_least_favourable_probabilities_minimise_the_bound(seed):
    """Against all corners of the region, where a concave function has its minimum, and against a descent in it."""
    rng = np.random.default_rng(seed)
    size, total, confidence = 2 + seed % 5, int(rng.integers(5, 400)), 0.9
    count = rng.multinomial(total, rng.dirichlet(np.ones(size)))
    found = least_favourable(count, confidence=confidence).numpy()
    each = 1 - (1 - confidence) / (size if size == 2 else 2 * size)
    low = 1 - clopper_pearson_upper(total - count, total, confidence=each).numpy()
    high = clopper_pearson_upper(count, total, confidence=each).numpy()
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (low <= found + 1e-12).all() and (found <= high + 1e-12).all()
    corners = list(_corners(low, high))
    start = [rng.dirichlet(np.ones(len(corners))) @ corners for _ in range(10)]
    for t in (0.05, 0.5, 2.0):
        least = min(_bound(t, corner) for corner in corners)
        assert _bound(t, found) == pytest.approx(least, abs=1e-12)
        assert vulnerable_fraction(t, found, UNIT).item() == pytest.approx(least, abs=1e-9)
        limits = dict(
            bounds=list(zip(low, high, strict=True)), constraints={"type": "eq", "fun": lambda p: p.sum() - 1}
        )
        descent = [minimize(partial(_bound, t), p, method="SLSQP", **limits) for p in [*start, found]]
        feasible = [one.fun for one in descent if abs(one.x.sum() - 1) < 1e-9]
        assert feasible and min(feasible) > least - 1e-7


@pytest.mark.parametrize("seed", range(8))
def test_every_bound_is_safe_at_the_least_favourable_probabilities(seed):
    rng = np.random.default_rng(seed)
    size, t = 2 + seed % 4, torch.tensor([0.05, 0.3, 1.0, 2.5], dtype=torch.float64)
    total = int(rng.integers(20, 2000))
    count = rng.multinomial(total, rng.dirichlet(np.ones(size)))
    worst = least_favourable(count)
    each = 1 - 0.05 / (size if size == 2 else 2 * size)
    low = 1 - clopper_pearson_upper(total - count, total, confidence=each).numpy()
    corners = list(_corners(low, clopper_pearson_upper(count, total, confidence=each).numpy()))
    chosen = rng.permutation(len(corners))[:3]
    for p in [*np.array(corners)[chosen], rng.dirichlet(np.ones(len(corners))) @ corners]:
        assert (vulnerable_fraction(t, worst, UNIT) <= vulnerable_fraction(t, p, UNIT) + 1e-12).all()
        loose, tight = (robustness_quantile([0.1, 0.25, 0.6], one, UNIT) for one in (worst, p))
        assert (loose >= tight - 1e-9).all()
        assert expected_latent_radius(worst) >= expected_latent_radius(p) - 1e-12
        mean, other = (expected_in_distribution_radius(CircleModulus(), one) for one in (worst, p))
        assert mean >= other - 1e-9
        for k in (2, 3):
            shared, more = (transferable_fraction(t, 0.03, one, UNIT, num_classifiers=k) for one in (worst, p))
            assert (shared <= more + 1e-12).all()


def test_two_classes_take_the_upper_limit_of_the_likelier_one():
    upper = clopper_pearson_upper(70, 100, confidence=0.975)
    torch.testing.assert_close(least_favourable([30, 70]), torch.stack([1 - upper, upper]))
    for n in range(1, 200):
        assert least_favourable([0, n]).tolist() == [0, 1]


# The bound with counted classes and measured moduli, where the truth is known: g(z) = 2z and a half-space attain (4).


def claims(function, labels: int, **kwargs) -> tuple[np.ndarray, np.ndarray]:
    """What is claimed in each of 2,000 runs: by the counts, and, planted, by frequencies passed off as known."""
    sample = torch.stack(counts(LAWS["K=2, p=0.3"], labels, 2000))
    # No modulus varies, so equal counts make equal claims.
    different, run = sample.unique(dim=0, return_inverse=True)
    honest = [function(class_counts=one, **kwargs).item() for one in different]
    careless = [function(class_probabilities=one / labels, **kwargs).item() for one in different]
    return np.array(honest)[run], np.array(careless)[run]


@pytest.mark.parametrize("labels, moduli, share", [(20_000, 4_000, 0.3), (500, 10_000, 0.4)])
def test_the_measured_bound_keeps_its_confidence_where_the_theorem_is_an_equality(labels, moduli, share):
    t = torch.tensor([0.2, 1.0], dtype=torch.float64)
    truth = norm.cdf(norm.isf(0.3) + 1) - norm.cdf(norm.isf(0.3) - 1)
    claim = partial(measured_vulnerable_fraction, 2.0, t, (2 * t).expand(moduli, -1))
    honest, careless = claims(claim, labels)
    assert not too_often((honest > truth).sum(), 2000)
    assert np.median(honest) > 0.9 * truth
    assert (careless > truth).mean() > share


def test_the_measured_quantile_keeps_its_confidence_where_the_theorem_is_an_equality():
    exact = robustness_quantile(0.25, [0.3, 0.7], UNIT).item()
    t = torch.tensor([0.99, 1.25], dtype=torch.float64) * exact
    honest, careless = claims(partial(measured_robustness_quantile, 0.25, t, (2 * t).expand(10_000, -1)), 500)
    assert not too_often((honest < 2 * exact).sum(), 2000)
    assert np.isfinite(honest).mean() > 0.9
    assert (careless < 2 * exact).mean() > 0.3


# Local moduli that vary: ω_z(t) = t e^N, so that P(ω_z(t) > η) is a normal tail.


def varying(p, labels: int, moduli: int, t, runs: int = 1000):
    draws = torch.randn(runs, moduli, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).exp()
    return zip(counts(p, labels, runs), draws * torch.tensor(t, dtype=torch.float64), strict=True)


@pytest.mark.parametrize("name, labels, moduli", [("K=10, equal", 500, 200), ("K=2, p=0.3", 2000, 500)])
def test_the_measured_bound_keeps_its_confidence(name, labels, moduli):
    p, t, eta = LAWS[name], [0.05, 0.1, 0.2, 0.4], 1.0
    right = vulnerable_fraction(t, p, UNIT).numpy() - norm.sf(np.log(eta / np.array(t)))
    claims = [
        measured_vulnerable_fraction(eta, t, local, class_counts=one).item()
        for one, local in varying(p, labels, moduli, t)
    ]
    assert not too_often(sum(claim > right.max() for claim in claims), 1000)
    assert np.mean(claims) > 0.5 * right.max()


def test_the_measured_quantile_keeps_its_confidence():
    """η is valid if P(ω_z(t) > η) ≤ B(t) − q for some t; a claim below all of these is wrong."""
    p, t, q = LAWS["K=10, equal"], [0.3, 0.4, 0.5], 0.25
    spare = vulnerable_fraction(t, p, UNIT).numpy() - q
    least = (np.array(t) * np.exp(norm.isf(spare))).min()
    sample = list(varying(p, 500, 200, t))
    claims = [measured_robustness_quantile(q, t, local, class_counts=one).item() for one, local in sample]
    assert not too_often(sum(claim < least for claim in claims), 1000)
    assert np.median(claims) < 1.7 * least
    # Without the allowance for chance this test would fail.
    careless = [
        measured_robustness_quantile(q, t, local, class_probabilities=p, confidence=1e-9).item()
        for _, local in sample[:300]
    ]
    assert too_often(sum(claim < least for claim in careless), 300)


def _corners(low, high):
    """The corners of {low ≤ p ≤ high, Σ p = 1}: all coordinates but one at their ends."""
    size = len(low)
    for free in range(size):
        for ends in product((0, 1), repeat=size - 1):
            p = np.where(np.insert(ends, free, 0), high, low)
            p[free] = 1 - np.delete(p, free).sum()
            if low[free] - 1e-12 <= p[free] <= high[free] + 1e-12:
                yield p


def _bound(t: float, p) -> float:
    inner = np.clip(p, 1e-300, 1 - 1e-16)
    return float((norm.cdf(norm.isf(inner) + t) - norm.cdf(norm.isf(inner))).sum())
