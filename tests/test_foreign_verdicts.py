"""What must hold when a stranger hands in his model: verdicts that survive, and answers that hang on nothing else."""

from __future__ import annotations

import contextlib
import functools
import warnings

import pytest
import torch
from foreign import (
    Alone,
    Autocast,
    Centred,
    Dropout,
    Noisy,
    Tf32,
    digits,
    draws,
    latents,
    seeded,
    small_classifier,
    small_generator,
)
from torch import nn

from companion.attacks import minimal_l2
from companion.projection import ProjectedClassifier
from companion.robustness import in_distribution_radius, latent_radius, radii, unconstrained_radius
from companion.smoothness import lipschitz_at, local_modulus

SHORT = dict(steps=30, metric_steps=6)


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


@functools.cache
def exact(name: str, n: int):
    """The three radii in float64."""
    double = torch.float64
    return radii(digits("generator", double), digits(name, double), latents(n, dtype=double), **SHORT)[:3]


def stays_fooled(classifier, x, witness, radius) -> bool:
    """Whether every row with a finite radius has another label than its clean point, however it is asked for."""

    def labels(points):
        with torch.no_grad():
            whole, reverse = classifier(points).argmax(1), classifier(points.flip(0)).argmax(1).flip(0)
            parts = [torch.cat([classifier(part).argmax(1) for part in points.split(size)]) for size in (3, 1)]
            return torch.stack([whole, reverse, *parts])

    return bool((labels(x) != labels(witness))[:, radius.isfinite()].all())


