"""What must hold when a stranger's model is large, conditional or interrupted, and his input wrong."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from foreign import digits, draws, latents, seeded, small_classifier, small_generator
from ledger import Ledger, host_waits
from torch import nn

from benchmarks.measure import Counted
from companion import robustness
from companion.attacks import deepfool, fgsm, minimal_l2
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
    return seeded(Conditional(), 1.2).requires_grad_(False)


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
    generator, classifier, z = conditional(), small_classifier(), latents(7, 4)
    found = CONDITIONED[call](bound(generator, CONDITION), classifier, z)
    rows = [CONDITIONED[call](one_label(generator, k), classifier, z[i : i + 1]) for i, k in enumerate(CONDITION)]
    for mine, theirs in zip(found, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.cat(theirs), rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("call", CONDITIONED)
def test_labels_by_position_are_right_or_refused(call):
    """`labels[: len(z)]` is right for the whole batch alone; for a part of it, it is silently another generator."""
    generator, classifier, z = conditional(), small_classifier(), latents(7, 4)
    by_position = lambda z: generator(z, CONDITION.repeat(1 + len(z) // 7)[: len(z)])  # noqa: E731
    by_position.latent_dim = 4
    try:
        found = CONDITIONED[call](by_position, classifier, z)
    except ValueError as error:
        assert str(error).startswith("generator ")
        return
    expected = CONDITIONED[call](bound(generator, CONDITION), classifier, z)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.01, atol=1e-4)


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
    "unconstrained_radius": lambda g, f, z: unconstrained_radius(f, small_generator().to(z)(z), steps=10),
    "lipschitz_at exact": lambda g, f, z: lipschitz_at(g, z, method="exact"),
    "lipschitz_at lanczos": lambda g, f, z: lipschitz_at(g, z, method="lanczos"),
    "local_modulus": lambda g, f, z: local_modulus(g, z, [0.1], steps=2, restarts=2),
}


class Hungry(nn.Module):
    """A model that fits only so many rows in memory."""

    latent_dim = 4

    def __init__(self, network, error, rows=9):
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
    z = latents(20, 4, torch.float64)
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

    def __init__(self, network, last=math.inf):
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


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_radii_that_are_interrupted_are_radii(share):
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
    assert any(not radius.isnan().all() for radius in found[:3])


# Errors that name row, argument, value and rule.


def spoiled(tensor, row, value):
    tensor = tensor.clone()
    tensor[row].view(-1)[1 if tensor.ndim > 1 else 0] = value
    return tensor


def undefined_at_nine(x):
    return small_classifier()(x) + torch.where(x[:, 0, 0, 1:2] == 9, math.nan, 0.0)


class Spoiling(nn.Module):
    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.network = small_generator()
        self.eval()

    def forward(self, z):
        return self.network(z) / (z[:, 1] != 9).float().view(-1, 1, 1, 1)


X = torch.rand(6, 1, 6, 6, generator=draws(7))
Y = torch.zeros(6, dtype=torch.long)
BAD = {
    "outside of the box": (
        lambda: unconstrained_radius(small_classifier(), spoiled(X, 3, 1 + 1e-7), bounds=(0, 1)),
        r"(?s)bounds.*x.*row 3.*1\.0000001",
    ),
    "outside of the box, attack": (
        lambda: minimal_l2(small_classifier(), spoiled(X, 4, -2e-9), Y, bounds=(0, 1)),
        r"(?s)bounds.*x.*row 4.*-2e-0?9",
    ),
    "NaN in z": (
        lambda: latent_radius(small_generator(), small_classifier(), spoiled(latents(5, 4), 2, math.nan)),
        r"z .*NaN.*row 2",
    ),
    "infinite z": (
        lambda: lipschitz_at(small_generator(), spoiled(latents(5, 4), 4, -math.inf)),
        r"z .*finite.*row 4.*-inf",
    ),
    "NaN in x": (lambda: fgsm(small_classifier(), spoiled(X, 5, math.nan), Y, eps=0.1), r"x .*NaN.*row 5"),
    "NaN in start": (
        lambda: minimal_l2(small_classifier(), X, Y, start=spoiled(X, 1, math.nan)),
        r"start .*NaN.*row 1",
    ),
    "label below": (lambda: minimal_l2(small_classifier(), X, spoiled(Y, 4, -1)), r"y .*row 4.*-1"),
    "label above": (lambda: deepfool(small_classifier(), X, spoiled(Y, 2, 5)), r"y .*K = 5.*row 2.*5"),
    "NaN logits": (lambda: unconstrained_radius(undefined_at_nine, spoiled(X, 3, 9.0)), r"classifier .*NaN.*row 3"),
    "infinite image": (
        lambda: local_modulus(Spoiling(), spoiled(latents(5, 4), 3, 9.0), [0.1]),
        r"generator .*finite.*row 3",
    ),
    "several rows": (
        lambda: latent_radius(
            small_generator(), small_classifier(), spoiled(spoiled(latents(9, 4), 2, math.nan), 7, math.nan)
        ),
        r"(?s)z .*NaN.*2.*7",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_names_the_row_and_the_value(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [lipschitz_at, functools.partial(local_modulus, t=[0.1, 0.2], steps=2)])
def test_a_long_call_can_show_its_progress(call, capsys):
    call(small_generator(), latents(20, 4), chunk_size=5)
    assert capsys.readouterr() == ("", "")
    call(small_generator(), latents(20, 4), chunk_size=5, progress=True)
    assert "20/20" in capsys.readouterr().err


# What a call costs.


def peak(call) -> int:
    with Ledger() as ledger:
        call()
    return ledger.peak


def test_parameters_that_require_gradients_cost_no_memory():
    generator = dcgan_generator(latent_dim=40, width=8).eval()
    classifier = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 225, 10)))
    z = latents(8, 40)
    measure = {
        "in_distribution_radius": lambda g: in_distribution_radius(g, classifier, z, steps=5, metric_steps=3),
        "lipschitz_at exact": lambda g: lipschitz_at(g, z, method="exact"),
        "lipschitz_at lanczos": lambda g: lipschitz_at(g, z, method="lanczos", iterations=5, tolerance=1.0),
        "local_modulus": lambda g: local_modulus(g, z, [0.1], steps=2),
        "projection": lambda g: ProjectedClassifier(g, classifier, pool=16, steps=3)(g(z).detach()),
    }
    hidden = lambda z: generator(z)  # noqa: E731
    hidden.latent_dim = 40
    for name, call in measure.items():
        with_gradients, in_a_closure = peak(lambda: call(generator)), peak(lambda: call(hidden))  # noqa: B023
        generator.requires_grad_(False)
        frozen = peak(lambda: call(generator))  # noqa: B023
        generator.requires_grad_(True)
        assert with_gradients < 1.2 * frozen, name
        assert in_a_closure < 2 * frozen, name


@functools.cache
def thousand():
    """Images (n, 3, 4k, 4k) to a thousand classes."""
    layers = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
    return seeded(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 1000)))


def test_a_thousand_classes_race_within_half_a_gigabyte():
    x = torch.rand(8, 3, 128, 128, generator=draws(3))
    assert peak(lambda: unconstrained_radius(thousand(), x, steps=40)) < 2**29


def test_deepfool_does_not_ask_for_a_thousand_gradients():
    x = torch.rand(8, 3, 64, 64, generator=draws(3))
    counted = Counted(thousand())
    assert peak(lambda: deepfool(counted, x, thousand()(x).argmax(1), steps=1)) < 2**27
    assert counted.backward_rows < 8 * 100


def test_a_gpu_is_kept_busy():
    x = digits("generator")(latents(64))
    y = digits("cnn")(x).argmax(1)
    assert host_waits(lambda: minimal_l2(digits("cnn"), x, y, steps=100)) <= 100


def test_ten_gradients_take_twenty_five_passes():
    x = digits("generator")(latents(200))
    counted = Counted(digits("cnn"))
    minimal_l2(counted, x, digits("cnn")(x).argmax(1), steps=10)
    assert (counted.forward_rows + counted.backward_rows) / 200 <= 25
