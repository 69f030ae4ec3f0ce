"""The three radii: exact where a closed form is known, ordered everywhere, verified by classification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from companion import models
from companion.attacks.margin import margin, slack
from companion.circle import Circle, HalfPlane, exact_radii
from companion.robustness import (
    compose,
    in_distribution_radius,
    latent_radius,
    radii,
    unconstrained_radius,
)

# A search that starts within 1e-5 of the least radius keeps its start: that far beyond the boundary its steps aim. So
# r_in ends some 1e-7 above the least, and rounding, which differs by batch, decides where exactly.
ROUNDED = dict(rtol=1e-6, atol=1e-6)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int, dim: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, dim, dtype=dtype, generator=draws(1))


class Linear:
    """g(z) = z A from 6 to 15 dimensions."""

    latent_dim = 6

    def __init__(self):
        self.matrix = torch.randn(6, 15, dtype=torch.float64, generator=draws(2))

    def __call__(self, z):
        return z @ self.matrix


def plane() -> HalfPlane:
    return HalfPlane(torch.randn(15, dtype=torch.float64, generator=draws(3)), 0.4)


def digits(name: str = "cnn"):
    return models.load("digits/generator"), models.load(f"digits/{name}")


def assert_close_from_above(radius, exact):
    """Within 0.1 % for 99.9 % of the points, and below only by float64 rounding."""
    assert (radius >= exact * (1 - 1e-9)).all()
    assert (radius <= exact * 1.001).double().mean() >= 0.999


@pytest.mark.parametrize("normal, offset", [((1.0, 0.0), 0.0), ((0.6, 0.8), 0.3), ((-1.0, 0.3), 0.95)])
def test_exact_on_the_circle(normal, offset):
    line, z = HalfPlane(normal, offset), latents(2000, 1)
    measured = radii(Circle(), line, z, chunk_size=2000)
    for radius, exact in zip(measured[:3], exact_radii(line, z), strict=True):
        assert_close_from_above(radius, exact)


def test_exact_for_a_linear_generator_and_a_half_space():
    generator, classifier, z = Linear(), plane(), latents(2000, 6)
    measured = radii(generator, classifier, z, chunk_size=2000)
    gap = classifier(generator(z))[:, 1].abs()
    span = torch.linalg.qr(generator.matrix.T).Q
    assert_close_from_above(measured.latent, gap / (generator.matrix @ classifier.normal).norm())
    assert_close_from_above(measured.in_distribution, gap / (span.T @ classifier.normal).norm())
    assert_close_from_above(measured.unconstrained, gap)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn"])
def test_ordered_and_witnessed_on_digits(name):
    generator, classifier = digits(name)
    z = latents(60, generator.latent_dim, torch.float32)
    result = radii(generator, classifier, z, steps=40, metric_steps=20)
    x = generator(z)
    y = classifier(x).argmax(1)
    # Every radius is that of a witness which is classified otherwise.
    moved = generator(result.in_distribution_witness)
    assert (classifier(generator(result.latent_witness)).argmax(1) != y).all()
    assert (classifier(moved).argmax(1) != y).all()
    assert (classifier(result.unconstrained_witness).argmax(1) != y).all()
    torch.testing.assert_close(result.latent, (result.latent_witness - z).norm(dim=1))
    torch.testing.assert_close(result.in_distribution, (moved - x).flatten(1).norm(dim=1))
    torch.testing.assert_close(result.unconstrained, (result.unconstrained_witness - x).flatten(1).norm(dim=1))
    # r_unc ≤ r_in ≤ ‖g(z + r) − g(z)‖ at the latent witness.
    paper_style = (generator(result.latent_witness) - x).flatten(1).norm(dim=1)
    assert (result.unconstrained <= result.in_distribution * (1 + 1e-5)).all()
    assert (result.in_distribution <= paper_style * (1 + 1e-5)).all()
    assert result.in_distribution.median() < 0.9 * paper_style.median()


def test_latent_ball_is_respected_and_costs_distance():
    generator, classifier = digits()
    z = latents(40, generator.latent_dim, torch.float32)
    z = z[z.norm(dim=1) < 4.5]
    free = in_distribution_radius(generator, classifier, z, steps=30, metric_steps=20)
    radius, witness = in_distribution_radius(
        generator, classifier, z, steps=30, metric_steps=20, max_latent_norm=5.0, return_witness=True
    )
    assert (witness[radius.isfinite()].norm(dim=1) <= 5).all()
    assert radius.isfinite().double().mean() > 0.8
    assert radius.median() >= free.median()


def test_pixel_box_is_respected():
    generator, classifier = digits("mlp")
    x = generator(latents(30, generator.latent_dim, torch.float32))
    radius, witness = unconstrained_radius(classifier, x, steps=30, bounds=(0, 1), return_witness=True)
    assert witness.min() >= 0 and witness.max() <= 1
    assert radius.isfinite().all()


def test_no_second_class_means_infinite_radii():
    line, z = HalfPlane((1.0, 0.0), 2.0), latents(5, 1)
    result = radii(Circle(), line, z, steps=30)
    assert result.latent.isinf().all() and result.in_distribution.isinf().all()
    # The line lies outside of the circle, but in the plane.
    assert result.unconstrained.isfinite().all()
    assert torch.equal(result.latent_witness, z)


def test_chunks_do_not_change_the_result():
    generator, classifier, z = Linear(), plane(), latents(50, 6)
    whole, parts = radii(generator, classifier, z), radii(generator, classifier, z, chunk_size=7)
    for name, one, other in zip(whole._fields, whole, parts, strict=True):
        torch.testing.assert_close(one, other, **(ROUNDED if name.startswith("in_distribution") else {}))


def test_running_out_of_memory_halves_the_chunk_and_loses_nothing():
    generator, plain, z = Linear(), plane(), latents(50, 6)
    sizes = []

    def hungry(x):
        sizes.append(len(x))
        if len(x) > 9:
            raise torch.OutOfMemoryError("no more")
        return plain(x)

    radius, witness = latent_radius(generator, hungry, z, return_witness=True)
    assert max(sizes) == 50 and len(radius) == 50
    torch.testing.assert_close(radius, latent_radius(generator, plain, z))
    found = in_distribution_radius(generator, hungry, z, start=witness)
    torch.testing.assert_close(found, in_distribution_radius(generator, plain, z, start=witness), **ROUNDED)
    images = generator(z)
    torch.testing.assert_close(unconstrained_radius(hungry, images), unconstrained_radius(plain, images))


def test_a_single_row_that_does_not_fit_is_an_error():
    def hungry(x):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no more")
        return plane()(x)

    with pytest.raises(torch.OutOfMemoryError):
        latent_radius(Linear(), hungry, latents(5, 6))


@pytest.mark.parametrize("metric_steps", [0, 5, 18, 40])
def test_start_is_left_as_it_was_and_never_lost(metric_steps):
    generator, classifier = digits()
    z = latents(20, generator.latent_dim, torch.float32)
    start = latent_radius(generator, classifier, z, steps=30, return_witness=True)[1]
    before = start.clone()
    found = in_distribution_radius(generator, classifier, z, start=start, metric_steps=metric_steps)
    assert torch.equal(start, before)
    paper_style = (generator(start) - generator(z)).flatten(1).norm(dim=1)
    assert (found <= paper_style * (1 + 1e-5)).all()


@pytest.mark.parametrize("metric_steps", [0, 5, 40])
def test_a_start_that_is_over_the_boundary_by_rounding_counts(metric_steps):
    """Large logits leave their difference few digits; the label has changed all the same."""
    generator, half_space, z = Linear(), plane(), latents(20, 6)
    across = generator.matrix @ half_space.normal
    distance = half_space(generator(z))[:, 1:]
    start = z - (distance + 2e-7 * distance.sign()) * across / across.square().sum()

    def large(x):
        return half_space(x) + 1e8

    y = large(generator(z)).argmax(1)
    over = margin(large(generator(start)), y)
    assert (over > 0).all() and (over < slack(large(generator(start)), y)).all()
    found = in_distribution_radius(generator, large, z, start=start, metric_steps=metric_steps)
    assert (found <= (generator(start) - generator(z)).norm(dim=1) * (1 + 1e-9)).all()


def test_several_searches_find_what_one_misses():
    generator, classifier = digits("mlp")
    z = latents(60, generator.latent_dim, torch.float32)
    start = latent_radius(generator, classifier, z, return_witness=True)[1]
    one = in_distribution_radius(generator, classifier, z, start=start, metric_steps=3)
    several = in_distribution_radius(generator, classifier, z, start=start, metric_steps=60)
    assert several.mean() < 0.95 * one.mean()
    # So it is inside a ball, where samples of the prior always give something to begin with.
    inside = in_distribution_radius(generator, classifier, z, start=start, max_latent_norm=5.5)
    alone = in_distribution_radius(generator, classifier, z, start=start, max_latent_norm=5.5, metric_steps=3)
    near = z.norm(dim=1) < 5.5
    assert inside[near].isfinite().all() and inside[near].mean() < 0.95 * alone[near].mean()


def test_leaps_in_the_pull_back_metric_find_what_is_near_in_the_image():
    """A step that is short in latent space is long in the image, where the generator is as uneven as a DCGAN."""
    generator, classifier = models.load("cifar10/generator"), models.load("cifar10/wide-resnet")
    z = latents(8, generator.latent_dim, torch.float32)
    start = latent_radius(generator, classifier, z, steps=12, return_witness=True)[1]
    at_start = in_distribution_radius(generator, classifier, z, start=start, metric_steps=0)
    leapt = in_distribution_radius(generator, classifier, z, start=start, metric_steps=3)
    assert (leapt / at_start).log().mean().exp() < 0.4


def test_compose_is_a_classifier_on_latents():
    generator, classifier = Linear(), plane()
    z = latents(4, 6)
    assert torch.equal(compose(generator, classifier)(z), classifier(generator(z)))


def test_empty_batches_stay_empty():
    result = radii(Circle(), HalfPlane((1.0, 0.0)), torch.zeros(0, 1))
    assert [tuple(entry.shape) for entry in result] == [(0,), (0,), (0,), (0, 1), (0, 1), (0, 2)]
    assert unconstrained_radius(plane(), torch.zeros(0, 15)).shape == (0,)


MEASURES = [latent_radius, in_distribution_radius, radii]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(z=torch.zeros(3)), r"z must have shape \(n, latent_dim\) = \(n, 6\), got \(3,\)"),
        (dict(z=torch.zeros(3, 5)), r"z must have shape \(n, latent_dim\) = \(n, 6\), got \(3, 5\)"),
        (dict(z=torch.full((3, 6), math.nan)), "z must not contain NaN"),
        (dict(z=torch.full((3, 6), math.inf)), "z must be finite"),
        (dict(generator=lambda z: z), "generator must have a positive integer attribute latent_dim"),
        (dict(classifier="f"), "classifier must be callable"),
        (dict(classifier=nn.Linear(15, 2).double()), "classifier must be in evaluation mode"),
        (dict(classifier=lambda x: x[:, 0]), r"classifier must return logits of shape \(1, K\), K >= 2"),
        (dict(classifier=lambda x: x[:, :1]), r"classifier must return logits of shape \(1, K\), K >= 2"),
        (dict(classifier=lambda x: x * math.nan), "classifier must return logits without NaN"),
        (dict(classifier=lambda x: x.detach()), "classifier must be differentiable"),
        (dict(steps=0), "steps must be an integer of at least 1, got 0"),
        (dict(chunk_size=0), "chunk_size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_named(measure, change, message):
    arguments = dict(generator=Linear(), classifier=plane(), z=latents(3, 6)) | change
    positional = [arguments.pop(name) for name in ("generator", "classifier", "z")]
    with pytest.raises(ValueError, match=message):
        measure(*positional, **arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: in_distribution_radius(Linear(), plane(), latents(3, 6), max_latent_norm=-1), "max_latent_norm must"),
        (lambda: in_distribution_radius(Linear(), plane(), latents(3, 6), metric_steps=-1), "metric_steps must be"),
        (lambda: in_distribution_radius(Linear(), plane(), latents(3, 6), start=latents(2, 6)), "start must have the"),
        (lambda: unconstrained_radius(plane(), torch.zeros(15)), r"x must be a batch of shape \(n, \*image\)"),
        (lambda: unconstrained_radius(plane(), latents(3, 15), bounds=(0, 1)), "bounds = .* must hold x"),
        (lambda: unconstrained_radius(plane(), latents(3, 15), start=latents(2, 15)), "start must have the shape of x"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
