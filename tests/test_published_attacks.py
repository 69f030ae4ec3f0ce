"""The attacks of Table 1: step by step beside small NumPy versions of what was published, and kind to bad input."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from companion.attacks import fgsm, jsma, lbfgs, logit_ensemble, mi_fgsm, minimal_l2
from companion.attacks.penalty import minimise
from companion.attacks.saliency import best_pair

DIM, CLASSES, BOX = 12, 4, (0.0, 1.0)
RANDOM = np.random.default_rng(0)
HIDDEN, INTO = RANDOM.normal(size=(9, DIM)), RANDOM.normal(size=(CLASSES, 9)) * 2
ATTACKS = {
    "fgsm": lambda *a, **o: fgsm(*a, **{"eps": 0.3, "bounds": BOX} | o),
    "iterated": lambda *a, **o: fgsm(*a, **{"eps": 0.3, "steps": 8, "bounds": BOX} | o),
    "mi_fgsm": lambda *a, **o: mi_fgsm(*a, **{"eps": 0.3, "bounds": BOX} | o),
    "l2 steps": lambda *a, **o: mi_fgsm(*a, **{"eps": 1.0, "norm": "l2", "bounds": BOX} | o),
    "jsma": lambda *a, **o: jsma(*a, **{"bounds": BOX, "max_fraction": 1.0} | o),
    "lbfgs": lambda *a, **o: lbfgs(*a, **{"bounds": BOX} | o),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def model(x: torch.Tensor) -> torch.Tensor:
    hidden = torch.as_tensor(HIDDEN, dtype=x.dtype, device=x.device)
    return torch.tanh((x.flatten(1) - 0.5) @ hidden.T) @ torch.as_tensor(INTO, dtype=x.dtype, device=x.device).T


def logits(x: np.ndarray) -> np.ndarray:
    """The same network of one image in NumPy, and below its Jacobian (classes, pixels)."""
    return INTO @ np.tanh(HIDDEN @ (x - 0.5))


def jacobian(x: np.ndarray) -> np.ndarray:
    return (INTO * (1 - np.tanh(HIDDEN @ (x - 0.5)) ** 2)) @ HIDDEN


def loss_gradient(x: np.ndarray, label: int) -> np.ndarray:
    z = np.exp(logits(x) - logits(x).max())
    return (z / z.sum() - np.eye(CLASSES)[label]) @ jacobian(x)


def images(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.as_tensor(np.random.default_rng(1).uniform(size=(n, 1, 3, 4)))
    return x, model(x).argmax(1)


# Step by step


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("steps", "decay"), [(1, 0.0), (6, 0.0), (6, 1.0), (6, 0.7)])
def test_sign_attacks_take_the_published_steps(steps, decay, targeted):
    x, y = images()
    wanted = (y + 1) % CLASSES if targeted else y
    eps = 0.25
    expected = []
    for image, label in zip(x.flatten(1).numpy(), wanted.tolist(), strict=True):
        point, velocity = image.copy(), np.zeros(DIM)
        for _ in range(steps):
            gradient = loss_gradient(point, label)
            velocity = decay * velocity + gradient / np.abs(gradient).sum()
            point = point + (-1 if targeted else 1) * eps / steps * np.sign(velocity)
            point = np.clip(np.clip(point, image - eps, image + eps), *BOX)
        expected.append(point)
    options = dict(eps=eps, steps=steps, bounds=BOX, targeted=targeted, keep_failed=True)
    found = mi_fgsm(model, x, wanted, decay=decay, **options) if decay else fgsm(model, x, wanted, **options)
    np.testing.assert_allclose(found.flatten(1).numpy(), np.stack(expected), atol=1e-12)


def test_l2_steps_are_along_the_gradient():
    x, y = images(20)
    gradient = np.stack([loss_gradient(i, j) for i, j in zip(x.flatten(1).numpy(), y.tolist(), strict=True)])
    expected = x.flatten(1).numpy() + 0.1 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    found = fgsm(model, x, y, eps=0.1, norm="l2", keep_failed=True)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-12)
    far = fgsm(model, x, y, eps=0.5, steps=20, step_size=0.2, norm="l2", keep_failed=True)
    assert (far - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-12


def test_the_last_iterate_that_fools_is_returned():
    """Too long a last step leaves the other class again: what fooled before it is not lost."""
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])

    def ring(point):
        bump = torch.exp(-((point[:, :1] - 0.5) ** 2) * 20) - 0.4
        return torch.cat([torch.zeros_like(bump), bump], 1)

    options = dict(eps=1.0, steps=2, step_size=0.5)
    kept = fgsm(ring, x, y, keep_failed=True, **options)
    found = fgsm(ring, x, y, **options)
    assert found.item() == 0.5 and ring(found).argmax(1).item() == 1
    assert ring(kept).argmax(1).item() in (0, 1)


def saliency_attack(image: np.ndarray, label: int, target: int, theta: float, limit: int, targeted: bool):
    """Algorithms 2 and 3 of Papernot et al. for one image, with two loops over the pixels."""
    point, room = image.copy(), np.ones(DIM, dtype=bool)
    for _ in range(limit):
        room &= point < 1 if theta > 0 else point > 0
        rise = jacobian(point)[target] * np.sign(theta)
        others = (jacobian(point).sum(0) - jacobian(point)[target]) * np.sign(theta)
        best, pair = 0.0, None
        for p, q in itertools.combinations(np.flatnonzero(room), 2):
            a, b = rise[p] + rise[q], others[p] + others[q]
            if a > 0 and b < 0 and -a * b > best:
                best, pair = -a * b, [p, q]
        if pair is None:
            return image
        point[pair] = np.clip(point[pair] + theta, 0, 1)
        answer = logits(point).argmax()
        if (answer == target) if targeted else (answer != label):
            return point
    return image


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
def test_jsma_takes_the_published_steps(theta, targeted):
    x, y = images()
    order = model(x).argsort(1, descending=True)
    target = (y + 1) % CLASSES if targeted else order[:, 1]
    rows = zip(x.flatten(1).numpy(), y.tolist(), target.tolist(), strict=True)
    expected = np.stack([saliency_attack(i, j, t, theta, DIM // 2, targeted) for i, j, t in rows])
    found = jsma(
        model, x, target if targeted else y, bounds=BOX, theta=theta, max_fraction=1.0, targeted=targeted
    ).flatten(1)
    assert (expected != x.flatten(1).numpy()).any(1).mean() > 0.2
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["normal", "ties", "opposed", "equal"])
def test_best_pair_is_the_best_of_all_pairs(kind):
    draws = torch.Generator().manual_seed(0)
    rise, fall = torch.randn(2, 300, 11, generator=draws, dtype=torch.float64)
    if kind == "ties":
        rise, fall = rise.round(), fall.round()
    if kind == "opposed":
        fall = -rise + 0.3 * fall
    if kind == "equal":
        fall = rise
    room = torch.rand(300, 11, generator=draws) < 0.6
    pair, found = best_pair(rise, fall, room)
    for row in range(300):
        scores = [
            ((rise[row, p] + rise[row, q]) * (fall[row, p] + fall[row, q])).item()
            for p, q in itertools.combinations(torch.nonzero(room[row])[:, 0].tolist(), 2)
            if rise[row, p] + rise[row, q] > 0 and fall[row, p] + fall[row, q] > 0
        ]
        assert bool(found[row]) == bool(scores)
        if scores:
            p, q = pair[row].tolist()
            assert p != q and room[row, p] and room[row, q]
            score = (rise[row, p] + rise[row, q]) * (fall[row, p] + fall[row, q])
            assert score.item() == pytest.approx(max(scores), rel=1e-12)


def test_lbfgs_minimises_like_scipy():
    """Smooth functions in a box: the same minima as L-BFGS-B finds one by one."""
    draws = np.random.default_rng(2)
    n = 25
    root, centre = draws.normal(size=(n, DIM, DIM)), draws.normal(size=(n, DIM))
    curve = torch.as_tensor(root @ root.transpose(0, 2, 1) + 0.1 * np.eye(DIM))
    middle = torch.as_tensor(centre)

    def objective(points, rows):
        away = points - middle[rows]
        pull = torch.einsum("nij,nj->ni", curve[rows], away)
        return 0.5 * (away * pull).sum(1) + 0.1 * away.pow(4).sum(1), pull + 0.4 * away.pow(3)

    start = torch.full((n, DIM), 0.5, dtype=torch.float64)
    found = objective(minimise(objective, start, steps=200, bounds=BOX, tolerance=1e-12), torch.arange(n))[0]
    for row in range(n):
        only = torch.tensor([row])

        def one(point, only=only):
            value, gradient = objective(torch.as_tensor(point)[None], only)
            return value.item(), gradient[0].numpy()

        best = scipy.optimize.minimize(one, np.full(DIM, 0.5), jac=True, method="L-BFGS-B", bounds=[BOX] * DIM)
        assert found[row].item() == pytest.approx(best.fun, rel=1e-6)


def test_lbfgs_is_as_near_as_szegedys_attack_one_by_one():
    """The published attack with SciPy: for each image bisect c, minimise c ‖r‖² + loss in the box."""
    x, y = images(12)
    target = (y + 1) % CLASSES
    found = (lbfgs(model, x, target, targeted=True, bounds=BOX, searches=14) - x).flatten(1).norm(dim=1)
    for image, label, radius in zip(x.flatten(1).numpy(), target.tolist(), found.tolist(), strict=True):

        def objective(point, c, image=image, label=label):
            z = logits(point)
            loss = np.log(np.exp(z - z.max()).sum()) + z.max() - z[label]
            return ((point - image) ** 2).sum() + c * loss, 2 * (point - image) + c * loss_gradient(point, label)

        low, high, best = 0.0, np.inf, np.inf
        c = 1.0
        for _ in range(14):
            end = scipy.optimize.minimize(objective, image, (c,), jac=True, method="L-BFGS-B", bounds=[BOX] * DIM).x
            if logits(end).argmax() == label:
                high, best = c, min(best, np.linalg.norm(end - image))
            else:
                low = c
            c = 10 * c if high == np.inf else c / 10 if low == 0 else np.sqrt(low * high)
        assert best < np.inf and radius <= 1.02 * best


def test_lbfgs_is_exact_for_two_linear_classes():
    weight = torch.as_tensor(np.random.default_rng(3).normal(size=(2, DIM)))
    x, _ = images(100)
    linear = lambda image: image.flatten(1) @ weight.T  # noqa: E731
    y = linear(x).argmax(1)
    exact = (linear(x)[:, 0] - linear(x)[:, 1]).abs() / (weight[0] - weight[1]).norm()
    ratio = (lbfgs(linear, x, y, searches=20) - x).flatten(1).norm(dim=1) / exact
    assert ratio.min() > 1 - 1e-9 and ratio.max() < 1.02
    box = (lbfgs(linear, x, y, searches=20, bounds=BOX) - x).flatten(1).norm(dim=1)
    best = (minimal_l2(linear, x, y, bounds=BOX) - x).flatten(1).norm(dim=1)
    assert (box <= 1.02 * best).all() and (box >= exact * (1 - 1e-9)).all()


def test_ensemble_is_the_weighted_mean_of_logits():
    x, _ = images(5)
    other = lambda image: -2 * model(image)  # noqa: E731
    torch.testing.assert_close(logit_ensemble([model, other], weights=[0.75, 0.25])(x), 0.25 * model(x))
    torch.testing.assert_close(logit_ensemble([model, other])(x), -0.5 * model(x))
    assert not torch.allclose(logit_ensemble([model, other], weights=[0.6, 0.4])(x), 0.25 * model(x))
    for wrong in ([0.5], [0.5, 0.6], [2.0, -1.0], 1.0):
        with pytest.raises(ValueError, match="weights must"):
            logit_ensemble([model, other], weights=wrong)
    with pytest.raises(ValueError, match="classifiers must hold at least one"):
        logit_ensemble([])
    with pytest.raises(ValueError, match=r"classifiers\[0\] must be callable"):
        logit_ensemble([3])


# What holds for all of them


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fooled_rows_are_fooled_and_the_others_unchanged(attack, dtype):
    x, y = images()
    x = x.to(dtype)
    y = y.clone()
    y[:5] = (y[:5] + 1) % CLASSES
    before = x.clone()
    found = attack(model, x, y)
    assert torch.equal(x, before) and found.dtype == dtype and found.shape == x.shape
    assert torch.equal(found[:5], x[:5])
    assert found.min() >= 0 and found.max() <= 1 and found.isfinite().all()
    changed = (found != x).flatten(1).any(1)
    fooled = model(found).argmax(1) != y
    assert torch.equal(changed[5:], fooled[5:])
    assert changed.double().mean() > 0.2


@every_attack
def test_targets_are_reached_where_anything_changed(attack):
    x, y = images()
    target = (y + 2) % CLASSES
    target[:5] = y[:5]
    found = attack(model, x, target, targeted=True)
    assert torch.equal(found[:5], x[:5])
    changed = (found != x).flatten(1).any(1)
    assert changed.any() and (model(found).argmax(1) == target)[changed].all()
    assert (model(found).argmax(1) != target)[~changed][5:].all()


@every_attack
def test_a_row_does_not_depend_on_its_batch(attack):
    x, y = images(12)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(attack(model, x, y), alone, rtol=1e-6, atol=1e-9)


@every_attack
def test_zero_gradients_give_neither_nan_nor_change(attack):
    x, y = images(6)

    def constant(image):
        return image.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0], dtype=image.dtype)

    for classifier in (constant, lambda image: 1e4 * constant(image), lambda image: constant(image.round())):
        assert torch.equal(attack(classifier, x, torch.zeros_like(y)), x)


def test_a_saturated_softmax_stops_the_sign_attacks_only():
    x, y = images()
    saturated = lambda image: 1e5 * model(image)  # noqa: E731
    moved = (fgsm(saturated, x.float(), y, eps=0.3, bounds=BOX) != x.float()).flatten(1).any(1)
    assert moved.double().mean() < 0.05 < 0.2 < (fgsm(model, x, y, eps=0.3) != x).flatten(1).any(1).double().mean()
    for attack in (lbfgs, minimal_l2):
        found = attack(saturated, x.float(), y, bounds=BOX)
        assert (saturated(found).argmax(1) != y).double().mean() > 0.95


@every_attack
def test_logits_may_be_infinite_or_all_negative(attack):
    x, y = images()
    shifted = lambda image: model(image).log_softmax(1) - 5  # noqa: E731
    assert (shifted(attack(shifted, x, y)).argmax(1) != y).double().mean() > 0.2

    def never(image):
        z = model(image)
        return torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], 1)

    assert attack(never, x, y).isfinite().all()


@every_attack
def test_empty_batch_and_two_classes(attack):
    x, y = images()
    assert attack(model, x[:0], y[:0]).shape == (0, 1, 3, 4)
    binary = lambda image: model(image)[:, :2]  # noqa: E731
    assert (binary(attack(binary, x, binary(x).argmax(1))).argmax(1) != binary(x).argmax(1)).any()


@every_attack
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=torch.zeros(4)), r"x must be a batch of shape \(n, \*image\)"),
        (dict(x=torch.full((4, 1, 3, 4), torch.nan)), "x must not contain NaN"),
        (dict(x=torch.full((4, 1, 3, 4), torch.inf)), "x must be finite"),
        (dict(x=torch.full((4, 1, 3, 4), 2.0)), "bounds = .* must hold x"),
        (dict(y=torch.zeros(3, dtype=torch.long)), "y must hold 4 integer labels"),
        (dict(y=torch.full((4,), -1)), "y must hold labels of at least 0"),
        (dict(y=torch.full((4,), 9)), "y must hold labels below K = 4"),
        (dict(classifier=nn.Sequential(nn.Flatten(), nn.Linear(12, 4))), "classifier must be in evaluation mode"),
        (dict(classifier=3), "classifier must be callable"),
        (dict(classifier=lambda x: x.flatten(1)[:, :1]), r"classifier must return logits of shape \(\d, K\)"),
        (dict(classifier=lambda x: x.flatten(1) * torch.nan), "classifier must return logits without NaN"),
        (dict(classifier=lambda x: (x.flatten(1) > 2).double()), "classifier must be differentiable"),
        (dict(classifier=lambda x: model(x.detach())), "classifier must be differentiable"),
        (dict(bounds=(1, 0)), "bounds must satisfy low < high"),
        (dict(bounds=3), "bounds must be None or a pair"),
    ],
)
def test_bad_input_is_named(attack, change, message):
    x, y = images(4)
    arguments = dict(classifier=model, x=x, y=y) | change
    if "classifier" in change and callable(change["classifier"]) and "differentiable" in message:
        arguments["y"] = change["classifier"](x).argmax(1)
    positional = [arguments.pop(name) for name in ("classifier", "x", "y")]
    with pytest.raises(ValueError, match=message):
        attack(*positional, **arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: fgsm(model, x, y, eps=0), "eps must be one positive number"),
        (lambda x, y: fgsm(model, x, y, eps=0.1, steps=0), "steps must be an integer of at least 1"),
        (lambda x, y: fgsm(model, x, y, eps=0.1, step_size=-1), "step_size must be one positive number"),
        (lambda x, y: fgsm(model, x, y, eps=0.1, norm="l1"), "norm must be one of linf, l2, got 'l1'"),
        (lambda x, y: mi_fgsm(model, x, y, eps=0.1, decay=-1), "decay must be at least 0"),
        (lambda x, y: jsma(model, x, y, bounds=None), "bounds must be a pair"),
        (lambda x, y: jsma(model, x, y, bounds=BOX, theta=0), "theta must not be 0"),
        (lambda x, y: jsma(model, x, y, bounds=BOX, max_fraction=0), r"max_fraction must lie in \(0, 1\]"),
        (lambda x, y: jsma(model, x, y, bounds=BOX, max_fraction=1.1), r"max_fraction must lie in \(0, 1\]"),
        (lambda x, y: lbfgs(model, x, y, searches=0), "searches must be an integer of at least 1"),
        (lambda x, y: lbfgs(model, x, y, steps=0), "steps must be an integer of at least 1"),
        (lambda x, y: lbfgs(model, x, y, initial_c=0), "initial_c must be one positive number"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*images(3))


def test_jsma_takes_seconds_on_colour_images():
    """100 images of 3 × 32 × 32, each towards its least likely class."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(32 * 49, 10)).eval()
    x = torch.rand(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = network(x).argmin(1)
    start = time.process_time()
    found = jsma(network, x, target, targeted=True, bounds=BOX)
    seconds = time.process_time() - start
    assert (network(found).argmax(1) == target).double().mean() > 0.5
    assert seconds < 60
