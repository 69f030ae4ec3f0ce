"""Radii against the truth; and the truth against other ways to it."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn
from truth import Grid, Quadratic, draws, grid_radii, quadratic_radius, relu_network, relu_radius
from truth.cases import CHANGES, REACH, TWO_CLASSES, changed, quadratic_points, relu_points, smooth_latents

from companion.attacks import minimal_l2
from companion.circle import Circle, HalfPlane, exact_radii
from companion.robustness import radii, unconstrained_radius

# Seeds of the networks and rows that the tests see.
SEEN = 0


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=draws(seed), dtype=torch.float64)


# The truth itself


def contradicted(network, x, y, radius, bounds=None) -> np.ndarray:
    """Which radii (n,) of points of the plane a dense grid shows to be wrong by more than 2 %."""
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    square = torch.cartesian_prod(axis, axis)
    wrong = []
    for point, label, length in zip(x, y, radius, strict=True):
        grid = point + 1.1 * length * square
        counts = network(grid).argmax(1) != label
        if bounds:
            counts &= ((grid >= bounds[0]) & (grid <= bounds[1])).all(1)
        nearest = (grid - point).norm(dim=1)[counts].min().item() if counts.any() else np.inf
        wrong.append(not length * (1 - 1e-9) <= nearest <= length * 1.02)
    return np.array(wrong)


@pytest.mark.parametrize("sizes", [(2, 8, 2), (2, 6, 6, 3), (2, 14, 4)])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_relu_radius_agrees_with_a_dense_grid(sizes, bounds):
    network, x = relu_network(sizes, 3), normal(20, 2).clamp(*bounds) if bounds else normal(20, 2)
    y = network(x).argmax(1)
    radius, witness = relu_radius(network, x, y, bounds)
    found = np.isfinite(radius)
    assert found.sum() >= 15
    x, y, radius, witness = x[found], y[found], radius[found], witness[found]
    np.testing.assert_allclose(np.linalg.norm(witness - x.numpy(), axis=1), radius)
    if bounds:
        assert witness.min() >= -1e-9 and witness.max() <= 1 + 1e-9
    # At its corner, or in a thin wedge, a class may escape the grid.
    assert contradicted(network, x, y, radius, bounds).mean() <= 0.05
    # A planted error of 3 % is seen, either way.
    assert contradicted(network, x, y, 1.03 * radius, bounds).mean() > 0.9
    assert contradicted(network, x, y, 0.97 * radius, bounds).mean() > 0.9


def every_pattern(network, x, label) -> float:
    """r_unc by a quadratic programme on each of the 2^h linear pieces, none left out, with other solvers."""
    (inner, shift), (outer, offset) = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in network[::2]]
    best = np.inf
    for pattern in itertools.product([0.0, 1.0], repeat=len(shift)):
        on = np.array(pattern)
        for rival in set(range(len(offset))) - {label}:
            towards = outer[rival] - outer[label]
            normals = np.vstack([(2 * on - 1)[:, None] * inner, (towards * on) @ inner])
            levels = np.append((2 * on - 1) * shift, (towards * on) @ shift + offset[rival] - offset[label])
            inside = linprog(np.zeros(len(x)), A_ub=-normals, b_ub=levels, bounds=(-10, 10))
            if inside.success:
                limits = {"type": "ineq", "fun": lambda z: normals @ z + levels, "jac": lambda z: normals}  # noqa: B023
                options = dict(method="SLSQP", jac=lambda z: 2 * (z - x), options={"ftol": 1e-12, "maxiter": 500})
                found = minimize(lambda z: np.sum((z - x) ** 2), inside.x, constraints=limits, **options)
                # Its line search may stop at the least point with a complaint; a feasible point counts in any case.
                if limits["fun"](found.x).min() > -1e-9:
                    best = min(best, found.fun**0.5)
    return best


def test_relu_radius_agrees_with_every_pattern_in_four_dimensions():
    network, x = relu_network((4, 5, 3), 5), normal(4, 4)
    y = network(x).argmax(1)
    expected = [every_pattern(network, point.numpy(), label) for point, label in zip(x, y.tolist(), strict=True)]
    np.testing.assert_allclose(relu_radius(network, x, y)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(4, 12, 3), (4, 6, 6, 4), (6, 8, 5, 2)])
def test_nothing_random_is_nearer_and_the_witness_is_on_the_boundary(sizes):
    network, x = relu_network(sizes, 3), normal(20, sizes[0])
    y = network(x).argmax(1)
    radius, witness = relu_radius(network, x, y)
    logits = network(torch.from_numpy(witness)).detach()
    own = logits.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(logits.scatter(1, y[:, None], -torch.inf).amax(1), own, rtol=0, atol=1e-9)
    for point, label, length in zip(x, y, radius, strict=True):
        # In the outer tenth of the ball, where a nearer point would most likely be.
        way = nn.functional.normalize(normal(20_000, sizes[0], seed=7), dim=1)
        shell = length * (1 - 1e-9 - 0.1 * torch.rand(20_000, 1, generator=draws(8), dtype=torch.float64))
        assert (network(point + shell * way).argmax(1) == label).all()


def test_quadratic_radius_of_spheres_and_their_centres():
    """Class 1 outside of a sphere: ρ − |x|, also in the middle of it, where no direction is the nearest."""
    form = np.stack([np.zeros((3, 3)), np.eye(3)])
    sphere = Quadratic(form, np.zeros((2, 3)), np.array([0.0, -4.0]))
    x = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, -1.9, 0]], dtype=torch.float64)
    np.testing.assert_allclose(quadratic_radius(sphere, x, torch.zeros(3).long()), [2.0, 1.5, 0.1])
    ellipsoid = Quadratic(form * np.diag([1.0, 4.0, 0.25]), np.zeros((2, 3)), np.array([0.0, -4.0]))
    np.testing.assert_allclose(quadratic_radius(ellipsoid, x[:1], torch.zeros(1).long()), [1.0])
    never = Quadratic(-form, np.zeros((2, 3)), np.array([0.0, -4.0]))
    assert quadratic_radius(never, x, torch.zeros(3).long()).tolist() == [np.inf] * 3


def test_quadratic_radius_agrees_with_a_dense_grid():
    for case in itertools.islice(quadratic_points(5, 20), 1):
        assert contradicted(case.classifier, case.x, case.y, case.exact).mean() <= 0.05
        assert contradicted(case.classifier, case.x, case.y, 1.03 * case.exact).mean() > 0.9


def test_grid_radii_are_those_of_the_circle():
    line, z = HalfPlane((0.8, -0.6), 0.3), normal(50, 1)
    latent, in_distribution, _, _ = grid_radii(Circle(), line, z, cells=10_000)
    exact = exact_radii(line, z)
    np.testing.assert_allclose(latent, exact[0], rtol=1e-7)
    np.testing.assert_allclose(in_distribution, exact[1], rtol=1e-7)


def test_grid_radii_agree_with_relu_radius_behind_a_linear_generator():
    """r_Z is r_unc of the network after the matrix; r_in that after its orthonormal factor."""
    matrix = normal(2, 5, seed=4)
    network, z = relu_network((5, 6, 3), 6), 0.5 * normal(30, 2)
    generator = lambda points: points @ matrix  # noqa: E731
    generator.latent_dim = 2
    y = network(generator(z)).argmax(1)
    latent, in_distribution, _, _ = grid_radii(generator, network, z)
    span, factor = torch.linalg.qr(matrix.T)

    def behind(rows):
        first = nn.Linear(2, 6, dtype=torch.float64)
        first.weight.data, first.bias.data = network[0].weight.data @ rows.T, network[0].bias.data
        return nn.Sequential(first, *network[1:])

    expected = relu_radius(behind(matrix), z, y)[0]
    inside = expected < REACH - z.norm(dim=1).numpy()
    assert inside.sum() >= 20
    np.testing.assert_allclose(latent[inside], expected[inside], rtol=1e-6)
    expected = relu_radius(behind(span.T), z @ factor.T, y)[0]
    inside = expected / torch.linalg.svdvals(matrix)[-1].item() < REACH - z.norm(dim=1).numpy()
    assert inside.sum() >= 10
    np.testing.assert_allclose(in_distribution[inside], expected[inside], rtol=1e-6)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_finer_grid_finds_the_same(latent_dim):
    for case in itertools.islice(smooth_latents(SEEN, 10, latent_dim), 1):
        finer = Grid(case.generator, case.classifier, REACH, 700 if latent_dim == 2 else 70_000).radii(case.z)
        np.testing.assert_allclose(case.latent, finer[0], rtol=1e-6)
        np.testing.assert_allclose(case.in_distribution, finer[1], rtol=1e-6)


# The package against the truth

POINTS = {
    "relu": lambda: relu_points(SEEN, 25),
    # In a box, the label of a quarter of the rows holds everywhere.
    "box": lambda: relu_points(SEEN + 20, 35, (0.0, 1.0)),
    "two classes": lambda: relu_points(SEEN + 40, 25, networks=TWO_CLASSES),
    "quadratic": lambda: quadratic_points(SEEN, 75),
}


@functools.cache
def points(family: str):
    return list(POINTS[family]())


@functools.cache
def latents(latent_dim: int):
    return list(smooth_latents(SEEN, 20, latent_dim))


@pytest.mark.parametrize("family", POINTS)
def test_unconstrained_radius_is_within_one_percent_of_the_truth(family):
    cases = points(family)
    measured = [unconstrained_radius(c.classifier, c.x, steps=100, bounds=c.bounds).detach().numpy() for c in cases]
    measured, exact = np.concatenate(measured), np.concatenate([case.exact for case in cases])
    fooled = np.isfinite(exact)
    np.testing.assert_array_equal(np.isfinite(measured), fooled)
    ratio = measured[fooled] / exact[fooled]
    assert len(ratio) >= 300
    assert ratio.min() > 1 - 1e-9
    assert (ratio < 1.01).mean() >= 0.98


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("change", CHANGES)
def test_other_logits_of_the_same_network_have_the_same_radii(change, dtype):
    ratio, length = [], []
    for case in points("relu"):
        other = changed(case, change, dtype)
        length.append(unconstrained_radius(other.classifier, other.x).double().numpy())
        ratio.append(length[-1] / case.exact)
    ratio, length = np.concatenate(ratio), np.concatenate(length)
    # Beside 10,000, a float32 logit has no digits below 1e-3: the boundary itself is that wide.
    width = 0.01 if "1e4" in change and dtype == torch.float32 else 0.0
    assert len(ratio) >= 300 and np.isfinite(ratio).all()
    assert (length * (1 - 1 / ratio) <= 0.01 * length + width).mean() >= 0.98


def test_a_thousand_classes():
    for case in quadratic_points(SEEN, 300, [(8, 1000)]):
        ratio = unconstrained_radius(case.classifier, case.x).numpy() / case.exact
        assert ratio.min() > 1 - 1e-9 and np.isfinite(ratio).all()
        assert (ratio < 1.01).mean() >= 0.98


@functools.cache
def found(latent_dim: int):
    return [radii(case.generator, case.classifier, case.z, max_latent_norm=REACH) for case in latents(latent_dim)]


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("name", ["latent", "in_distribution"])
def test_radii_of_smooth_generators_are_seldom_and_little_too_long(name, latent_dim):
    cases = latents(latent_dim)
    measured = np.concatenate([getattr(result, name).numpy() for result in found(latent_dim)])
    exact = np.concatenate([getattr(case, name) for case in cases])
    # The grid ends at the ball, beyond which a latent witness may lie.
    norm = torch.cat([case.z for case in cases]).norm(dim=1).numpy()
    sure = np.full(len(exact), True) if name == "in_distribution" else exact < REACH - norm
    assert len(exact) >= 300 and sure.mean() > 0.95
    ratio = measured / exact
    assert ratio[sure].min() > 1 - 1e-6
    assert (ratio > 1.1).mean() <= 0.02
    assert ratio.max() <= 1.5


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_no_in_distribution_witness_is_a_nearer_latent_witness(latent_dim):
    for case, result in zip(latents(latent_dim), found(latent_dim), strict=True):
        # A search ends within 1e-6 of where it would.
        length = (result.in_distribution_witness - case.z).norm(dim=1)
        known = result.in_distribution.isfinite()
        assert (result.latent <= length * (1 + 1e-6))[known].all()
        moved = (case.generator(result.latent_witness) - case.generator(case.z)).flatten(1).norm(dim=1)
        inside = result.latent_witness.norm(dim=1) <= REACH
        assert (result.in_distribution <= moved * (1 + 1e-6))[inside].all()
        assert (result.unconstrained <= result.in_distribution * (1 + 1e-6)).all()


@pytest.mark.parametrize("family", POINTS)
def test_more_steps_never_give_a_longer_radius(family):
    for case in points(family):
        shortest = torch.full((len(case.x),), torch.inf, dtype=torch.float64)
        for steps in (3, 5, 10, 17, 30, 50, 100, 150, 300):
            adversarial = minimal_l2(case.classifier, case.x, case.y, steps=steps, bounds=case.bounds)
            length = (adversarial - case.x).norm(dim=1)
            length = torch.where(case.classifier(adversarial).argmax(1) != case.y, length, torch.inf)
            assert (length <= shortest * (1 + 1e-9)).all(), steps
            shortest = torch.minimum(length, shortest)


def late_kink(x):
    """Margin −0.2 − 0.5 x + 8 max(x − 0.8, 0): from x = 0.5 it leads to −0.4, but 0.88 is nearer."""
    value = -0.2 - 0.5 * x + 8 * (x - 0.8).relu()
    return torch.cat([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_a_late_kink_is_found(bounds):
    x = torch.full((1, 1), 0.5, dtype=torch.float64)
    assert unconstrained_radius(late_kink, x, bounds=bounds).item() == pytest.approx(0.38, rel=1e-2)


def test_behind_the_identity_all_radii_are_one():
    identity = lambda z: z * 1.0  # noqa: E731
    identity.latent_dim = 1
    result = radii(identity, late_kink, torch.full((1, 1), 0.5, dtype=torch.float64))
    assert [radius.item() for radius in result[:3]] == pytest.approx([0.38] * 3, rel=1e-2)
