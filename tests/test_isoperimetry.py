"""Each inequality in the proof of Gaussian isoperimetry, on grids, beside a wrong one that must fail; and every
statement of the book has a proof, or stands in the list of what is cited."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

CHAPTERS = sorted((Path(__file__).parents[1] / "book").glob("*.ipynb"))
PEAK = 1 / np.sqrt(2 * np.pi)


def phi(x):
    return PEAK * np.exp(-np.square(x) / 2)


def profile(p):
    return phi(ndtri(p))


WRONG = {
    "too high": lambda p: 1.001 * profile(p),
    "parabola": lambda p: 4 * PEAK * p * (1 - p),
    "sine": lambda p: PEAK * np.sin(np.pi * p),
}
MIDDLE = np.linspace(1e-4, 1 - 1e-4, 999)[:, None]
HALF = np.minimum(MIDDLE, 1 - MIDDLE) * np.linspace(0, 1, 200)


def two_points(J):
    """Right side less left side, at every middle and half difference of the grid."""
    ends = (J((MIDDLE + sign * HALF).clip(0, 1)) for sign in (1, -1))
    return sum(np.sqrt(end**2 + HALF**2) for end in ends) / 2 - J(MIDDLE)


def test_the_profile_bends_as_the_lemma_says():
    p, h = np.linspace(0.01, 0.99, 99), 1e-4
    left, middle, right = profile(p - h), profile(p), profile(p + h)
    assert np.abs((right - left) / (2 * h) + ndtri(p)).max() < 1e-5
    assert np.abs(middle * (right - 2 * middle + left) / h**2 + 1).max() < 1e-3


def test_sum_and_difference():
    m = MIDDLE[MIDDLE < 0.5][:, None]
    x, slope = m * np.linspace(0, 1, 200)[:-1], -ndtri(m)
    up, down = profile(m + x) ** 2, profile(m - x) ** 2
    assert (up + down + 2 * x**2 - 2 * profile(m) ** 2 - 2 * slope**2 * x**2).min() > -1e-15
    assert (up - down).min() > -1e-15
    assert (4 * profile(m) * slope * x - (up - down)).min() > -1e-15


def test_two_points():
    assert two_points(profile).min() > -1e-15
    assert all(two_points(wrong).min() < -1e-6 for wrong in WRONG.values())


def cube(f, J=profile):
    """Right side less left side of the inequality on the cube."""
    slopes = sum(np.square((f - np.flip(f, axis)) / 2) for axis in range(f.ndim))
    return np.sqrt(J(f) ** 2 + slopes).mean() - J(f.mean())


def test_every_coarse_function_on_small_cubes():
    square = [np.reshape(f, (2, 2)) for f in itertools.product(np.linspace(0, 1, 6), repeat=4)]
    solid = [np.reshape(f, (2, 2, 2)) for f in itertools.product((0.0, 0.4, 1.0), repeat=8)]
    assert min(map(cube, square + solid)) > -1e-15
    assert min(cube(f, WRONG["parabola"]) for f in square) < -1e-3


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def bobkov(q, slope, shrink=1.0):
    """Right side less left side for F = Φ(q) on the line."""
    weights = WEIGHTS / WEIGHTS.sum()
    return weights @ (phi(q) * np.hypot(1, shrink * slope)) - profile(weights @ ndtr(q))


def test_bobkov_is_an_equality_for_linear_functions():
    for a, b in itertools.product((0.3, 1.0, 1.5), (-2.0, 0.0, 0.7)):
        assert abs(bobkov(a * NODES + b, a)) < 1e-9
        assert bobkov(a * NODES + b, a, shrink=0.99) < -1e-5


def test_bobkov_for_waves():
    rng = np.random.default_rng(0)
    for k, height, shift in rng.uniform((0.1, 0.1, 0), (1, 2, 6), (500, 3)):
        assert bobkov(height * np.sin(k * NODES + shift), k * height * np.cos(k * NODES + shift)) > -1e-9


def mass(ends, t=0.0):
    """Mass of a union of intervals whose ends are moved out by t."""
    total, reached = 0.0, -np.inf
    for left, right in sorted((a - t, b + t) for a, b in ends):
        left, reached = max(left, reached), max(right, reached)
        total += max(0.0, ndtr(reached) - ndtr(left))
    return total


def test_shells_and_enlargements_of_random_sets():
    rng, slow = np.random.default_rng(1), 0
    for _ in range(3000):
        ends = np.sort(rng.normal(scale=1.5, size=(rng.integers(1, 6), 2)))
        s, h = rng.exponential(0.4, size=2)
        inner, outer = mass(ends, s), mass(ends, s + h)
        assert min(profile(inner), profile(outer)) <= (PEAK + 1 / h) * (outer - inner) + 1e-12
        assert outer >= ndtr(ndtri(inner) + h) - 1e-12
        slow += outer < ndtr(ndtri(inner) + 1.02 * h) - 1e-12
    assert slow > 100


def test_a_half_line_grows_as_little_as_it_may():
    for a, t in itertools.product((-2.0, 0.0, 1.0), (0.1, 1.0)):
        assert mass([(-np.inf, a)], t) == pytest.approx(ndtr(ndtri(mass([(-np.inf, a)])) + t), abs=1e-15)


def test_what_is_not_cited_is_proved():
    elsewhere = {"thm-isoperimetry", "thm-tight-multi-bubble"}  # by the page on isoperimetry; by others
    for chapter in CHAPTERS:
        cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        stated = re.findall(r"\{prf:(?:theorem|lemma|proposition|corollary)\}.*\n:label: (\S+)", text)
        assert text.count("{prf:proof}") == len(set(stated) - elsewhere), chapter.name
