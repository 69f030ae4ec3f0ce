"""Minimal-norm attacks: exact on linear classifiers, sound on every other, and kind to bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from companion.attacks import deepfool, minimal_l2

ATTACKS = [deepfool, minimal_l2]
DIM, CLASSES = 20, 5


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(n, 1, 4, 5, dtype=dtype, generator=draws(1))


def linear(classes: int = CLASSES, dtype=torch.float64) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(DIM, classes, dtype=dtype)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=dtype, generator=draws(2))
    return model


def network(dtype=torch.float64) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(DIM, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws(3)) * (2 / parameter.shape[-1]) ** 0.5
    return model.to(dtype).eval()


@pytest.mark.parametrize("attack", ATTACKS)
def test_exact_for_two_linear_classes(attack):
    """The distance to a hyperplane, for 10,000 points: within 0.1 % for 99.9 % of them, never below."""
    model, x = linear(2), images(10_000)
    logits = model(x)
    weight = model[1].weight
    exact = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm()
    options = {"overshoot": 1e-4} if attack is deepfool else {}
    adversarial = attack(model, x, logits.argmax(1), **options)
    assert (model(adversarial).argmax(1) != logits.argmax(1)).all()
    ratio = (adversarial - x).flatten(1).norm(dim=1) / exact
    # Below only by the rounding of x + r in float64.
    assert ratio.min() > 1 - 1e-9
    assert (ratio < 1.001).double().mean() >= 0.999


def test_minimal_l2_is_exact_for_many_linear_classes():
    model, x = linear(), images(2000)
    logits = model(x)
    y = logits.argmax(1)
    weight = model[1].weight
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    exact = ((logits.gather(1, y[:, None]) - logits) / lengths).scatter(1, y[:, None], torch.inf).amin(1)
    ratio = (minimal_l2(model, x, y) - x).flatten(1).norm(dim=1) / exact
    assert ratio.min() > 1 - 1e-9
    assert (ratio < 1.001).double().mean() >= 0.999


def metrics(n: int) -> torch.Tensor:
    """(n, DIM, DIM) positive definite matrices with eigenvalues from 1e-3 to 10, another one for every row."""
    axes = torch.linalg.qr(torch.randn(n, DIM, DIM, dtype=torch.float64, generator=draws(4)))[0]
    return axes @ torch.diag_embed(torch.logspace(-3, 1, DIM, dtype=torch.float64)) @ axes.mT


def test_minimal_l2_is_exact_in_a_metric():
    """The distance to a hyperplane in √(rᵀMr) is gap / √(wᵀM⁻¹w), another one for every row."""
    model, x, metric = linear(2), images(2000), metrics(2000)
    logits = model(x)
    normal = model[1].weight[0] - model[1].weight[1]
    exact = (logits[:, 0] - logits[:, 1]).abs() / (torch.linalg.solve(metric, normal) @ normal).sqrt()
    adversarial = minimal_l2(model, x, logits.argmax(1), steps=12, metric=metric)
    assert (model(adversarial).argmax(1) != logits.argmax(1)).all()
    step = (adversarial - x).flatten(1)
    ratio = torch.einsum("ni,nij,nj->n", step, metric, step).sqrt() / exact
    assert ratio.min() > 1 - 1e-9
    assert (ratio < 1.001).double().mean() >= 0.999


def test_minimal_l2_in_a_metric_is_minimal_l2_in_other_coordinates():
    model, x = network(), images(100)
    y, metric = model(x).argmax(1), metrics(1).expand(100, -1, -1)
    root = torch.linalg.cholesky(metric[0])

    def moved(points):
        return model(torch.linalg.solve_triangular(root.mT, points.mT, upper=True).mT.reshape(-1, *x.shape[1:]))

    plain = minimal_l2(moved, x.flatten(1) @ root, y)
    found = minimal_l2(model, x, y, metric=metric).flatten(1) @ root
    # The two round differently, and a search may then end in another place.
    assert ((found - plain).norm(dim=1) < 1e-6).double().mean() > 0.8
    lengths = [(points - x.flatten(1) @ root).norm(dim=1) for points in (plain, found)]
    assert lengths[1].mean().item() == pytest.approx(lengths[0].mean().item(), rel=0.01)


def test_start_is_improved_on_in_a_metric():
    model, x, metric = network(), images(50), metrics(50)
    y = model(x).argmax(1)
    length = lambda points: torch.einsum("ni,nij,nj->n", points, metric, points).sqrt()  # noqa: E731
    plain = minimal_l2(model, x, y)
    found = minimal_l2(model, x, y, steps=5, start=plain, metric=metric)
    assert (length((found - x).flatten(1)) <= length((plain - x).flatten(1)) * (1 + 1e-9)).all()
    assert length((found - x).flatten(1)).mean() < 0.5 * length((plain - x).flatten(1)).mean()


def test_a_row_whose_metric_is_not_positive_definite_is_given_up():
    model, x, metric = network(), images(6), metrics(6)
    y, metric[2], metric[4] = model(x).argmax(1), -metric[2], 0.0
    adversarial = minimal_l2(model, x, y, metric=metric)
    assert (adversarial == x).flatten(1).all(1).tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(metric=torch.eye(DIM)), r"metric must have shape \(n, m, m\) = \(4, 20, 20\)"),
        (dict(metric=torch.full((4, DIM, DIM), torch.nan)), "metric must not contain NaN"),
        (dict(metric=metrics(4), bounds=(0, 1)), "bounds must be None beside a metric"),
    ],
)
def test_a_bad_metric_is_named(change, message):
    x = images(4)
    with pytest.raises(ValueError, match=message):
        minimal_l2(linear(), x, linear()(x).argmax(1), **change)


def test_minimal_l2_solves_the_box_constrained_problem():
    """One linear boundary and the box [0, 1]: a quadratic programme, solved here by bisection on its multiplier."""
    model, x = linear(2), images(300)
    y = model(x).argmax(1)
    weight = model[1].weight
    normal = (weight[1 - y] - weight[y]).reshape(x.shape)
    low, high = torch.zeros(300, dtype=x.dtype), torch.full((300,), 1e3, dtype=x.dtype)
    for _ in range(80):
        middle = (low + high) / 2
        logits = model((x + middle[:, None, None, None] * normal).clamp(0, 1))
        over = logits.argmax(1) != y
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    best = (x + high[:, None, None, None] * normal).clamp(0, 1)
    feasible = model(best).argmax(1) != y
    exact = (best - x).flatten(1).norm(dim=1)[feasible]
    adversarial = minimal_l2(model, x, y, bounds=(0, 1))
    ratio = (adversarial - x).flatten(1).norm(dim=1)[feasible] / exact
    assert feasible.sum() > 100
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert ratio.min() > 1 - 1e-9 and (ratio < 1.001).double().mean() >= 0.99


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_fools_a_network_inside_the_box(attack, dtype, bounds):
    model, x = network(dtype), images(200, dtype)
    y = model(x).argmax(1)
    adversarial = attack(model, x, y, bounds=bounds)
    assert adversarial.dtype == dtype and adversarial.shape == x.shape and adversarial.isfinite().all()
    changed = (adversarial != x).flatten(1).any(1)
    assert (changed == (model(adversarial).argmax(1) != y)).all()
    assert changed.double().mean() > 0.95
    if bounds:
        assert adversarial.min() >= 0 and adversarial.max() <= 1
    # The verdict of a row does not hang on the batch in which it is asked for.
    alone = torch.cat([model(row[None]).argmax(1) for row in adversarial])
    assert ((alone != y) == changed).all()


def test_minimal_l2_beats_deepfool():
    model, x = network(), images(300)
    y = model(x).argmax(1)
    by_deepfool = (deepfool(model, x, y) - x).flatten(1).norm(dim=1)
    by_minimal = (minimal_l2(model, x, y) - x).flatten(1).norm(dim=1)
    assert by_minimal.mean() < 0.95 * by_deepfool.mean()
    # Both are local searches: here and there DeepFool falls into the better minimum.
    assert (by_minimal <= by_deepfool * 1.02).double().mean() > 0.9


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_row_does_not_depend_on_its_batch(attack):
    model, x = network(), images(30)
    y = model(x).argmax(1)
    together = attack(model, x, y)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(10)] + [attack(model, x[10:], y[10:])])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attack", ATTACKS)
def test_input_stays_as_it_was_and_fooled_rows_are_left_alone(attack):
    model, x = network(), images(10)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % CLASSES
    before = x.clone()
    adversarial = attack(model, x, y)
    assert torch.equal(x, before) and adversarial is not x
    assert torch.equal(adversarial[:4], x[:4])
    assert (adversarial[4:] != x[4:]).any()


@pytest.mark.parametrize("attack", ATTACKS)
def test_constant_classifier_cannot_be_fooled(attack):
    """Zero gradients lead neither to NaN nor to an error."""
    x = images(5)

    def constant(x):
        return x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0], dtype=x.dtype)

    assert torch.equal(attack(constant, x, torch.zeros(5, dtype=torch.long)), x)


def test_flat_spots_are_escaped():
    """A ReLU that is dead around the clean point: DeepFool sees no gradient, the trust region still gets out."""
    origin = torch.zeros(1, 3, dtype=torch.float64)

    def plateau(x):
        distance = x.norm(dim=1) - 1
        return torch.stack([torch.zeros_like(distance) + 0.1, distance.relu()], 1)

    adversarial = minimal_l2(plateau, origin, torch.zeros(1, dtype=torch.long), steps=60)
    assert adversarial.norm().item() == pytest.approx(1.1, rel=1e-3)


def test_start_is_improved_on_and_never_lost():
    model, x = network(), images(50)
    y = model(x).argmax(1)
    good = minimal_l2(model, x, y)
    again = minimal_l2(model, x, y, steps=1, start=good)
    radius = (good - x).flatten(1).norm(dim=1)
    assert ((again - x).flatten(1).norm(dim=1) <= radius * (1 + 1e-9)).all()


def test_more_steps_are_no_worse():
    model, x = network(), images(200)
    y = model(x).argmax(1)
    adversarial = [minimal_l2(model, x, y, steps=steps) for steps in (10, 30, 150)]
    assert all((model(a).argmax(1) != y).all() for a in adversarial)
    few, some, many = ((a - x).flatten(1).norm(dim=1).mean().item() for a in adversarial)
    assert few > some > 0.999 * many


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 37, 100])
def test_no_row_gets_more_gradients_than_steps(steps, classes):
    model, x, spent = network(), images(8), []

    def counted(points):
        logits = model(points)[:, :classes]
        if logits.requires_grad:
            logits.register_hook(lambda gradient: spent.append(len(gradient)))
        return logits

    for row in x.split(1):
        spent.clear()
        minimal_l2(counted, row, counted(row).argmax(1), steps=steps)
        assert 1 <= sum(spent) <= steps


def test_race_follows_the_nearest_boundary_and_not_the_largest_logit():
    """Class 1 has the larger logit but a flat gradient; the boundary to class 2 is ten times nearer."""
    x = torch.zeros(1, 2, dtype=torch.float64)

    def classifier(x):
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] - 1.0, 20 * x[:, 1] - 2.0], 1)

    adversarial = minimal_l2(classifier, x, torch.tensor([0]), steps=10)
    assert adversarial.norm().item() == pytest.approx(0.1, rel=1e-3)


def test_minimal_l2_beats_ddn_at_a_tenth_of_its_gradients():
    """Rony et al.'s attack as its paper states it, without quantisation."""
    model, x = network(), images(100)
    y = model(x).argmax(1)
    delta, radius, best = torch.zeros_like(x), torch.ones(100, dtype=x.dtype), torch.full((100,), torch.inf).double()
    for step in range(100):
        point = (x + delta).requires_grad_()
        logits = model(point)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), point)
        over, length = logits.argmax(1) != y, delta.flatten(1).norm(dim=1)
        best = torch.where(over, torch.minimum(best, length), best)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / 100)) / 2
        delta = delta + rate * nn.functional.normalize(gradient.flatten(1), dim=1).reshape(x.shape)
        radius = torch.where(over, 0.95 * radius, 1.05 * radius)
        delta = radius[:, None, None, None] * nn.functional.normalize(delta.flatten(1), dim=1).reshape(x.shape)
    found = (minimal_l2(model, x, y, steps=10) - x).flatten(1).norm(dim=1)
    assert found.mean() < best.mean()


