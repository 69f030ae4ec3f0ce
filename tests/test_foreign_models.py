"""What must hold when a stranger hands in his model: nothing of his is touched, nothing about it is assumed."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from foreign import (
    WITHOUT_FORWARD_MODE,
    Generator,
    InPlace,
    InPlaceReLU,
    Reused,
    latents,
    seeded,
    small_classifier,
    small_generator,
    twins,
)
from torch import nn

from companion.attacks import deepfool, fgsm, jsma, lbfgs, logit_ensemble, mi_fgsm, minimal_l2
from companion.defences import bpda, eot
from companion.projection import ProjectedClassifier
from companion.robustness import compose, in_distribution_radius, latent_radius, radii, unconstrained_radius
from companion.smoothness import Lipschitz, lipschitz_at, local_modulus

SHORT = dict(steps=20, metric_steps=5)
ATTACKS = {
    "deepfool": deepfool,
    "minimal_l2": functools.partial(minimal_l2, steps=12),
    "lbfgs": functools.partial(lbfgs, bounds=(-9, 9)),
    "fgsm": functools.partial(fgsm, eps=0.3),
    "mi_fgsm": functools.partial(mi_fgsm, eps=0.3),
    "jsma": functools.partial(jsma, bounds=(-9, 9)),
}
# All that asks a generator, a classifier, or both, in a few passes each: f(generator, classifier, latents) -> tensors.
CALLS = {
    "radii": lambda g, f, z: tuple(radii(g, f, z, **SHORT)),
    "lipschitz_at exact": lambda g, f, z: (lipschitz_at(g, z, method="exact"),),
    "lipschitz_at lanczos": lambda g, f, z: (lipschitz_at(g, z, method="lanczos"),),
    "local_modulus": lambda g, f, z: (local_modulus(g, z, [0.1, 0.5], steps=3),),
    "projection": lambda g, f, z: tuple(ProjectedClassifier(g, f, pool=32, steps=20).project(images(z))),
    "unconstrained_radius": lambda g, f, z: unconstrained_radius(f, images(z), steps=20, return_witness=True),
    "latent_radius": lambda g, f, z: latent_radius(g, f, z, steps=20, return_witness=True),
    "in_distribution_radius": lambda g, f, z: in_distribution_radius(g, f, z, **SHORT, return_witness=True),
} | {name: lambda g, f, z, a=attack: (a(f, images(z), labels(z)),) for name, attack in ATTACKS.items()}


def images(z) -> torch.Tensor:
    """The same images for every generator of a test, in the dtype of z, made without it."""
    generator = small_generator()
    with torch.inference_mode(False), torch.no_grad():
        return generator.to(z.dtype)(z.clone())


def labels(z) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return small_classifier().to(z.dtype)(images(z)).argmax(1)


def pair(dtype=torch.float32):
    """A generator and a classifier whose parameters require gradients, as every constructor leaves them."""
    return small_generator().to(dtype), small_classifier().to(dtype)


def frozen(dtype=torch.float32):
    return tuple(model.requires_grad_(False) for model in pair(dtype))


def same(one, other, **tolerance):
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


# Nothing of the caller's is touched.


@pytest.mark.parametrize("habit", [InPlace, InPlaceReLU])
@pytest.mark.parametrize("call", CALLS)
def test_models_that_work_in_place(call, habit):
    generator, classifier, z = *frozen(torch.float64), latents(6, 4, torch.float64)
    mine = [habit(model) for model in (generator, classifier)]
    theirs = [habit(model) for model in (generator, classifier)]
    for model in theirs:
        model.forward = model.twin
    before = z.clone()
    same(CALLS[call](*mine, z), CALLS[call](*theirs, z), rtol=1e-6, atol=1e-8)
    assert torch.equal(z, before)


@pytest.mark.parametrize("habit", [InPlace, InPlaceReLU])
def test_what_is_handed_in_is_not_written_to(habit):
    generator, classifier, z = *frozen(), latents(6, 4)
    x, start = images(z), images(latents(6, 4).flip(0))
    y = labels(z)
    before = [tensor.clone() for tensor in (x, z, y, start)]
    for attack in ATTACKS.values():
        attack(habit(classifier), x, y)
    minimal_l2(habit(classifier), x, y, steps=5, start=start)
    unconstrained_radius(habit(classifier), x, steps=5, start=start)
    in_distribution_radius(habit(generator), habit(classifier), z, steps=5, metric_steps=2, start=z)
    ProjectedClassifier(habit(generator), habit(classifier), pool=16, steps=3, warm_start=z)(x)
    assert all(torch.equal(*both) for both in zip((x, z, y, start), before, strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_models_that_reuse_their_output(call):
    generator, classifier, z = *frozen(torch.float64), latents(6, 4, torch.float64)
    same(CALLS[call](Reused(generator), Reused(classifier), z), CALLS[call](generator, classifier, z))


@pytest.mark.parametrize("call", CALLS)
def test_parameters_that_require_gradients(call):
    z = latents(6, 4)
    reference = CALLS[call](*frozen(), z)
    models = generator, classifier = pair()
    closures = [lambda z: generator(z), lambda x: classifier(x)]
    closures[0].latent_dim = 4
    kept = {parameter: torch.ones_like(parameter) for model in models for parameter in model.parameters()}
    for parameter, gradient in kept.items():
        parameter.grad = gradient
    for given in (models, closures):
        z.requires_grad_()
        found = CALLS[call](*given, z)
        same(found, reference, rtol=1e-3, atol=1e-5)
        assert not any(tensor.requires_grad for tensor in found) and z.grad is None
        z = z.detach()
    assert all(p.requires_grad and p.grad is g and bool((g == 1).all()) for p, g in kept.items())


@pytest.mark.parametrize("call", CALLS)
def test_flags_of_parameters_survive_an_exception(call):
    generator, classifier = pair()
    flags = [index % 2 == 0 for index, _ in enumerate([*generator.parameters(), *classifier.parameters()])]
    every = [*generator.parameters(), *classifier.parameters()]
    for parameter, flag in zip(every, flags, strict=True):
        parameter.requires_grad_(flag)
    for last in (1, 2, 5):
        calls = []

        def stop(*_, calls=calls, last=last):
            calls.append(1)
            if len(calls) > last:
                raise OverflowError("mine")

        hooks = [model.register_forward_pre_hook(stop) for model in (generator, classifier)]
        with pytest.raises(OverflowError, match="mine"):
            CALLS[call](generator, classifier, latents(6, 4))
        for hook in hooks:
            hook.remove()
        assert [parameter.requires_grad for parameter in every] == flags
        assert all(parameter.grad is None for parameter in every)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("call", CALLS)
def test_inside_of_no_grad_and_inference_mode(call, mode):
    z = latents(6, 4)
    reference = CALLS[call](*frozen(), z)
    with mode():
        same(CALLS[call](*pair(), z), reference, rtol=1e-3, atol=1e-5)
        # What is made here is an inference tensor: latents, and parameters.
        same(CALLS[call](*pair(), z.clone()), reference, rtol=1e-3, atol=1e-5)
        born = pair()
    inferred = born[0].body[0].weight.is_inference()
    assert inferred == (mode is torch.inference_mode)
    same(CALLS[call](*born, z), reference, rtol=1e-3, atol=1e-5)


# Dtypes, arrays, defaults.

ARRAYS = {
    "float64": lambda z: z.numpy().astype(np.float64),
    "float32": lambda z: z.numpy(),
    "float16": lambda z: z.numpy().astype(np.float16),
    "big-endian": lambda z: z.numpy().astype(">f8"),
    "negative strides": lambda z: z.numpy()[::-1].copy()[::-1],
    "Fortran order": lambda z: np.asfortranarray(z.numpy()),
    "lists": lambda z: z.tolist(),
    "integers": lambda z: z.numpy().astype(np.int64),
    "small integers": lambda z: z.numpy().astype(np.uint8),
    "integer tensor": lambda z: z.long(),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_take_the_networks_dtype(kind, wrapped):
    generator, classifier = frozen()
    z = (2 * latents(5, 4)).round().abs()
    x = images(z).mul(9).round()
    g, f = generator, classifier
    if wrapped:
        g, f = (lambda z: generator(z)), (lambda x: classifier(x))
        g.latent_dim = np.int64(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = radii(g, f, ARRAYS[kind](z), **SHORT)
        same(found, radii(generator, classifier, z, **SHORT))
        found = unconstrained_radius(f, ARRAYS[kind](x), steps=10)
        same([found], [unconstrained_radius(classifier, x, steps=10)])
        y = np.asarray(classifier(x).argmax(1))
        for attack in ATTACKS.values():
            same([attack(f, ARRAYS[kind](x), y[::-1].copy()[::-1])], [attack(classifier, x, torch.tensor(y))])
        same([lipschitz_at(g, ARRAYS[kind](z))], [lipschitz_at(generator, z)])
        same([local_modulus(g, ARRAYS[kind](z), [0.1], steps=2)], [local_modulus(generator, z, [0.1], steps=2)])
    assert found.dtype == torch.float32


def test_read_only_arrays_are_read_and_nothing_else():
    generator, classifier = (InPlace(model) for model in frozen())
    z = latents(5, 4).numpy()
    z.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = radii(generator, classifier, z, **SHORT)
    same(found, radii(generator, classifier, torch.tensor(z), **SHORT))


@pytest.mark.parametrize("dim", [np.int64(4), np.int32(4), torch.tensor(4)])
def test_latent_dim_may_be_any_integer(dim):
    generator, classifier = frozen()
    generator.latent_dim = dim
    assert latent_radius(generator, classifier, latents(3, 4), steps=5).shape == (3,)


@pytest.mark.parametrize("call", CALLS)
def test_any_default_dtype_and_device(call):
    z = latents(6, 4)
    reference, models, start = CALLS[call](*frozen(), z), frozen(), (images(z), labels(z))
    given = {"images": lambda _: start[0], "labels": lambda _: start[1]}
    with pytest.MonkeyPatch.context() as patch:
        for name, function in given.items():
            patch.setitem(globals(), name, function)
        try:
            torch.set_default_dtype(torch.float64)
            same(CALLS[call](*models, z), reference)
            torch.set_default_dtype(torch.float32)
            # Whatever is made without a device would be made on this one, and be found out.
            torch.set_default_device("meta")
            found = CALLS[call](*models, z)
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
    same(found, reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_half_precision(call, dtype):
    z = latents(6, 4).to(dtype)
    found, reference = CALLS[call](*frozen(dtype), z), CALLS[call](*frozen(torch.float64), z.double())
    for mine, theirs in zip(found, reference, strict=True):
        assert mine.dtype == dtype and mine.isfinite().all()
        if theirs.ndim == 1:
            assert (mine.double() / theirs.clamp(min=1e-3) - 1).abs().median() < 0.1


@pytest.mark.parametrize("layout", ["channels last", "expanded", "transposed", "a parameter"])
def test_any_layout(layout):
    _, classifier = frozen()
    x = images(latents(6, 4))
    given = {
        "channels last": x.to(memory_format=torch.channels_last),
        "expanded": x[:1].expand(6, -1, -1, -1),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "a parameter": nn.Parameter(x.clone()),
    }[layout]
    radius, witness = unconstrained_radius(classifier, given, steps=20, return_witness=True)
    same([radius], [unconstrained_radius(classifier, given.detach().clone(), steps=20)])
    assert not witness.requires_grad and given.grad is None


# Derivatives: none forward, none at all.


@pytest.mark.parametrize("kind", WITHOUT_FORWARD_MODE)
def test_reverse_mode_does_where_there_is_no_forward_mode(kind):
    mine, twin = twins(kind)
    classifier, z = small_classifier().double(), latents(5, 4, torch.float64)
    torch.testing.assert_close(mine(z), twin(z))
    for method in ("exact", "lanczos"):
        torch.testing.assert_close(lipschitz_at(mine, z, method=method), lipschitz_at(twin, z, method=method))
    same([local_modulus(mine, z, [0.1, 0.4], steps=3)], [local_modulus(twin, z, [0.1, 0.4], steps=3)])
    options = dict(steps=20, metric_steps=24)
    found, expected = (in_distribution_radius(model, classifier, z, **options) for model in (mine, twin))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    x = twin(z).detach() + 0.05
    one, other = (ProjectedClassifier(model, classifier, pool=64, steps=20) for model in (mine, twin))
    same(one.project(x), other.project(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-6)


def test_a_generator_whose_jacobian_is_zero_everywhere_gives_no_modulus():
    generator, _ = frozen()
    eight_bits = lambda z: (generator(z) * 255).round() / 255  # noqa: E731
    eight_bits.latent_dim = 4
    for method in ("exact", "lanczos"):
        with pytest.raises(ValueError, match="(?is)generator.*(zero|round|step)"):
            Lipschitz(lipschitz_at(eight_bits, latents(6, 4), method=method).max())
    # A generator that is flat in one place only is what it is.
    dead = Generator(nn.Sequential(nn.ReLU(), nn.Linear(4, 36)))
    z = torch.cat([-latents(1, 4).abs(), latents(3, 4).abs()])
    slopes = lipschitz_at(seeded(dead), z)
    assert slopes[0] == 0 and (slopes[1:] > 0).all()


@pytest.mark.parametrize("call", ["radii", "unconstrained_radius", "latent_radius", *ATTACKS])
def test_a_classifier_that_detaches_is_refused_in_our_words(call):
    generator, classifier = pair()
    with pytest.raises(ValueError, match="classifier must be differentiable"):
        CALLS[call](generator, lambda x: classifier(x.detach()), latents(3, 4))


@pytest.mark.parametrize("call", ["lipschitz_at exact", "lipschitz_at lanczos", "local_modulus", "radii"])
def test_a_generator_that_detaches_is_refused_in_our_words(call):
    class Detached(Generator):
        def forward(self, z):
            return super().forward(z.detach())

    generator, classifier = pair()
    with pytest.raises(ValueError, match="generator must be differentiable"):
        CALLS[call](Detached(generator.body), classifier, latents(3, 4))


# Pickling and copying.


MADE = {
    "compose": lambda g, f: compose(g, f),
    "eot": lambda g, f: eot(f, draws=3),
    "bpda": lambda g, f: bpda(torch.round),
    "bpda with a stand-in": lambda g, f: bpda(f, f),
    "logit_ensemble": lambda g, f: logit_ensemble([f, f]),
    "ProjectedClassifier": lambda g, f: ProjectedClassifier(g, f, pool=8, steps=2),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_of_models_can_be_pickled_and_copied(name):
    made, z = MADE[name](*frozen()), latents(4, 4)
    given = z if name == "compose" else images(z)
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert torch.equal(again(given), made(given))