# name: (classifier of the digits, generator, dtype of the latents, the caller's settings, how much longer radii may be)
ARITHMETIC = {
    "tf32": (lambda: Tf32(digits("surrogate")), torch.float32, contextlib.nullcontext, 0.02),
    "tf32, switched off on demand": (
        lambda: Tf32(digits("surrogate"), switch=True),
        torch.float32,
        contextlib.nullcontext,
        0.02,
    ),
    "another answer alone": (lambda: Alone(digits("surrogate")), torch.float32, contextlib.nullcontext, 0.04),
    "autocast inside": (lambda: Autocast(digits("mlp")), torch.float32, contextlib.nullcontext, 0.1),
    "autocast outside": (lambda: digits("mlp"), torch.float32, bfloat16, 0.1),
    "bfloat16": (lambda: digits("mlp", torch.bfloat16), torch.bfloat16, contextlib.nullcontext, 0.1),
    "float16": (lambda: digits("mlp", torch.float16), torch.float16, contextlib.nullcontext, 0.04),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_a_witness_is_fooled_however_it_is_classified_again(name):
    build, dtype, settings, longer = ARITHMETIC[name]
    classifier, n = build(), 12
    generator, z = digits("generator", dtype), latents(n).to(dtype)
    with settings():
        found = radii(generator, classifier, z, **SHORT)
        x, moved = generator(z), generator(found.in_distribution_witness)
        f_g = lambda points: classifier(generator(points))  # noqa: E731
        assert stays_fooled(f_g, z, found.latent_witness, found.latent)
        assert stays_fooled(f_g, z, found.in_distribution_witness, found.in_distribution)
        assert stays_fooled(classifier, x, moved, found.in_distribution)
        assert stays_fooled(classifier, x, found.unconstrained_witness, found.unconstrained)
    network = "surrogate" if "tf32" in name or "alone" in name else "mlp"
    for mine, theirs, free in zip(found[:3], exact(network, n), (0.0, 0.05, 0.0), strict=True):
        ratio = mine.double() / theirs
        assert mine.isfinite().all()
        assert 1 - longer - free < ratio.median() < 1 + longer + free
        assert ratio.quantile(0.8) < 1 + 2 * longer + 4 * free
    # The order survives as well, up to the rounding of the numbers themselves.
    assert (found.unconstrained <= found.in_distribution * (1 + 4 * torch.finfo(dtype).eps)).all()


def test_rows_near_a_boundary_keep_their_witness():
    """Clean margins of a few units of rounding: no radius may be lost, and none be shorter than the truth."""
    network, double = digits("mlp"), digits("mlp", torch.float64)
    x = digits("generator")(latents(12))
    y = network(x).argmax(1)
    witness = minimal_l2(double, x.double(), y).float()
    near = x + 0.999 * (witness - x)
    near = near[network(near).argmax(1) == y]
    rough = Tf32(network)
    radius, found = unconstrained_radius(rough, near, steps=30, return_witness=True)
    assert len(near) > 6 and radius.isfinite().all()
    whole, alone = rough(found).argmax(1), torch.cat([rough(row).argmax(1) for row in found.split(1)])
    assert (whole == alone).all() and radius.max() < 0.05


LEGACY = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.fixture(params=[True, False])
def flags(request):
    """PyTorch's flags of precision, set as a caller may have set them, and put back afterwards."""
    before, precision = [holder.allow_tf32 for holder in LEGACY], torch.get_float32_matmul_precision()
    for holder in LEGACY:
        holder.allow_tf32 = request.param
    torch.set_float32_matmul_precision("medium" if request.param else "highest")
    yield
    torch.set_float32_matmul_precision(precision)
    for holder, value in zip(LEGACY, before, strict=True):
        holder.allow_tf32 = value


def state():
    return (
        *(holder.allow_tf32 for holder in LEGACY),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )


MEASURES = {
    "unconstrained_radius": lambda g, f, z: unconstrained_radius(f, g(z).detach(), steps=10),
    "latent_radius": lambda g, f, z: latent_radius(g, f, z, steps=10),
    "in_distribution_radius": lambda g, f, z: in_distribution_radius(g, f, z, steps=10, metric_steps=4),
    "lipschitz_at": lambda g, f, z: lipschitz_at(g, z),
    "local_modulus": lambda g, f, z: local_modulus(g, z, [0.1], steps=3),
}


class Fails(nn.Module):
    """A model that gives up at its k-th call."""

    def __init__(self, network, calls, error):
        super().__init__()
        self.network, self.calls, self.error, self.latent_dim = network, calls, error, 4
        self.eval()

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return self.network(x)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_callers_settings_are_left_as_they_were(measure, flags):
    generator, classifier, z, before, random = small_generator(), small_classifier(), latents(3, 4), state(), None
    random = torch.get_rng_state()
    MEASURES[measure](generator, classifier, z)
    assert state() == before and torch.equal(torch.get_rng_state(), random)
    for calls in (0, 1, 3, 6):
        failing = [Fails(model, calls + 1, OverflowError("mine")) for model in (generator, classifier)]
        with pytest.raises(OverflowError, match="mine"):
            MEASURES[measure](*failing, z)
        assert state() == before
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before = state()
        MEASURES[measure](generator, classifier, z)
        assert state() == before


# Invariances: what changes no label changes no radius.


def padded(value: float, count: int = 1):
    return lambda logits: torch.cat([logits, torch.full_like(logits[:, :1], value).expand(-1, count)], 1)


CHANGES = {
    "shifted": lambda logits: logits + 1e4,
    "shifted down": lambda logits: logits - 1e4,
    "shifted by a row": lambda logits: logits - logits.logsumexp(1, keepdim=True),
    "one impossible class": padded(-1e9),
    "one excluded class": padded(-torch.inf),
    "many impossible classes": padded(-1e9, 990),
    "many excluded classes": padded(-torch.inf, 990),
    "large": lambda logits: logits * 1e6,
    "small": lambda logits: logits * 1e-6,
    "tiny": lambda logits: logits * 2.0**-80,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_no_label_changes_no_radius(change, dtype):
    generator, network = digits("generator", dtype), digits("mlp", dtype)
    z = latents(12, dtype=dtype)
    changed = radii(generator, lambda x: CHANGES[change](network(x)), z, **SHORT)
    x = generator(z)
    assert (network(changed.unconstrained_witness).argmax(1) != network(x).argmax(1)).all()
    for mine, theirs, free in zip(changed[:3], exact("mlp", 12), (1, 5, 1), strict=True):
        ratio = mine / theirs
        assert mine.isfinite().all()
        assert (ratio - 1).abs().median() < 0.01 * free
        assert ratio.max() < 1 + 0.1 * free


def test_an_impossible_class_beside_a_linear_boundary():
    def classifier(x):
        return torch.stack([0 * x[:, 0], x[:, 0] - 1, 0 * x[:, 0] - 1e9], 1)

    for dtype in (torch.float32, torch.float64):
        assert unconstrained_radius(classifier, torch.zeros(1, 1, dtype=dtype)).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("wrap", [lambda network: network, Tf32])
def test_few_and_many_linear_classes(classes, wrap):
    layer = seeded(nn.Sequential(nn.Flatten(), nn.Linear(36, classes)))
    x = torch.rand(40, 36, generator=draws(3))
    logits, weight = layer.double()(x.double()), layer[1].weight
    y = logits.argmax(1)
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    truth = ((logits.gather(1, y[:, None]) - logits) / lengths).scatter(1, y[:, None], torch.inf).amin(1)
    model = wrap(layer.float())
    radius, witness = unconstrained_radius(model, x, steps=60, return_witness=True)
    excess = radius - truth
    assert stays_fooled(model, x, witness, radius)
    # Rounded to 10 bits, a boundary lies some 1e-3 of the logits off.
    assert (excess > -2e-3).all() and ((excess < 5e-3 * truth + 5e-3).double().mean() >= 0.98)


def test_nan_outside_of_the_box_fools_nobody():
    network = small_classifier()
    x = torch.rand(12, 36, generator=draws(3))
    partial = lambda x: network(x) + 0 * (4 - x.square().amax(1, keepdim=True)).sqrt()  # noqa: E731
    radius, witness = unconstrained_radius(partial, x, steps=30, return_witness=True)
    reference = unconstrained_radius(network, x, steps=30)
    near = reference < 0.8
    assert near.sum() > 3 and partial(witness[radius.isfinite()]).isfinite().all()
    assert (radius[near] <= 1.05 * reference[near]).all() and not radius.isnan().any()


# Random and batch-dependent models.

RANDOM = {
    "dropout": lambda f: Dropout(f, 0.5),
    "a little dropout": lambda f: Dropout(f, 0.02),
    "rare dropout": lambda f: Dropout(f, 1e-3),
    "input noise": lambda f: Noisy(f, 0.05),
    "mean of the batch": Centred,
}


def unnormalised():
    """Batch norm that keeps no running statistics uses those of the batch, in evaluation mode too."""
    return seeded(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 5)))


