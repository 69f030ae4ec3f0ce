"""The defences: trained as published, hidden gradients seen through, symptoms seen only where they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion._fit import Plain, fit
from companion.attacks import fgsm, lbfgs, minimal_l2
from companion.attacks.sign import loss_gradient
from companion.defences import (
    RandomActivations,
    bpda,
    diagnose,
    distill,
    ensemble_adversarial_training,
    eot,
    quantise,
    substitute,
)
from companion.defences.adversarial import adversarial_loss
from companion.defences.distillation import label_loss, teacher_loss

BOX = (0.0, 1.0)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0, *, inputs: int = 8, classes: int = 3) -> nn.Sequential:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, classes))
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws(seed)) * (1 / parameter.shape[-1]) ** 0.5
    return layers.eval()


@pytest.fixture(scope="module")
def blobs():
    """Three clouds of points in [0, 1]⁸ and their labels."""
    centres = torch.rand(3, 8, generator=draws(1))
    labels = torch.arange(300) % 3
    return (centres[labels] + 0.08 * torch.randn(300, 8, generator=draws(2))).clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained(blobs):
    images, labels = blobs
    run = Plain(0)
    return fit(network(), label_loss(images, labels, 1.0, run), len(images), run, steps=300)


def accuracy(classifier, images, labels) -> float:
    return (classifier(images).argmax(1) == labels).double().mean().item()


# Training


def test_training_makes_a_copy_and_repeats(blobs):
    images, labels = blobs
    begin = network()
    before = [parameter.clone() for parameter in begin.parameters()]
    state = torch.random.get_rng_state()
    first, again, other = (distill(begin, images, labels, steps=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, begin.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[1].weight, other[1].weight)
    assert not first.training and not any(parameter.requires_grad for parameter in first.parameters())


def test_distillation_saturates_and_moves_no_border(blobs, trained):
    images, labels = blobs
    student = distill(network(), images, labels, temperature=20, steps=2000)
    assert accuracy(student, images, labels) > 0.99
    gap = [f(images).topk(2).values.diff(dim=1).abs().median() for f in (trained, student)]
    assert gap[1] > 5 * gap[0]
    slope = [loss_gradient(f, images, labels)[1].abs().amax(1).median() for f in (trained, student)]
    assert slope[1] < 1e-6 * slope[0]
    # Divided by the temperature its gradient is back, and minimal-norm attacks never missed it.
    softened = lambda x: student(x) / 20  # noqa: E731
    assert loss_gradient(softened, images, labels)[1].abs().amax(1).median() > 0.01 * slope[0]
    options = dict(eps=0.3, bounds=BOX)
    masked = accuracy(student, fgsm(student, images, labels, **options), labels)
    assert masked > accuracy(student, fgsm(softened, images, labels, **options), labels) + 0.1
    for attack in (lbfgs, minimal_l2):
        assert accuracy(student, attack(student, images, labels, bounds=BOX), labels) <= 0.01


def test_the_losses_are_the_published_ones(blobs):
    images, labels = blobs
    pupil, teacher, chosen = network(3), network(4), torch.arange(10)
    logits, wanted = pupil(images[:10]) / 7, (teacher(images[:10]) / 7).exp()
    wanted = wanted / wanted.sum(1, keepdim=True)
    log = logits - logits.exp().sum(1, keepdim=True).log()
    by_teacher = teacher_loss(images, teacher, 7.0, Plain())(pupil, chosen)
    torch.testing.assert_close(by_teacher, -(wanted * log).sum(1).mean())
    by_labels = label_loss(images, labels, 7.0, Plain())(pupil, chosen)
    torch.testing.assert_close(by_labels, -log[torch.arange(10), labels[:10]].mean())
    loss = adversarial_loss(images, labels, [], 0.1, BOX, Plain())(pupil, chosen)
    point = images[:10].clone().requires_grad_()
    F.cross_entropy(pupil(point), labels[:10]).backward()
    moved = (images[:10] + 0.1 * point.grad.sign()).clamp(0, 1)
    both = [F.cross_entropy(pupil(x), labels[:10]) for x in (images[:10], moved)]
    torch.testing.assert_close(loss, sum(both) / 2)


def test_the_ensemble_takes_perturbations_from_every_source(blobs, trained):
    images, labels = blobs
    asked = [0, 0]

    def source(index):
        def classifier(x):
            asked[index] += 1
            return x[:, :3]

        return classifier

    options = dict(eps=0.1, steps=60)
    ensemble_adversarial_training(network(), [source(0), source(1)], images, labels, **options)
    assert all(10 <= count <= 30 for count in asked)
    plain = ensemble_adversarial_training(network(), [], images, labels, eps=0.2, steps=1000)
    assert accuracy(plain, images, labels) > 0.98
    held = [accuracy(f, fgsm(f, images, labels, eps=0.2, bounds=BOX), labels) for f in (trained, plain)]
    assert held[1] > held[0] + 0.1


def test_a_substitute_needs_labels_only(blobs, trained):
    images, labels = blobs
    seen = []

    def victim(x):
        seen.append(len(x))
        assert not torch.is_grad_enabled()
        # Any logits will do, as long as the largest is in its place.
        return F.one_hot(trained(x).argmax(1), 3).float()

    found, queries = substitute(network(7), victim, images[:20], rounds=4, steps=100)
    assert queries == sum(seen) == 20 * 2**3
    assert accuracy(found, images, trained(images).argmax(1)) > 0.95
    # Its perturbations transfer to a victim whose gradient is zero everywhere.
    perturbed = fgsm(found, images, labels, eps=0.4, bounds=BOX, keep_failed=True)
    assert accuracy(trained, perturbed, labels) < accuracy(trained, images, labels) - 0.2


# Hidden gradients


def test_quantise_rounds_to_the_nearest_level():
    x = torch.rand(50, 6, generator=draws(), dtype=torch.float64)
    grid = torch.linspace(0, 1, 5, dtype=torch.float64)
    nearest = grid[(x[..., None] - grid).abs().argmin(-1)]
    torch.testing.assert_close(quantise(x), nearest)
    assert (quantise(x) - x).abs().max() <= 0.125
    torch.testing.assert_close(quantise(4 * x - 2, bounds=(-2, 2)), 4 * nearest - 2)
    assert quantise(x.float()).dtype == torch.float32 and quantise(x[:0]).shape == (0, 6)


def test_bpda_has_the_values_of_one_and_the_gradient_of_the_other():
    x = torch.rand(5, 6, generator=draws(), dtype=torch.float64, requires_grad=True)
    passed = bpda(quantise)(x)
    assert torch.equal(passed.detach(), quantise(x.detach()))
    weight = torch.randn(5, 6, generator=draws(1), dtype=torch.float64)
    assert torch.equal(torch.autograd.grad((weight * passed).sum(), x)[0], weight)
    (gradient,) = torch.autograd.grad(bpda(torch.round, torch.sin)(x).sum(), x)
    torch.testing.assert_close(gradient, x.detach().cos())
    # Also where nothing at all can be differentiated.
    array = bpda(lambda point: torch.as_tensor(point.detach().numpy().round()))(x)
    assert torch.autograd.grad(array.sum(), x)[0].eq(1).all()


def test_eot_is_the_mean_of_its_draws():
    random = draws()

    def noisy(x):
        return x[:, :3] * (1 + torch.randn(x[:, :3].shape, generator=random, dtype=x.dtype))

    x = torch.rand(4, 6, generator=draws(1), dtype=torch.float64, requires_grad=True)
    mean = eot(noisy, draws=4000)(x)
    torch.testing.assert_close(mean, x[:, :3], rtol=0, atol=5 / math.sqrt(4000))
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    torch.testing.assert_close(gradient[:, :3], torch.ones(4, 3).double(), rtol=0, atol=5 / math.sqrt(4000))
    single = torch.autograd.grad(eot(noisy, draws=1)(x).sum(), x)[0]
    assert (single[:, :3] - 1).abs().max() > 0.3
    assert eot(noisy)(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("rows, calls", [(450, [4 * 450] * 2), (3000, [3000] * 8), (2, [16])])
def test_eot_makes_many_draws_of_a_large_batch_in_several_calls(rows, calls):
    seen = []

    def noting(x):
        seen.append(len(x))
        return x.flatten(1)[:, :3] + len(seen)

    x = torch.rand(rows, 1, 11, 11, generator=draws())
    torch.testing.assert_close(eot(noting, draws=8)(x), x.flatten(1)[:, :3] + (len(calls) + 1) / 2)
    assert seen == calls


def test_random_activations_keep_the_mean_and_the_seed(trained, blobs):
    x = blobs[0][:20]
    first, again = RandomActivations(trained, seed=3), RandomActivations(trained, seed=3)
    one = first(x)
    assert torch.equal(one, again(x)) and not torch.equal(one, first(x))
    # One layer, linear after it: the expectation is the network itself.
    many = eot(RandomActivations(trained, keep=0.5), draws=4000)(x)
    spread = eot(RandomActivations(trained, keep=0.5), draws=1)(x) - trained(x)
    torch.testing.assert_close(many, trained(x), rtol=0, atol=5 * spread.abs().max().item() / math.sqrt(4000))


def test_plain_gradients_do_not_see_through_and_bpda_does(trained, blobs):
    images, labels = blobs
    hidden = lambda x: trained(quantise(x, levels=9))  # noqa: E731
    through = lambda x: trained(bpda(lambda p: quantise(p, levels=9))(x))  # noqa: E731
    options = dict(eps=0.4, steps=20, bounds=BOX)
    right = accuracy(hidden, images, labels)
    assert accuracy(hidden, fgsm(hidden, images, labels, **options), labels) == right > 0.98
    assert accuracy(hidden, fgsm(through, images, labels, **options), labels) < 0.5


# The checklist


def test_an_honest_network_has_no_symptom(trained, blobs):
    images, labels = blobs
    others = {"another network": fgsm(network(9), images, labels, eps=0.3, bounds=BOX, keep_failed=True)}
    found = diagnose(trained, images, labels, eps=0.3, bounds=BOX, black_box=others, samples=50)
    assert not found.masked and len(found.symptoms) == 5, found
    assert found.flat == 0 and found.rows == int((trained(images).argmax(1) == labels).sum())
    assert found.rates["unbounded"] >= 0.98


def test_every_symptom_is_seen_where_it_is(trained, blobs):
    images, labels = blobs
    hidden = lambda x: trained(quantise(x, levels=9))  # noqa: E731
    others = {"undefended": fgsm(trained, images, labels, eps=0.4, bounds=BOX, keep_failed=True)}
    found = diagnose(hidden, images, labels, eps=0.4, bounds=BOX, black_box=others, samples=20)
    for symptom in ("unbounded attack short of 100 %", "black box beats white box", "loss flat"):
        assert found.symptoms[symptom], found
    assert found.flat == 1 and found.rates["iterated"] == 0

    # A wall of saturation that small steps cannot climb and noise gets behind.
    def wall(x):
        return torch.stack([torch.zeros_like(x[:, 0]), 1e4 * (x[:, 0] > 0.6).to(x) - 5e3 + 0 * x[:, 0]], 1)

    middle = torch.full((50, 2), 0.5)
    found = diagnose(wall, middle, torch.zeros(50, dtype=torch.long), eps=0.3, bounds=BOX, samples=100)
    assert found.symptoms["random search beats gradient"] and found.symptoms["loss flat"]

    # One large step lands behind the wall, small ones are turned back before it.
    def bump(x):
        first = x[:, 0]
        return torch.stack([0 * first, 3 * torch.cos(40 * (first - 0.5)) - 4 + 9 * (first > 0.75)], 1)

    start = torch.full((50, 2), 0.49)
    found = diagnose(bump, start, torch.zeros(50, dtype=torch.long), eps=0.3, bounds=BOX, steps=40, samples=1)
    assert found.symptoms["iterative worse than single-step"], found


def test_the_deployed_answer_decides(trained, blobs):
    images, labels = blobs
    found = diagnose(trained, images, labels, eps=0.3, bounds=BOX, samples=2, answer=lambda x: 0 * trained(x))
    assert found.rows == int((labels == 0).sum()) and set(found.rates.values()) == {0.0}


def test_empty_batches(trained, blobs):
    images, labels = blobs
    nothing = diagnose(trained, images[:0], labels[:0], eps=0.1, bounds=BOX)
    assert nothing == ({}, {}, 0.0, 0) and not nothing.masked
    assert RandomActivations(trained)(images[:0]).shape == (0, 3)
    assert bpda(quantise)(images[:0]).shape == (0, 8)


IMAGES, LABELS = torch.rand(6, 8, generator=draws(5)), torch.arange(6) % 3


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: distill(3, IMAGES, LABELS), "network must be a torch module"),
        (lambda: distill(network(), IMAGES, LABELS, temperature=0), "temperature must be one positive"),
        (lambda: distill(network(), IMAGES, LABELS[:2]), "labels must hold 6 integer labels"),
        (lambda: distill(network(), IMAGES * torch.nan, LABELS), "images must not contain NaN"),
        (lambda: distill(network(), IMAGES, LABELS, steps=0), "steps must be an integer of at least 1"),
        (lambda: distill(network(), IMAGES, LABELS, batch_size=0), "batch_size must be an integer"),
        (lambda: distill(network(), IMAGES, LABELS, seed=-1), "seed must be an integer of at least 0"),
        (lambda: distill(network(), IMAGES[:0], LABELS[:0]), "images must hold at least one"),
        (lambda: ensemble_adversarial_training(network(), [], IMAGES, LABELS, eps=0), "eps must be one positive"),
        (lambda: ensemble_adversarial_training(network(), [3], IMAGES, LABELS, eps=1), r"static\[0\] must be callable"),
        (lambda: ensemble_adversarial_training(network(), [], 3 * IMAGES, LABELS, eps=1), "bounds = .* must hold"),
        (lambda: substitute(network(), network(), IMAGES[:0]), "seeds must hold at least one image"),
        (lambda: substitute(network(), network().train(), IMAGES), "victim must be in evaluation mode"),
        (lambda: substitute(network(), lambda x: x[:, 0], IMAGES), "classifier must return logits of shape"),
        (lambda: substitute(network(), network(), IMAGES, step=0), "step must be one positive"),
        (lambda: substitute(network(), network(), IMAGES, rounds=0), "rounds must be an integer"),
        (lambda: quantise(IMAGES, levels=1), "levels must be an integer of at least 2, got 1"),
        (lambda: quantise(IMAGES, bounds=(1, 0)), "bounds must satisfy low < high"),
        (lambda: RandomActivations(network(), keep=1.0), "keep must lie strictly between 0 and 1"),
        (lambda: RandomActivations(nn.Sequential(nn.Linear(2, 2)).eval()), "must be an nn.Sequential with ReLU"),
        (lambda: RandomActivations(network().train()), "network must be in evaluation mode"),
        (lambda: bpda(3), "forward must be callable, got 3"),
        (lambda: bpda(quantise, 3), "backward must be callable, got 3"),
        (lambda: bpda(lambda x: x[:2])(IMAGES), r"forward must return shape \(6, 8\)"),
        (lambda: eot(3), "classifier must be callable"),
        (lambda: eot(network(), draws=0), "draws must be an integer of at least 1"),
        (lambda: diagnose(network(), IMAGES, LABELS, eps=0.1, bounds=None), "bounds must be a pair"),
        (lambda: diagnose(network(), IMAGES, LABELS, eps=0, bounds=BOX), "eps must be one positive"),
        (lambda: diagnose(network(), IMAGES, LABELS, eps=0.1, bounds=BOX, samples=0), "samples must be an integer"),
        (lambda: diagnose(network(), IMAGES, LABELS, eps=0.1, bounds=BOX, steps=1), "steps must be an integer"),
        (
            lambda: diagnose(network(), IMAGES, LABELS, eps=0.1, bounds=BOX, black_box={"a": IMAGES[:2]}),
            r"black_box\['a'\] must have the shape of x",
        ),
        (
            lambda: diagnose(lambda x: network()(x).detach(), IMAGES, network()(IMAGES).argmax(1), eps=1, bounds=BOX),
            "classifier must be differentiable",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
