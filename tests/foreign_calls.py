"""Every way into the package that asks a model, in a few passes each: f(generator, classifier, latents) -> tensors."""

from __future__ import annotations

import functools

import torch
from foreign import latents, small_classifier, small_generator

from companion.attacks import deepfool, fgsm, jsma, lbfgs, mi_fgsm, minimal_l2
from companion.projection import ProjectedClassifier
from companion.robustness import in_distribution_radius, latent_radius, unconstrained_radius
from companion.smoothness import lipschitz_at, local_modulus
from companion.vulnerability import nearest_other_label

SHORT = dict(steps=8, metric_steps=3)
ATTACKS = {
    "deepfool": functools.partial(deepfool, steps=5),
    "minimal_l2": functools.partial(minimal_l2, steps=12),
    "lbfgs": functools.partial(lbfgs, bounds=(-9, 9), searches=3, steps=8),
    "fgsm": functools.partial(fgsm, eps=0.3),
    "mi_fgsm": functools.partial(mi_fgsm, eps=0.3),
    "jsma": functools.partial(jsma, bounds=(-9, 9)),
}
MEASURES = {
    "unconstrained_radius": lambda g, f, z: unconstrained_radius(f, images(z), steps=12, return_witness=True),
    "latent_radius": lambda g, f, z: latent_radius(g, f, z, steps=12, return_witness=True),
    "in_distribution_radius": lambda g, f, z: in_distribution_radius(g, f, z, **SHORT, return_witness=True),
}
SLOPES = {
    "lipschitz_at exact": lambda g, f, z: (lipschitz_at(g, z, method="exact"),),
    "lipschitz_at lanczos": lambda g, f, z: (lipschitz_at(g, z, method="lanczos"),),
    "local_modulus": lambda g, f, z: (local_modulus(g, z, [0.1, 0.5], steps=3),),
}
PROJECTION = {
    "projection": lambda g, f, z: tuple(ProjectedClassifier(g, f, pool=32, steps=20).project(images(z))),
    "projected classifier": lambda g, f, z: (minimal_l2(projected(g, f, z), images(z), labels(z), steps=2),),
}
NEAREST = {"nearest_other_label": lambda g, f, z: (nearest_other_label(g, f, z, samples=200),)}
CALLS = MEASURES | SLOPES | PROJECTION | NEAREST
CALLS |= {name: lambda g, f, z, a=attack: (a(f, images(z), labels(z)),) for name, attack in ATTACKS.items()}


def projected(generator, classifier, z) -> ProjectedClassifier:
    """f̃ with one search an image, from the image's own latent: no other ends as near."""
    return ProjectedClassifier(generator, classifier, starts=1, pool=1, steps=20, warm_start=z)


Z = latents(6, 4)
X = small_generator()(Z).detach()
Y = small_classifier()(X).argmax(1)


def images(z) -> torch.Tensor:
    """The images of the plain generator, one for each of the rows of z, and in its dtype."""
    return X[: len(z)].to(z.dtype, copy=True)


def labels(z) -> torch.Tensor:
    return Y[: len(z)].clone()


def pair(dtype=torch.float32):
    """A generator and a classifier whose parameters require gradients, as every constructor leaves them."""
    return small_generator().to(dtype), small_classifier().to(dtype)


def frozen(dtype=torch.float32):
    return tuple(model.requires_grad_(False) for model in pair(dtype))


@functools.cache
def expected(call: str, dtype=torch.float32) -> tuple[torch.Tensor, ...]:
    """What a call returns for frozen models and tensors: the same whatever habits models and callers have."""
    return CALLS[call](*frozen(dtype), Z.to(dtype))


def same(one, other, **tolerance):
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
