"""What must hold when a stranger's model is large, conditional or interrupted, and his input wrong."""

from __future__ import annotations

import functools

import pytest
import torch
from foreign import digits, draws, latents, seeded, small_classifier, small_generator
from ledger import host_waits, peak
from torch import nn

from benchmarks.measure import Counted
from companion import robustness
from companion.attacks import deepfool, minimal_l2
from companion.models.architectures import dcgan_generator
from companion.projection import ProjectedClassifier
from companion.robustness import in_distribution_radius, latent_radius, radii, unconstrained_radius
from companion.smoothness import lipschitz_at, local_modulus

# Conditional generators.


class Conditional(nn.Module):
    """Latents (n, 4) and labels (n,) to images (n, 1, 6, 6): a direction of its own for every label."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.label, self.net = nn.Embedding(3, 4), small_generator()

    def forward(self, z, labels):
        if len(z) != len(labels):
            raise RuntimeError(f"{len(z)} latents, {len(labels)} labels")
        return self.net(z * self.label(labels).exp())


CONDITION = torch.tensor([0, 1, 2, 2, 1, 0, 1])


def conditional():
    return seeded(Conditional(), 1.2).requires_grad_(False).double()


def bound(generator, labels):
    partial = functools.partial(generator, labels=labels)
    partial.latent_dim = 4
    return partial


def one_label(generator, label):
    """The generator of one label, for any number of rows."""
    function = lambda z: generator(z, label.expand(len(z)))  # noqa: E731
    function.latent_dim = 4
    return function


CONDITIONED = {
    "latent_radius": lambda g, f, z: latent_radius(g, f, z, steps=20, return_witness=True),
    "in_distribution_radius": lambda g, f, z: in_distribution_radius(
        g, f, z, steps=20, metric_steps=5, return_witness=True
    ),
    "radii": lambda g, f, z: radii(g, f, z, steps=20, metric_steps=5)[:5],
    "lipschitz_at exact": lambda g, f, z: (lipschitz_at(g, z, method="exact"),),
    "lipschitz_at lanczos": lambda g, f, z: (lipschitz_at(g, z, method="lanczos"),),
    "local_modulus": lambda g, f, z: (local_modulus(g, z, [0.1, 0.3], steps=3),),
}


@pytest.mark.parametrize("call", CONDITIONED)
def test_labels_bound_for_n_rows_give_what_every_row_gives_alone(call):
    generator, classifier, z = conditional(), small_classifier().double(), latents(7, 4, torch.float64)
    found = CONDITIONED[call](bound(generator, CONDITION), classifier, z)
    rows = [CONDITIONED[call](one_label(generator, k), classifier, z[i : i + 1]) for i, k in enumerate(CONDITION)]
    # A modulus has random starts, which are others for a row alone.
    close = dict(rtol=0.05, atol=0) if call == "local_modulus" else dict(rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(found, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.cat(theirs), **close)


@pytest.mark.parametrize("call", CONDITIONED)
def test_labels_by_position_are_right_or_refused(call):
    """`labels[: len(z)]` is right for the whole batch alone; for a part of it, it is silently another generator."""
    generator, classifier, z = conditional(), small_classifier().double(), latents(7, 4, torch.float64)
    by_position = lambda z: generator(z, CONDITION.repeat(1 + len(z) // 7)[: len(z)])  # noqa: E731
    by_position.latent_dim = 4
    try:
        found = CONDITIONED[call](by_position, classifier, z)
    except ValueError as error:
        assert str(error).startswith("generator ")
        return
    expected = CONDITIONED[call](bound(generator, CONDITION), classifier, z)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


# Memory that runs out, and calls that are interrupted.

EXHAUSTED = {
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "CPU, not enough": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "Python": MemoryError("no more"),
    "CUDA": torch.OutOfMemoryError("CUDA out of memory."),
}
CHUNKED = {
    "latent_radius": lambda g, f, z: latent_radius(g, f, z, steps=10),
    "in_distribution_radius": lambda g, f, z: in_distribution_radius(g, f, z, steps=10, metric_steps=4),
    "unconstrained_radius": lambda g, f, z: unconstrained_radius(f, small_generator().to(z)(z).detach(), steps=10),
    "lipschitz_at exact": lambda g, f, z: lipschitz_at(g, z, method="exact"),
    "lipschitz_at lanczos": lambda g, f, z: lipschitz_at(g, z, method="lanczos"),
    "local_modulus": lambda g, f, z: local_modulus(g, z, [0.1], steps=2, restarts=2),
}


class Hungry(nn.Module):
    """A model that fits only so many rows in memory."""

    latent_dim = 4

    def __init__(self, network, error, rows=24):
        super().__init__()
        self.network, self.error, self.rows = network, error, rows
        self.eval()

    def forward(self, x):
        if len(x) > self.rows:
            raise self.error
        return self.network(x)


@pytest.mark.parametrize("kind", EXHAUSTED)
@pytest.mark.parametrize("call", CHUNKED)
def test_memory_that_runs_out_halves_the_chunk_and_loses_nothing(call, kind):
    generator, classifier = small_generator().double(), small_classifier().double()
    z = latents(40, 4, torch.float64)
    found = CHUNKED[call](*(Hungry(model, EXHAUSTED[kind]) for model in (generator, classifier)), z)
    torch.testing.assert_close(found, CHUNKED[call](generator, classifier, z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), *EXHAUSTED.values()])
@pytest.mark.parametrize("call", CHUNKED)
def test_other_errors_and_a_single_row_that_does_not_fit_are_passed_on(call, error):
    models = [Hungry(model, error, rows=0) for model in (small_generator(), small_classifier())]
    with pytest.raises(type(error)) as caught:
        CHUNKED[call](*models, latents(5, 4))
    assert caught.value is error


class Counting(nn.Module):
    """A model that counts its calls, and at one of them meets Ctrl-C."""

    def __init__(self, network, last=None):
        super().__init__()
        self.network, self.last, self.calls = network, last, 0
        self.eval()

    def forward(self, x):
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return self.network(x)


@pytest.mark.parametrize("call", ["latent_radius", "in_distribution_radius", "unconstrained_radius"])
@pytest.mark.parametrize("with_witness", [False, True])
def test_what_is_finished_survives_ctrl_c(call, with_witness):
    generator, z = small_generator(), latents(30, 4)
    x = generator(z).detach()
    options = dict(steps=10, chunk_size=10, return_witness=with_witness)
    measure = {
        "latent_radius": lambda f: latent_radius(generator, f, z, **options),
        "in_distribution_radius": lambda f: in_distribution_radius(
            generator, f, z, start=latents(30, 4).flip(0), metric_steps=4, **options
        ),
        "unconstrained_radius": lambda f: unconstrained_radius(f, x, **options),
    }[call]
    counting = Counting(small_classifier())
    whole = measure(counting)
    with pytest.raises(robustness.Interrupted) as caught:
        measure(Counting(small_classifier(), last=counting.calls * 3 // 4))
    assert isinstance(caught.value, KeyboardInterrupt)
    found = caught.value.result
    assert isinstance(found, tuple) == with_witness
    radius = found[0] if with_witness else found
    done = ~radius.isnan()
    assert 10 <= done.sum() < 30 and done[: int(done.sum())].all()
    torch.testing.assert_close(radius[done], (whole[0] if with_witness else whole)[done])
    if with_witness:
        torch.testing.assert_close(found[1][done], whole[1][done])
        assert torch.equal(found[1][~done], (x if call == "unconstrained_radius" else z)[~done])


@pytest.mark.parametrize("share, finished", [(0.2, 0), (0.5, 10), (0.9, 20)])
def test_radii_that_are_interrupted_are_radii(share, finished):
    generator, z = small_generator(), latents(30, 4)
    options = dict(steps=10, metric_steps=4, chunk_size=10)
    counting = Counting(small_classifier())
    whole = radii(generator, counting, z, **options)
    with pytest.raises(robustness.Interrupted) as caught:
        radii(generator, Counting(small_classifier(), last=int(counting.calls * share)), z, **options)
    found = caught.value.result
    assert isinstance(found, robustness.Radii)
    inputs = (z, z, generator(z))
    for radius, witness, full, at in zip(found[:3], found[3:], whole[:3], inputs, strict=True):
        done = ~radius.isnan()
        torch.testing.assert_close(radius[done], full[done])
        assert torch.equal(witness[~done], at[~done]) and len(radius) == 30
        # Three chunks of ten: in the first fifth of the calls none is finished yet.
        assert done.sum() == finished and done[:finished].all()


# What a call costs.


@pytest.mark.parametrize("wrapped", [False, True])
def test_parameters_that_require_gradients_cost_no_memory(wrapped):
    generator = seeded(dcgan_generator(latent_dim=40, width=8))
    classifier = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 225, 10)))
    models = given = generator, classifier
    if wrapped:
        given = (lambda z: generator(z)), (lambda x: classifier(x))
        given[0].latent_dim = 40
    z = latents(8, 40)
    start, x = z.flip(0), generator(z).detach()
    measures = {
        "in_distribution_radius": lambda g, f: in_distribution_radius(g, f, z, start=start, metric_steps=1),
        "unconstrained_radius": lambda g, f: unconstrained_radius(f, x, steps=6),
        "lipschitz_at exact": lambda g, f: lipschitz_at(g, z, method="exact"),
        "lipschitz_at lanczos": lambda g, f: lipschitz_at(g, z, method="lanczos", iterations=5, tolerance=1.0),
        "local_modulus": lambda g, f: local_modulus(g, z, [0.1], steps=2),
        "projection": lambda g, f: ProjectedClassifier(g, f, pool=16, steps=2)(x),
    }
    for name, measure in measures.items():
        with_gradients = peak(lambda: measure(*given))  # noqa: B023
        for model in models:
            model.requires_grad_(False)
        frozen = peak(lambda: measure(*given))  # noqa: B023
        for model in models:
            model.requires_grad_(True)
        # What a function hides cannot be frozen for it; its Jacobians need no graph all the same.
        assert with_gradients < (1.5 if wrapped else 1.2) * frozen, name


def test_the_jacobians_of_many_rows_are_not_held_at_once():
    """256 rows of 16 latent dimensions and 24,576 pixels: their Jacobians are 400 MB, of which copies are made."""
    generator = seeded(nn.Linear(16, 24_576)).requires_grad_(False)
    generator.latent_dim = 16
    classifier, z = seeded(nn.Linear(24_576, 3)).requires_grad_(False), latents(256)
    assert peak(lambda: in_distribution_radius(generator, classifier, z, start=-z, metric_steps=1)) < 2**29


@functools.cache
def thousand():
    """Images (n, 3, k, k) to a thousand classes, at about 6 KB a pixel and row where gradients are wanted."""
    layers = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
    return seeded(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 1000))).requires_grad_(False)


def test_a_thousand_classes_race_in_no_more_memory_than_they_need():
    """At most an eighth of a gigabyte for 8 images of 64 x 64: half a gigabyte where they have 128 x 128."""
    x = torch.rand(8, 3, 64, 64, generator=draws(3))
    assert peak(lambda: unconstrained_radius(thousand(), x, steps=24)) < 2**27


def test_deepfool_does_not_ask_for_a_thousand_gradients():
    x = torch.rand(4, 3, 16, 16, generator=draws(3))
    counted, y = Counted(thousand()), thousand()(x).argmax(1)
    every_gradient = 4 * 1000 * x[0].nbytes
    assert peak(lambda: deepfool(counted, x, y, steps=1)) < every_gradient / 2
    assert counted.backward_rows < 4 * 100


def test_a_gpu_is_kept_busy():
    x = digits("generator")(latents(64))
    y = digits("cnn")(x).argmax(1)
    assert host_waits(lambda: minimal_l2(digits("cnn"), x, y, steps=100)) <= 100


def test_ten_gradients_take_twenty_five_passes():
    x = digits("generator")(latents(200))
    counted = Counted(digits("cnn"))
    minimal_l2(counted, x, digits("cnn")(x).argmax(1), steps=10)
    assert (counted.forward_rows + counted.backward_rows) / 200 <= 25