@pytest.mark.parametrize("attack", ATTACKS)
def test_logits_may_all_be_negative(attack):
    model, x = network(), images(50)
    y = model(x).argmax(1)
    by_log_softmax = attack(lambda x: model(x).log_softmax(1) - 1, x, y)
    assert (model(by_log_softmax).argmax(1) != y).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_empty_batch(attack):
    assert attack(linear(), images(0), torch.zeros(0, dtype=torch.long)).shape == (0, 1, 4, 5)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=torch.zeros(4)), r"x must be a batch of shape \(n, \*image\)"),
        (dict(x=torch.full((4, 1, 4, 5), torch.nan)), "x must not contain NaN"),
        (dict(x=torch.full((4, 1, 4, 5), torch.inf)), "x must be finite"),
        (dict(y=torch.zeros(3, dtype=torch.long)), "y must hold 4 integer labels"),
        (dict(y=torch.zeros(4)), "y must hold 4 integer labels"),
        (dict(y=torch.full((4,), -1)), "y must hold labels of at least 0"),
        (dict(y=torch.full((4,), 9)), "y must hold labels below K = 5"),
        (dict(classifier=linear().train()), "classifier must be in evaluation mode"),
        (dict(classifier=3), "classifier must be callable"),
        (dict(classifier=lambda x: x.flatten(1)[:, :1]), r"classifier must return logits of shape \(\d, K\)"),
        (dict(classifier=lambda x: x.flatten(1)[:3]), r"classifier must return logits of shape \(\d, K\)"),
        (dict(classifier=lambda x: x.flatten(1) * torch.nan), "classifier must return logits without NaN"),
        (dict(classifier=lambda x: (x.flatten(1) > 2).double()), "classifier must be differentiable"),
        (dict(steps=0), "steps must be an integer of at least 1"),
        (dict(bounds=(1, 0)), "bounds must satisfy low < high"),
        (dict(bounds=(0.0, 0.1)), "bounds = .* must hold x"),
        (dict(bounds=3), "bounds must be None or a pair"),
    ],
)
def test_bad_input_is_named(attack, change, message):
    arguments = dict(classifier=linear(), x=images(4), y=torch.zeros(4, dtype=torch.long)) | change
    if (
        "must be differentiable" not in message
        and "y" not in change
        and "x" not in change
        and "classifier" not in change
    ):
        arguments["y"] = linear()(arguments["x"]).argmax(1)
    positional = [arguments.pop(name) for name in ("classifier", "x", "y")]
    with pytest.raises(ValueError, match=message):
        attack(*positional, **arguments)
