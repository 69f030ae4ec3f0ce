"""Theorem 2: the projection against closed forms, its gradient, and the inequality itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from companion import models
from companion.attacks import minimal_l2
from companion.circle import Circle, HalfPlane, exact_projected_radius, exact_radii
from companion.projection import ProjectedClassifier, project, shortcut, unconstrained_lower_bound
from companion.robustness import in_distribution_radius, unconstrained_radius
from companion.smoothness import jacobian

LINES = [((1.0, 0.0), 0.0), ((0.6, 0.8), 0.3), ((1.0, 0.0), -0.98), ((-1.0, 0.3), 0.95)]


def draws(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class SearchedCircle(Circle):
    """The circle without its closed form: its projection has to be searched."""

    project = None


class Affine:
    """The generator g(z) = Az + 1, from R³ to R⁶."""

    latent_dim = 3
    matrix = draws(6, 3, seed=1)

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.matrix.T.to(z) + 1


def network(seed: int, *, latent_dim: int = 2, width: int = 8, out: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(latent_dim, width), nn.Tanh(), nn.Linear(width, out)).double().eval()
    layers.latent_dim = latent_dim
    return layers.requires_grad_(False)


@pytest.fixture(params=LINES, ids=str)
def line(request) -> HalfPlane:
    return HalfPlane(*request.param)


@pytest.fixture(scope="module")
def digits():
    """Generator, classifier, latents, their images, in-distribution radii and witnesses, all in float64."""
    generator, classifier = models.load("digits/generator").double(), models.load("digits/cnn").double()
    z = draws(24, generator.latent_dim)
    options = dict(steps=20, metric_steps=15, return_witness=True)
    radius, witness = in_distribution_radius(generator, classifier, z, **options)
    return generator, classifier, z, generator(z), radius, witness


# The projection


def test_search_finds_the_closed_form_of_the_circle():
    x = 2 * draws(200, 2)
    exact, searched = project(Circle(), x), project(SearchedCircle(), x, starts=2, pool=32)
    torch.testing.assert_close(searched.residual, (x.norm(dim=1) - 1).abs())
    torch.testing.assert_close(searched.residual, exact.residual)
    torch.testing.assert_close(Circle()(searched.latent), Circle()(exact.latent), rtol=0, atol=1e-7)


def test_search_is_least_squares_for_a_linear_generator():
    x = 5 * draws(200, 6)
    expected = (x - 1) @ torch.linalg.pinv(Affine.matrix).T
    torch.testing.assert_close(project(Affine(), x, starts=1).latent, expected, rtol=0, atol=1e-7)


def test_more_starts_or_steps_never_end_farther_away():
    generator, x = network(3), 2 * draws(50, 5)
    few, many = (project(generator, x, starts=starts).residual for starts in (1, 6))
    assert (many <= few + 1e-9).all() and (many < few - 1e-3).any()
    short, long = (project(generator, x, steps=steps).residual for steps in (2, 60))
    assert (long <= short + 1e-9).all() and (long < short - 1e-3).any()


def test_warm_start_bounds_the_residual():
    generator, z = network(4), 3 * draws(40, 2)
    x = generator(z)
    poor = dict(starts=1, steps=1, pool=1)
    assert project(generator, x, warm_start=z, **poor).residual.abs().max() < 1e-12
    moved = x + 0.1 * draws(40, 5, seed=2)
    length = (moved - x).norm(dim=1)
    assert (project(generator, moved, warm_start=z, **poor).residual <= length).all()
    assert (project(generator, moved, **poor).residual > length).any()


def test_a_layer_named_project_is_not_taken_for_a_projection():
    class Layered(nn.Module):
        latent_dim = 1

        def __init__(self):
            super().__init__()
            self.project = nn.Linear(1, 2).double()

        def forward(self, z):
            return self.project(z)

    generator = Layered().eval()
    x = draws(5, 2)
    direction = generator.project.weight.detach()[:, 0]
    normal = torch.stack([-direction[1], direction[0]]) / direction.norm()
    expected = ((x - generator.project.bias.detach()) @ normal).abs()
    torch.testing.assert_close(project(generator, x).residual.detach(), expected)


# Its gradient


GENERATORS = [Circle(), SearchedCircle(), Affine(), network(5)]


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: type(g).__name__)
def test_gradient_is_that_of_finite_differences(generator):
    x = generator(draws(6, generator.latent_dim, seed=3))
    x = x + 0.2 * draws(*x.shape, seed=4)
    options = dict(starts=1, pool=64, steps=200)
    # The nearest start must be the same at both ends, or they may lie in different basins.
    options["warm_start"] = project(generator, x, **options).latent
    weight = draws(*x.shape, seed=5)

    def value(point: torch.Tensor) -> torch.Tensor:
        return (weight * generator(project(generator, point, **options).latent)).sum(1)

    step = 1e-5 * draws(*x.shape, seed=6)
    difference = (value(x + step) - value(x - step)) / 2
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    torch.testing.assert_close((gradient * step).sum(1), difference, rtol=1e-4, atol=1e-9)


def test_gauss_newton_would_be_wrong_off_the_manifold():
    # Twice as far from the centre, a point turns half as fast; without curvature, as fast as on the circle.
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    z = project(Circle(), x).latent
    (gradient,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[-1 / (4 * math.pi), 0.0]], dtype=torch.float64))
    matrix = jacobian(Circle(), z.detach())
    gauss_newton = torch.linalg.pinv(matrix.mT @ matrix) @ matrix.mT
    torch.testing.assert_close(gauss_newton[0, 0, 0].item(), -1 / (2 * math.pi))


def test_gradient_is_finite_where_there_is_none():
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    ProjectedClassifier(Circle(), HalfPlane((1.0, 0.0)))(x)[:, 1].sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0]]


# The theorem


def test_circle_exact_radius_is_that_of_brute_force(line):
    z = draws(100, 1)
    x = Circle()(z)
    turn = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    rays = torch.stack([torch.cos(turn), torch.sin(turn)], dim=1)
    grid = (torch.linspace(1e-6, 2, 401, dtype=torch.float64)[:, None, None] * rays).flatten(0, 1)
    projected = ProjectedClassifier(Circle(), line)
    other = projected(grid).argmax(1) != projected(x).argmax(1)[:, None]
    nearest = torch.cdist(x, grid).masked_fill(~other, torch.inf).amin(1)
    exact = exact_projected_radius(line, z)
    assert (nearest >= exact - 1e-6).all() and (nearest <= exact + 0.02).all()


def test_theorem_2_on_the_circle(line):
    z = draws(10_000, 1)
    in_distribution, projected = exact_radii(line, z)[1], exact_projected_radius(line, z)
    assert (projected >= in_distribution / 2 - 1e-12).all()
    assert (projected <= in_distribution + 1e-12).all()
    # The circle has reach 1, and attains what that promises as long as r_in ≤ 1.
    bound = unconstrained_lower_bound(in_distribution, reach=1.0)
    assert (projected >= bound - 1e-12).all()
    near = in_distribution <= 1
    torch.testing.assert_close(projected[near], bound[near])


def test_the_factor_is_attained_and_a_larger_one_is_caught():
    line, z = HalfPlane((1.0, 0.0), -0.98), torch.zeros(1, 1, dtype=torch.float64)
    in_distribution, projected = exact_radii(line, z)[1].item(), exact_projected_radius(line, z).item()
    assert 0.5 <= projected / in_distribution <= 0.505
    # The same by attack, without closed forms.
    witness = in_distribution_radius(Circle(), line, z, return_witness=True)[1]
    classifier = ProjectedClassifier(Circle(), line)
    x = Circle()(z)
    found = (shortcut(classifier, x, witness, halvings=30) - x).norm(dim=1).item()
    assert found == pytest.approx(projected, rel=1e-6)
    assert found >= 0.5 * in_distribution
    for wrong in (0.51, 1.0):
        assert found < wrong * in_distribution


def test_shortcut_is_the_best_attack_on_the_circle(line):
    z = draws(500, 1)
    x, exact = Circle()(z), exact_projected_radius(line, z)
    centre = math.atan2(line.normal[1], line.normal[0]) / (2 * math.pi)
    opening = math.acos(line.offset) / (2 * math.pi)
    # The nearest boundary point, a little over the boundary.
    ends = torch.stack([centre + opening + z.new_zeros(500), centre - opening + z.new_zeros(500)], dim=1)
    away = ends - z
    away = away - away.round()
    step = away.gather(1, away.abs().argmin(1, keepdim=True))
    adversarial = shortcut(ProjectedClassifier(Circle(), line), x, z + step * (1 + 1e-9), halvings=40)
    radius = (adversarial - x).norm(dim=1)
    assert (radius >= exact - 1e-12).all()
    torch.testing.assert_close(radius, exact, rtol=1e-5, atol=1e-6)


def test_a_flat_manifold_loses_nothing():
    normal, z = draws(6, seed=7), draws(300, 3)
    line, x = HalfPlane(normal, 0.5), Affine()(z)
    tangents = torch.linalg.qr(Affine.matrix)[0]
    along = (tangents @ (tangents.T @ line.normal)).norm()
    exact = (x @ line.normal - line.offset).abs() / along
    classifier = ProjectedClassifier(Affine(), line, starts=1, pool=64)
    found = unconstrained_radius(classifier, x, steps=9)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
    assert (found >= exact * (1 - 1e-9)).all()
    torch.testing.assert_close(unconstrained_lower_bound(exact, reach=math.inf), exact)


@pytest.mark.parametrize("seed", range(6))
def test_theorem_2_on_random_networks(seed):
    """Whatever an attack finds on f̃, it also finds an in-distribution witness within 2‖r‖."""
    generator, z = network(seed), draws(100, 2, seed=seed)
    x = generator(z)
    weights, centre = draws(5, 3, seed=100 + seed), x.mean(0)
    classifier = lambda image: (image - centre) @ weights  # noqa: E731
    options = dict(steps=15, metric_steps=10, return_witness=True)
    radius, witness = in_distribution_radius(generator, classifier, z, **options)
    projected = ProjectedClassifier(generator, classifier, starts=2, steps=30, pool=64, warm_start=z)
    torch.testing.assert_close(projected(x), classifier(x))
    attacks = [shortcut(projected, x, witness)]
    attacks.append(minimal_l2(projected, x[:10], classifier(x[:10]).argmax(1), steps=3))
    for adversarial in attacks:
        clean, known = x[: len(adversarial)], radius[: len(adversarial)]
        length = (adversarial - clean).norm(dim=1)
        found = projected.witness(clean, adversarial)
        fooled = length > 0
        assert fooled.any() and found.certified[fooled].all()
        assert (found.distance <= length + found.residual + 1e-9)[fooled].all()
        assert (length >= torch.minimum(known, found.distance) / 2 - 1e-9)[fooled].all()


def test_a_failed_projection_breaks_the_inequality_and_is_told():
    generator, classifier = network(3, width=16), network(103, latent_dim=5, out=3)
    z = draws(200, 2)
    x = generator(z)
    poor = dict(starts=1, steps=1, pool=1)
    adversarial = x + 1e-3 * draws(200, 5, seed=1)
    failed = ProjectedClassifier(generator, classifier, **poor).witness(x, adversarial)
    changed = failed.distance.isfinite()
    # f̃ ≠ f at once, at a distance at which the theorem forbids it: no certificate is given.
    assert changed.any() and not failed.certified.any()
    mended = ProjectedClassifier(generator, classifier, warm_start=z, **poor).witness(x, adversarial)
    assert (mended.certified == mended.distance.isfinite()).all()
    assert mended.distance.isfinite().sum() < changed.sum()


def test_a_certificate_in_float32_is_about_the_length_of_the_perturbation():
    """x is long and r short: a tolerance relative to ‖x‖, planted, would certify a witness a hundred times ‖r‖ away."""

    class Careless:
        latent_dim = 1

        def __call__(self, z):
            return torch.cat([100 + z, torch.zeros_like(z)], dim=1)

        def project(self, x):
            return x[:, :1] - 100 + 1e-3

    classifier = HalfPlane([1.0, 0.0], 100.0005)
    x = torch.tensor([[100.0, 0.0]] * 3)
    moved = x + torch.tensor([[0.0, 1e-5], [0.0, 4e-4], [2e-3, 0.0]])
    found = ProjectedClassifier(Careless(), classifier).witness(x, moved)
    length = (moved - x).norm(dim=1)
    assert found.distance.isfinite().all() and found.certified.tolist() == [False, False, True]
    assert (found.distance <= 2 * length * (1 + 32 * torch.finfo(x.dtype).eps))[found.certified].all()
    planted = found.residual <= length + 1e3 * torch.finfo(x.dtype).eps * x.norm(dim=1)
    assert (found.distance > 2 * length)[planted].any()


def test_theorem_2_on_digits(digits):
    generator, classifier, z, x, radius, witness = digits
    label = classifier(x).argmax(1)
    searched = ProjectedClassifier(generator, classifier)
    assert (searched(x).argmax(1) == label).double().mean() >= 0.95
    projected = ProjectedClassifier(generator, classifier, starts=2, warm_start=z)
    assert (projected(x).argmax(1) == label).all()
    adversarial = shortcut(projected, x, witness)
    length = (adversarial - x).flatten(1).norm(dim=1)
    fooled = length > 0
    assert fooled.double().mean() >= 0.9 and (length < radius).double().mean() > 0.8
    found = projected.witness(x, adversarial)
    assert found.certified[fooled].all()
    assert (length >= torch.minimum(radius, found.distance) / 2)[fooled].all()


def test_adversarial_images_of_the_classifier_do_not_fool_its_projection(digits):
    generator, classifier, z, x, _, _ = digits
    label = classifier(x).argmax(1)
    adversarial = minimal_l2(classifier, x, label, steps=20)
    assert (classifier(adversarial).argmax(1) != label).all()
    projected = ProjectedClassifier(generator, classifier, starts=1, warm_start=z)
    assert (projected(adversarial).argmax(1) == label).double().mean() > 0.9


@pytest.mark.parametrize(
    "radius, reach, expected",
    [
        (0.4, 0.0, 0.2),
        (0.0, 0.0, 0.0),
        (math.inf, 0.0, math.inf),
        (math.inf, math.inf, math.inf),
        (0.4, math.inf, 0.4),
        (1.0, 1.0, math.sqrt(3) / 2),
        (1.5, 1.0, math.sqrt(3) / 2),
        (math.sqrt(3), 1.0, math.sqrt(3) / 2),
        (1.8, 1.0, 0.9),
    ],
)
def test_lower_bound(radius, reach, expected):
    assert unconstrained_lower_bound(radius, reach=reach).item() == pytest.approx(expected)


def test_lower_bound_grows_with_radius_and_reach():
    radius, reach = torch.linspace(0, 5, 401)[:, None], torch.linspace(0, 4, 101)
    bound = unconstrained_lower_bound(radius, reach=reach)
    assert bound.dtype == torch.float32 and bound.shape == (401, 101)
    assert (bound.diff(dim=0) >= -1e-6).all() and (bound.diff(dim=1) >= -1e-6).all()
    assert (bound >= radius / 2 - 1e-6).all() and (bound <= radius + 1e-6).all()


# Manners


def test_no_row_depends_on_its_batch(digits):
    generator, classifier, z, x, _, witness = digits
    projected = ProjectedClassifier(generator, classifier, starts=2, steps=300, warm_start=z)
    noisy = x[:12] + 0.05 * draws(12, *x.shape[1:], seed=8)
    together = projected.project(noisy)
    alone = [projected.project(part) for part in noisy[:4].split(1)]
    torch.testing.assert_close(together.residual[:4], torch.cat([part.residual for part in alone]))
    images = generator(torch.cat([part.latent for part in alone]))
    torch.testing.assert_close(generator(together.latent[:4]), images, rtol=0, atol=1e-6)
    chunked = project(generator, noisy, starts=2, steps=300, warm_start=z, chunk_size=7)
    torch.testing.assert_close(chunked.residual, together.residual)
    assert torch.equal(shortcut(projected, x[:0], witness[:0]), x[:0])


def test_dtype_is_kept_and_seeds_repeat():
    generator = SearchedCircle()
    x = draws(20, 2).float()
    single = project(generator, x, pool=32)
    assert single.latent.dtype == single.residual.dtype == torch.float32
    assert torch.equal(single.latent, project(generator, x, pool=32).latent)
    torch.testing.assert_close(single.residual, (x.norm(dim=1) - 1).abs(), rtol=0, atol=1e-5)
    classifier = ProjectedClassifier(generator, HalfPlane((1.0, 0.0)), pool=32)
    assert classifier(x).dtype == torch.float32 and classifier(x.double()).dtype == torch.float64


@pytest.mark.parametrize("generator", [Circle(), SearchedCircle(), Affine()], ids=lambda g: type(g).__name__)
def test_empty_batches_stay_empty(generator):
    m = 6 if isinstance(generator, Affine) else 2
    x, z = torch.zeros(0, m), torch.zeros(0, generator.latent_dim)
    classifier = ProjectedClassifier(generator, HalfPlane(draws(m)))
    assert classifier(x).shape == (0, 2)
    assert [part.shape for part in classifier.project(x)] == [z.shape, (0,)]
    assert [len(part) for part in classifier.witness(x, x)] == [0, 0, 0, 0]
    assert shortcut(classifier, x, z).shape == x.shape
    x.requires_grad_()
    classifier(x).sum().backward()
    assert unconstrained_lower_bound([]).shape == (0,)


def projected_circle(**options) -> ProjectedClassifier:
    return ProjectedClassifier(SearchedCircle(), HalfPlane((1.0, 0.0)), **{"pool": 8, **options})


class BadOffer(Circle):
    def project(self, x):
        return x


POINT = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ProjectedClassifier(lambda z: z, Circle()), "generator must have a positive integer"),
        (lambda: ProjectedClassifier(Circle(), None), "classifier must be callable"),
        (lambda: ProjectedClassifier(Circle(), nn.Linear(2, 2)), "classifier must be in evaluation mode"),
        (lambda: project(network(0).train(), torch.zeros(1, 5)), "generator must be in evaluation mode"),
        (lambda: projected_circle(starts=0), "starts must be an integer of at least 1, got 0"),
        (lambda: projected_circle(steps=1.5), "steps must be an integer of at least 1, got 1.5"),
        (lambda: projected_circle(pool=0), "pool must be an integer of at least 1, got 0"),
        (lambda: projected_circle(seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: projected_circle(chunk_size=0), "chunk_size must be an integer of at least 1, got 0"),
        (lambda: projected_circle(warm_start=[[1.0, 2.0]]), r"warm_start must have shape \(n, latent_dim\)"),
        (lambda: projected_circle(warm_start=[[math.nan]]), "warm_start must not contain NaN"),
        (lambda: projected_circle()(torch.zeros(1, 3)), "x must be images of the generator's shape"),
        (lambda: project(Circle(), torch.zeros(1, 3)), "x must be images of the generator's shape"),
        (lambda: project(Circle(), torch.zeros(2)), r"x must be a batch of shape \(n, \*image\)"),
        (lambda: project(Circle(), [[math.inf, 0.0]]), "x must be finite"),
        (lambda: project(BadOffer(), POINT), r"generator.project must return finite latents of shape \(1, 1"),
        (lambda: ProjectedClassifier(Circle(), lambda x: x[:, 0])(POINT), "classifier must return logits"),
        (lambda: ProjectedClassifier(Circle(), lambda x: x[:, :1])(POINT), "classifier must return logits"),
        (lambda: projected_circle().witness(POINT, POINT[:0]), "adversarial must have the shape of x"),
        (lambda: projected_circle().witness(POINT, [[math.nan, 0.0]]), "adversarial must not contain NaN"),
        (lambda: shortcut(projected_circle(), POINT, [[0.0, 1.0]]), r"latent must have shape \(n, latent"),
        (lambda: shortcut(projected_circle(), POINT, [[0.0], [1.0]]), "latent must have as many rows"),
        (lambda: shortcut(projected_circle(), POINT, [[0.0]], halvings=-1), "halvings must be an integer"),
        (lambda: unconstrained_lower_bound(-1.0), "in_distribution must be at least 0, got -1"),
        (lambda: unconstrained_lower_bound([0.1, math.nan]), "in_distribution must not contain NaN"),
        (lambda: unconstrained_lower_bound(1.0, reach=-0.5), "reach must be at least 0, got -0.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
