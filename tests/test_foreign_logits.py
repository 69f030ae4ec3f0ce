"""What must hold of a stranger's logits: what changes no label changes no radius; what is no classifier is refused."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from foreign import (
    Autocast,
    Centred,
    Dropout,
    Noisy,
    NoisyByPlace,
    Tf32,
    draws,
    latents,
    seeded,
    small_classifier,
    small_generator,
)
from foreign_calls import CALLS, MEASURES, SLOPES, frozen
from torch import nn

from companion.robustness import radii, unconstrained_radius

N = 10
LENGTHS = dict(steps=30, metric_steps=3)


@functools.cache
def plain(dtype):
    """The three radii of the small models."""
    generator, network = frozen(dtype)
    return radii(generator, network, latents(N, 4, dtype), **LENGTHS)[:3]


# Invariances: what changes no label changes no radius.


def padded(value: float, count: int = 1):
    return lambda logits: torch.cat([logits, torch.full_like(logits[:, :1], value).expand(-1, count)], 1)


CHANGES = {
    "shifted": lambda logits: logits + 1e4,
    "shifted down": lambda logits: logits - 1e4,
    "log-probabilities": lambda logits: logits - logits.logsumexp(1, keepdim=True),
    "one impossible class": padded(-1e9),
    "one excluded class": padded(-torch.inf),
    "many impossible classes": padded(-1e9, 990),
    "many excluded classes": padded(-torch.inf, 990),
    "large": lambda logits: logits * 1e6,
    "small": lambda logits: logits * 1e-6,
    "tiny": lambda logits: logits * 2.0**-40,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_no_label_changes_no_radius(change, dtype):
    generator, network = frozen(dtype)
    z = latents(N, 4, dtype)
    changed = radii(generator, lambda x: CHANGES[change](network(x)), z, **LENGTHS)
    x = generator(z)
    assert (network(changed.unconstrained_witness).argmax(1) != network(x).argmax(1)).all()
    for mine, theirs, free in zip(changed[:3], plain(torch.float64), (1, 5, 1), strict=True):
        ratio = mine / theirs
        assert mine.isfinite().all()
        assert (ratio - 1).abs().median() < 0.01 * free
        assert ratio.max() < 1 + 0.1 * free


def test_an_impossible_class_beside_a_linear_boundary():
    def classifier(x):
        return torch.stack([0 * x[:, 0], x[:, 0] - 1, 0 * x[:, 0] - 1e9], 1)

    for dtype in (torch.float32, torch.float64):
        assert unconstrained_radius(classifier, torch.zeros(1, 1, dtype=dtype)).item() == pytest.approx(1, rel=1e-3)


def test_logits_may_be_the_image_itself():
    """The identity on images of three pixels: nothing is copied, and every radius has a closed form."""
    x = torch.randn(20, 3, generator=draws(4))
    before, top = x.clone(), x.topk(2, dim=1).values
    radius, witness = unconstrained_radius(lambda x: x, x, return_witness=True)
    torch.testing.assert_close(radius, (top[:, 0] - top[:, 1]) / 2**0.5, rtol=1e-3, atol=1e-5)
    assert torch.equal(x, before) and (witness.argmax(1) != x.argmax(1)).all()


@pytest.mark.parametrize("images, logits", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_logits_of_another_dtype_than_the_images(images, logits):
    generator, network = frozen(images)
    x = generator(latents(N, 4, images))
    found = unconstrained_radius(lambda x: network(x).to(logits), x, steps=30)
    assert found.dtype == images
    torch.testing.assert_close(found.double(), plain(torch.float64)[2], rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("wrap", [lambda out: {"logits": out}, lambda out: (out,), lambda out: out.numpy()])
def test_what_is_no_tensor_is_named(wrap):
    network = frozen()[1]
    with pytest.raises(ValueError, match="classifier must return logits of shape .* got (dict|tuple|ndarray)"):
        unconstrained_radius(lambda x: wrap(network(x)), small_generator()(latents(3, 4)))


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
    "input noise by place": lambda f: NoisyByPlace(f, 0.3),
    "mean of the batch": Centred,
}


def unnormalised():
    """Batch norm that keeps no running statistics uses those of the batch, in evaluation mode too."""
    return seeded(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, track_running_stats=False), nn.Linear(36, 5)))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", [*RANDOM, "batch norm"])
def test_a_classifier_that_is_random_or_sees_the_batch_is_refused(measure, name):
    torch.manual_seed(0)
    classifier = RANDOM[name](small_classifier()) if name in RANDOM else unnormalised()
    sees_the_batch = name in ("batch norm", "mean of the batch", "input noise by place")
    remedy = r"(?s)^classifier .*(eval\(\)|batch)" if sees_the_batch else r"(?s)^classifier .*eot"
    with pytest.raises(ValueError, match=remedy):
        MEASURES[measure](small_generator(), classifier, latents(6, 4))


@pytest.mark.parametrize("change", [lambda g: Noisy(g, 0.05), lambda g: NoisyByPlace(g, 0.3), Centred])
@pytest.mark.parametrize("call", ["latent_radius", "in_distribution_radius", *SLOPES, "projection"])
def test_a_generator_that_is_random_or_sees_the_batch_is_refused(call, change):
    with pytest.raises(ValueError, match=r"(?s)^generator .*(eval\(\)|random|batch)"):
        CALLS[call](change(small_generator()), small_classifier(), latents(6, 4))


def test_one_row_is_enough_to_notice_a_random_classifier():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"(?s)^classifier .*eot"):
        unconstrained_radius(Dropout(small_classifier(), 0.5), small_generator()(latents(1, 4)))


LEGITIMATE = {
    "large logits in ten bits": lambda f: nn.Sequential(Tf32(f), Scale(1e6)),
    "large logits in bfloat16": lambda f: nn.Sequential(Autocast(f), Scale(1e6)),
    "shifted logits": lambda f: nn.Sequential(f, Shift(1e5)),
    "excluded classes": lambda f: nn.Sequential(f, nn.ConstantPad1d((0, 3), -torch.inf)),
    "a constant": lambda f: nn.Sequential(f, Scale(0.0)),
    "hard as a step": lambda f: nn.Sequential(f, Scale(1e3), nn.Softsign()),
}


class Scale(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


class Shift(Scale):
    def forward(self, x):
        return self.by + x


@pytest.mark.parametrize("name", LEGITIMATE)
def test_rounding_is_not_taken_for_chance(name):
    model = LEGITIMATE[name](small_classifier()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        radius = unconstrained_radius(model, small_generator()(latents(N, 4)), steps=10)
    assert radius.isinf().all() if name == "a constant" else radius.isfinite().all()


# Probabilities.


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_as_logits_are_warned_about(classes):
    network, x = small_classifier(), small_generator()(latents(8, 4))
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
        lambda logits: logits.softmax(1).logit(),
    ],
)
def test_logits_are_not_taken_for_probabilities(change):
    network, x = small_classifier(), small_generator()(latents(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unconstrained_radius(lambda x: change(network(x)), x, steps=10)
