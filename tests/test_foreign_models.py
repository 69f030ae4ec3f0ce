"""What must hold when a stranger hands in his model: nothing of his is touched, nothing about it is assumed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from foreign import (
    Energy,
    Generator,
    InPlace,
    InPlaceReLU,
    Reused,
    latents,
    seeded,
    small_classifier,
)
from foreign_calls import ATTACKS, CALLS, MEASURES, SHORT, SLOPES, X, Y, Z, expected, frozen, pair, projected, same
from foreign_twins import WITHOUT_FORWARD_MODE, Distances, Recurrent, Sampled, twins
from torch import nn

from companion.attacks import logit_ensemble, minimal_l2
from companion.defences import bpda, eot
from companion.projection import ProjectedClassifier, shortcut
from companion.robustness import compose, in_distribution_radius, radii, unconstrained_radius
from companion.smoothness import Lipschitz, lipschitz_at, local_modulus

# Two ways to the same point end a few roundings apart, and a local search may make more of it: hence double precision.
DOUBLE, CLOSE = torch.float64, dict(rtol=1e-4, atol=1e-7)

# Nothing of the caller's is touched.


@pytest.mark.parametrize("habit", [InPlace, InPlaceReLU])
@pytest.mark.parametrize("call", CALLS)
def test_models_that_work_in_place(call, habit):
    z = Z.double()
    mine, theirs = ([habit(model) for model in frozen(DOUBLE)] for _ in range(2))
    for model in theirs:
        model.forward = model.twin
    same(CALLS[call](*mine, z), CALLS[call](*theirs, z), **CLOSE)
    assert torch.equal(z, Z.double())


@pytest.mark.parametrize("habit", [InPlace, InPlaceReLU])
def test_what_is_handed_in_is_not_written_to(habit):
    generator, classifier = frozen()
    given = x, z, y, start = X.clone(), Z.clone(), Y.clone(), X.flip(0)
    before = [tensor.clone() for tensor in given]
    for attack in ATTACKS.values():
        attack(habit(classifier), x, y)
    minimal_l2(habit(classifier), x, y, steps=5, start=start)
    unconstrained_radius(habit(classifier), x, steps=5, start=start)
    in_distribution_radius(habit(generator), habit(classifier), z, start=z.flip(0), **SHORT)
    ProjectedClassifier(habit(generator), habit(classifier), pool=16, steps=3, warm_start=z)(x)
    assert all(torch.equal(*both) for both in zip(given, before, strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_models_that_reuse_their_output(call):
    models = [Reused(model) for model in frozen(DOUBLE)]
    same(CALLS[call](*models, Z.double()), expected(call, DOUBLE), **CLOSE)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("call", [*MEASURES, *ATTACKS])
def test_classifiers_that_take_gradients_themselves(call, mode):
    generator, classifier = frozen(DOUBLE)
    energy = Energy(classifier)
    with mode():
        found = CALLS[call](generator, energy, Z.double())
    same(found, CALLS[call](generator, energy.twin, Z.double()), **CLOSE)


@pytest.mark.parametrize("call", MEASURES)
def test_images_without_memory_of_their_own(call):
    """Grey images as three equal channels: all of them the same memory, which nothing may be written to."""
    generator, classifier = frozen(DOUBLE)
    colour = seeded(nn.Sequential(nn.Flatten(), nn.Linear(108, 24), nn.Tanh(), nn.Linear(24, 5)), 3.0, 7).to(DOUBLE)
    expanded, copied = (lambda z: generator(z).expand(-1, 3, -1, -1)), (lambda z: generator(z).repeat(1, 3, 1, 1))
    expanded.latent_dim = copied.latent_dim = 4
    same(*(CALLS[call](g, lambda x: colour(x.expand(-1, 3, -1, -1)), Z.double()) for g in (expanded, copied)), **CLOSE)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_parameters_that_require_gradients(call, wrapped):
    models = given = generator, classifier = pair(DOUBLE)
    if wrapped:
        given = (lambda z: generator(z)), (lambda x: classifier(x))
        given[0].latent_dim = 4
    kept = {parameter: torch.ones_like(parameter) for model in models for parameter in model.parameters()}
    for parameter, gradient in kept.items():
        parameter.grad = gradient
    z = Z.double().requires_grad_()
    found = CALLS[call](*given, z)
    same(found, expected(call, DOUBLE), **CLOSE)
    assert not any(tensor.requires_grad for tensor in found) and z.grad is None
    assert all(p.requires_grad and p.grad is g and bool((g == 1).all()) for p, g in kept.items())


class Meter:
    """Counts the calls of some models, and stops at one of them."""

    def __init__(self, *models, last=None):
        self.calls, self.last = 0, last
        self.hooks = [model.register_forward_pre_hook(self.count) for model in models]

    def count(self, *_):
        self.calls += 1
        if self.calls == self.last:
            raise OverflowError("mine")


@pytest.mark.parametrize("call", CALLS)
def test_flags_of_parameters_survive_an_exception(call):
    meter = Meter(*(models := pair()))
    CALLS[call](*models, Z)
    for last in {1, 2, 1 + meter.calls // 2, meter.calls}:
        generator, classifier = pair()
        every = [*generator.parameters(), *classifier.parameters()]
        flags = [index % 2 == 0 for index in range(len(every))]
        for parameter, flag in zip(every, flags, strict=True):
            parameter.requires_grad_(flag)
        Meter(generator, classifier, last=last)
        with pytest.raises(OverflowError, match="mine"):
            CALLS[call](generator, classifier, Z)
        assert [parameter.requires_grad for parameter in every] == flags
        assert all(parameter.grad is None for parameter in every)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.autograd.detect_anomaly])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_inside_of_the_callers_modes(call, mode):
    with mode():
        found = CALLS[call](*pair(DOUBLE), Z.double())
    same(found, expected(call, DOUBLE), **CLOSE)


@pytest.mark.parametrize("call", CALLS)
def test_tensors_made_in_inference_mode(call):
    with torch.inference_mode():
        models, z = pair(DOUBLE), Z.double()
    assert z.is_inference() and models[0].body[0].weight.is_inference()
    same(CALLS[call](*pair(DOUBLE), z), expected(call, DOUBLE), **CLOSE)
    same(CALLS[call](*models, Z.double()), expected(call, DOUBLE), **CLOSE)
    with torch.inference_mode():
        same(CALLS[call](*models, z), expected(call, DOUBLE), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_half_precision(call, dtype):
    found, reference = CALLS[call](*frozen(dtype), Z.to(dtype)), expected(call, DOUBLE)
    for mine, theirs in zip(found, reference, strict=True):
        assert mine.dtype == dtype and mine.isfinite().all() and mine.shape == theirs.shape
    if call in (*MEASURES, *SLOPES):
        assert (found[0].double() / reference[0] - 1).abs().median() < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_from_samples_of_the_prior(dtype):
    found, reference = (
        radii(*frozen(kind), Z.to(kind), steps=20, metric_steps=12).in_distribution for kind in (dtype, DOUBLE)
    )
    assert found.dtype == dtype and (found.double() / reference - 1).abs().max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, DOUBLE])
def test_what_the_proof_of_theorem_2_needs_may_be_anybodys(dtype):
    """An attack on f̃ off the manifold and its witness, for models that work in place."""
    generator, classifier = (InPlace(model) for model in frozen(dtype))
    z = Z.to(dtype)
    x = generator(z.clone())
    radius, witness = in_distribution_radius(generator, classifier, z, **SHORT, return_witness=True)
    f_tilde = projected(generator, classifier, z)
    adversarial = shortcut(f_tilde, x, witness)
    length = (adversarial - x).double().flatten(1).norm(dim=1)
    found = f_tilde.witness(x, adversarial)
    assert (length > 0).all() and found.certified.all() and found.latent.dtype == adversarial.dtype == dtype
    eps = 32 * torch.finfo(dtype).eps
    assert (torch.minimum(radius, found.distance) <= 2 * length * (1 + eps)).all()


@pytest.mark.parametrize("call", [*MEASURES, *SLOPES, "deepfool"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_models(call):
    generator, classifier = frozen(DOUBLE)
    traced = torch.jit.trace(generator, Z.double()), torch.jit.trace(classifier, X.double())
    given = lambda z: traced[0](z)  # noqa: E731
    given.latent_dim = 4
    same(CALLS[call](given, traced[1], Z.double()), expected(call, DOUBLE), **CLOSE)


# Derivatives: none forward, none at all.


@pytest.mark.parametrize("kind", WITHOUT_FORWARD_MODE)
def test_reverse_mode_does_where_there_is_no_forward_mode(kind):
    mine, twin = twins(kind)
    classifier, z = small_classifier().double(), Z.double()
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


@pytest.mark.parametrize("kind", [Recurrent, Sampled, Distances])
def test_the_gradient_of_the_projection_needs_no_forward_mode(kind):
    mine, twin = twins(kind)
    x = (twin(Z.double()).detach() + 0.05).requires_grad_()
    gradients = []
    for generator in (mine, twin):
        logits = ProjectedClassifier(generator, small_classifier().double(), pool=64, steps=50)(x)
        gradients += torch.autograd.grad(logits[:, 0].sum(), x)
    assert gradients[1].abs().max() > 0.1
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_generator_whose_jacobian_is_zero_everywhere_gives_no_modulus():
    generator, _ = frozen()
    eight_bits = lambda z: (generator(z) * 255).round() / 255  # noqa: E731
    eight_bits.latent_dim = 4
    for method in ("exact", "lanczos"):
        with pytest.raises(ValueError, match="(?is)generator.*(zero|round|step)"):
            Lipschitz(lipschitz_at(eight_bits, Z, method=method).max())
    # A generator that is flat in one place only is what it is.
    dead = Generator(nn.Sequential(nn.ReLU(), nn.Linear(4, 36)))
    z = torch.cat([-latents(1, 4).abs(), latents(3, 4).abs()])
    slopes = lipschitz_at(seeded(dead), z)
    assert slopes[0] == 0 and (slopes[1:] > 0).all()


@pytest.mark.parametrize("call", [*MEASURES, *ATTACKS])
def test_a_classifier_that_detaches_is_refused_in_our_words(call):
    generator, classifier = pair()
    with pytest.raises(ValueError, match="classifier must be differentiable"):
        CALLS[call](generator, lambda x: classifier(x.detach()), Z)


@pytest.mark.parametrize("call", [*SLOPES, "latent_radius", "in_distribution_radius", "projection"])
def test_a_generator_that_detaches_is_refused_in_our_words(call):
    class Detached(Generator):
        def forward(self, z):
            return super().forward(z.detach())

    generator, classifier = pair()
    with pytest.raises(ValueError, match="(?s)generator.*differentiable|differentiable.*generator"):
        CALLS[call](Detached(generator.body).eval(), classifier, Z)


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
    made, given = MADE[name](*frozen()), Z if name == "compose" else X
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert torch.equal(again(given), made(given))