@pytest.mark.parametrize("measure", ["unconstrained_radius", "latent_radius", "in_distribution_radius"])
@pytest.mark.parametrize("name", [*RANDOM, "batch norm"])
def test_a_classifier_that_is_random_or_sees_the_batch_is_refused(measure, name):
    torch.manual_seed(0)
    classifier = RANDOM[name](digits("surrogate")) if name in RANDOM else unnormalised()
    remedy = r"(?s)^classifier .*eval\(\)" if name in ("batch norm", "mean of the batch") else r"(?s)^classifier .*eot"
    with pytest.raises(ValueError, match=remedy):
        MEASURES[measure](digits("generator"), classifier, latents(24))


@pytest.mark.parametrize("measure", [*MEASURES, "projection"])
@pytest.mark.parametrize("change", [lambda g: Noisy(g, 0.05), Centred])
def test_a_generator_that_is_random_or_sees_the_batch_is_refused(measure, change):
    generator, classifier, z = change(digits("generator")), digits("mlp"), latents(12)
    projected = lambda g, f, z: ProjectedClassifier(g, f, pool=64, steps=5)(digits("generator")(z))  # noqa: E731
    if measure == "unconstrained_radius":
        pytest.skip("knows no generator")
    with pytest.raises(ValueError, match=r"(?s)^generator .*(eval\(\)|random|batch)"):
        (MEASURES | {"projection": projected})[measure](generator, classifier, z)


# Probabilities.


@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_as_logits_are_warned_about(classes):
    network, x = digits("mlp"), digits("generator")(latents(8))
    with pytest.warns(UserWarning, match="(?is)classifier.*probabilit.*log"):
        radius = unconstrained_radius(lambda x: network(x)[:, :classes].softmax(1), x, steps=10)
    assert radius.shape == (8,)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits,
        lambda logits: logits.log_softmax(1),
        lambda logits: logits.sigmoid(),
        lambda logits: logits.softmax(1) * 0.5 + 0.3 * logits.sigmoid(),
        lambda logits: logits.softmax(1) - 0.1,
        lambda logits: logits.double().softmax(1).logit(),
    ],
)
def test_logits_are_not_taken_for_probabilities(change):
    network, x = digits("mlp"), digits("generator")(latents(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unconstrained_radius(lambda x: change(network(x)), x, steps=10)


# Batch independence.


@pytest.mark.parametrize("measure", ["unconstrained_radius", "latent_radius", "in_distribution_radius"])
def test_a_row_does_not_hang_on_its_batch_in_float32(measure):
    generator, network, z = digits("generator"), digits("mlp"), latents(14)
    x = generator(z)
    measured = {
        "unconstrained_radius": lambda rows, **k: unconstrained_radius(network, x[rows], steps=30, **k),
        "latent_radius": lambda rows, **k: latent_radius(generator, network, z[rows], steps=30, **k),
        "in_distribution_radius": lambda rows, **k: in_distribution_radius(
            generator, network, z[rows], steps=30, metric_steps=24, **k
        ),
    }[measure]
    whole = measured(slice(None), chunk_size=512)
    for other in (measured(slice(None), chunk_size=7), measured(slice(None), chunk_size=1)):
        assert (other / whole - 1).abs().max() < 0.01
    alone = measured(slice(5, 6))
    assert abs(alone / whole[5] - 1) < 0.01
