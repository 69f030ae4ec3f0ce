"""What must hold when a stranger hands in his model: verdicts that survive, and answers that hang on nothing else."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from foreign import Alone, Autocast, Centred, Tf32, digits, draws, latents, seeded
from foreign_calls import CALLS, MEASURES, Z, frozen
from torch import nn

from companion.attacks import minimal_l2
from companion.robustness import in_distribution_radius, latent_radius, radii, unconstrained_radius

SHORT = dict(steps=15, metric_steps=3)
# Enough for the nearest of several boundaries: with 15, two arithmetics may end at two of them.
ENOUGH = dict(steps=60, metric_steps=3)


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


@functools.cache
def exact(name: str, n: int, dtype):
    """The three radii in float64, at latents that `dtype` can hold."""
    double = torch.float64
    z = latents(n, dtype=dtype).to(double)
    return radii(digits("generator", double), digits(name, double), z, **ENOUGH)[:3]


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
    generator, z = digits("generator", dtype), latents(n, dtype=dtype)
    with settings():
        found = radii(generator, classifier, z, **ENOUGH)
        x, moved = generator(z), generator(found.in_distribution_witness)
        f_g = lambda points: classifier(generator(points))  # noqa: E731
        assert stays_fooled(f_g, z, found.latent_witness, found.latent)
        assert stays_fooled(f_g, z, found.in_distribution_witness, found.in_distribution)
        assert stays_fooled(classifier, x, moved, found.in_distribution)
        assert stays_fooled(classifier, x, found.unconstrained_witness, found.unconstrained)
    network = "surrogate" if "tf32" in name or "alone" in name else "mlp"
    for mine, theirs, free in zip(found[:3], exact(network, n, dtype), (0.0, 0.05, 0.0), strict=True):
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
    witness = minimal_l2(double, x.double(), y, steps=30).float()
    near = x + 0.999 * (witness - x)
    near = near[network(near).argmax(1) == y]
    rough = Tf32(network)
    radius, found = unconstrained_radius(rough, near, steps=30, return_witness=True)
    assert len(near) > 6 and radius.isfinite().all()
    whole, alone = rough(found).argmax(1), torch.cat([rough(row).argmax(1) for row in found.split(1)])
    assert (whole == alone).all() and radius.max() < 0.05


def test_two_classes_near_their_boundary_are_not_taken_for_rows_that_hang_together():
    """All margins are small here, those of every class: their rounding must be seen beside what moves them."""
    layers = seeded(nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 2)), 3.0, 7)
    x = torch.rand(24, 36, generator=draws(3))
    y = layers(x).argmax(1)
    near = (x + 0.999 * (minimal_l2(layers, x, y, steps=30) - x))[y == y.mode().values]
    assert len(near) > 6 and unconstrained_radius(Tf32(layers), near, steps=20).isfinite().all()
    with pytest.raises(ValueError, match="batch"):
        unconstrained_radius(Centred(layers), near, steps=20)


# Precision is set in two ways, which PyTorch does not like to see mixed: one by holders of `fp32_precision`, which can
# always be read, the other by flags, which may then raise.
BACKENDS = torch.backends
HOLDERS = [BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul]
PRECISIONS = {
    "as it comes": lambda: None,
    "flags on": lambda: [setattr(holder, "allow_tf32", True) for holder in (BACKENDS.cudnn, BACKENDS.cuda.matmul)],
    "flags off": lambda: [setattr(holder, "allow_tf32", False) for holder in (BACKENDS.cudnn, BACKENDS.cuda.matmul)],
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "matrices by the new way": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "convolutions by the new way": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    """Precision as a caller may have set it, and put back afterwards."""
    before = [holder.fp32_precision for holder in HOLDERS]
    PRECISIONS[request.param]()
    yield
    torch.set_float32_matmul_precision("highest")
    for holder, value in zip(HOLDERS, before, strict=True):
        holder.fp32_precision = value


def state():
    return (
        [holder.fp32_precision for holder in HOLDERS],
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )


class Stops(nn.Module):
    """A model that counts its calls, and gives up at one of them."""

    latent_dim = 4

    def __init__(self, network, last=None):
        super().__init__()
        self.network, self.last, self.calls, self.seen = network, last, 0, set()
        self.eval()

    def forward(self, x):
        self.calls += 1
        self.seen.add(torch.is_autocast_enabled("cpu"))
        if self.calls == self.last:
            raise OverflowError("mine")
        return self.network(x)


@pytest.mark.parametrize("call", CALLS)
def test_the_callers_settings_are_left_as_they_were(call, precision):
    before, models, random = state(), [Stops(model) for model in frozen()], torch.get_rng_state()
    CALLS[call](*models, Z)
    assert state() == before and torch.equal(torch.get_rng_state(), random)
    for place, model in enumerate(models):
        for last in {min(model.calls, 1), model.calls // 2, model.calls} - {0}:
            stopping = list(frozen())
            stopping[place] = Stops(stopping[place], last)
            with pytest.raises(OverflowError, match="mine"):
                CALLS[call](*stopping, Z)
            assert state() == before


@pytest.mark.parametrize("call", CALLS)
def test_the_callers_autocast_is_left_as_it_was(call):
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before, models = state(), [Stops(model) for model in frozen()]
        found = CALLS[call](*models, Z)
        assert state() == before
        with pytest.raises(OverflowError, match="mine"):
            CALLS[call](*(Stops(model, last=2) for model in frozen()), Z)
        assert state() == before
    # A radius holds under the caller's settings, so these have been tried; and it has the dtype of his tensors.
    assert True in models[1].seen or call not in MEASURES
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("rounds", [False, True])
def test_few_and_many_linear_classes(classes, rounds):
    """The exact distance to the nearest of 1 or 999 hyperplanes."""
    layer = seeded(nn.Sequential(nn.Flatten(), nn.Linear(36, classes))).requires_grad_(False)
    x = torch.rand(40, 36, generator=draws(3))
    logits, weight = layer.double()(x.double()), layer[1].weight
    y = logits.argmax(1)
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    truth = ((logits.gather(1, y[:, None]) - logits) / lengths).scatter(1, y[:, None], torch.inf).amin(1)
    model = layer.float()
    model = Tf32(model) if rounds else model
    radius, witness = unconstrained_radius(model, x, steps=60, return_witness=True)
    # Rounded to 10 bits, a boundary lies some 1e-3 of the logits off.
    off = 5e-3 if rounds else 1e-5
    assert stays_fooled(model, x, witness, radius)
    assert (radius > truth - off).all() and (radius < 1.002 * truth + off).double().mean() >= 0.95


def ways(measure, rows: int):
    """The radii of the digits: all rows at once, by seven, each alone; and of one row alone, beside the whole's."""
    whole = measure(slice(None), 512)
    yield from ((measure(slice(None), size), whole) for size in (7, 1))
    yield from ((measure(slice(row, row + 1), 512), whole[row : row + 1]) for row in (0, rows - 1))


@pytest.mark.parametrize("name", MEASURES)
def test_a_row_does_not_hang_on_its_batch_in_float32(name):
    generator, network, z = digits("generator"), digits("mlp"), latents(12)
    x = generator(z)
    measure = {
        "unconstrained_radius": lambda rows, size: unconstrained_radius(network, x[rows], steps=20, chunk_size=size),
        "latent_radius": lambda rows, size: latent_radius(generator, network, z[rows], steps=20, chunk_size=size),
        "in_distribution_radius": lambda rows, size: in_distribution_radius(
            generator, network, z[rows], steps=12, metric_steps=3, chunk_size=size
        ),
    }[name]
    for found, whole in ways(measure, len(z)):
        assert whole.isfinite().all() and (found / whole - 1).abs().max() < 0.01


def test_searches_from_samples_of_the_prior_do_not_hang_on_the_batch():
    generator, classifier = frozen()
    z = latents(12, 4)
    measure = lambda rows, size: in_distribution_radius(  # noqa: E731
        generator, classifier, z[rows], steps=12, metric_steps=21, chunk_size=size
    )
    for found, whole in ways(measure, len(z)):
        assert whole.isfinite().all() and (found / whole - 1).abs().max() < 0.01
