"""The rows on which the package is held to truth: families of random networks, a seed for each."""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .exact import quadratic_radius, relu_radius
from .grid import grid_radii
from .networks import Quadratic, Tanh, Waves, balanced, draws, relu_network

# Layer sizes: inputs, hidden units, classes.
RELU = [(2, 8, 2), (3, 12, 4), (2, 6, 6, 3), (4, 12, 3), (4, 6, 6, 4), (6, 8, 5, 2)]
TWO_CLASSES = [(2, 8, 2), (4, 6, 6, 2), (6, 8, 5, 2)]
# Inputs and classes.
QUADRATIC = [(2, 2), (5, 3), (20, 2), (20, 10)]
# Kind and frequency of the generator, image dimension, classes.
SMOOTH = [
    ("waves", 0.7, 2, 2),
    ("waves", 1.2, 2, 2),
    ("waves", 0.7, 4, 5),
    ("waves", 1.2, 6, 2),
    ("waves", 1.2, 8, 3),
    ("tanh", 1.0, 6, 2),
    ("tanh", 2.0, 3, 3),
    ("tanh", 2.0, 10, 5),
]
# The in-distribution radius is sought over |z'| <= REACH.
REACH = 6.0


class Points(NamedTuple):
    """Points of a classifier with their labels and exact r_unc."""

    name: str
    classifier: object
    x: torch.Tensor
    y: torch.Tensor
    bounds: tuple[float, float] | None
    exact: np.ndarray


class Latents(NamedTuple):
    """Latents of a generator with exact r_Z and r_in, the latter over |z'| <= 6."""

    name: str
    generator: object
    classifier: object
    z: torch.Tensor
    latent: np.ndarray
    in_distribution: np.ndarray


def relu_points(seed: int, rows: int, bounds=None, networks=RELU):
    """`rows` points of a network of each of the sizes: normal ones, uniform in a box."""
    for number, sizes in enumerate(networks):
        network, random = relu_network(sizes, seed + number), draws(seed + 100 + number)
        x = torch.randn(rows, sizes[0], generator=random, dtype=torch.float64)
        if bounds:
            x = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(x.shape, generator=random, dtype=torch.float64)
        y = network(x).argmax(1)
        name = "-".join(map(str, sizes))
        yield Points(name, network, x, y, bounds, relu_radius(network, x, y, bounds)[0])


def quadratic_points(seed: int, rows: int, sizes=QUADRATIC):
    for number, (inputs, classes) in enumerate(sizes):
        random = draws(seed + number)
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64).numpy()  # noqa: E731, B023
        square, linear = normal(classes, inputs, inputs) / inputs, normal(classes, inputs) / inputs**0.5
        classifier = Quadratic(square, linear, 0.3 * normal(classes))
        x = torch.from_numpy(normal(rows, inputs))
        y = classifier(x).argmax(1)
        yield Points(f"{inputs}, K = {classes}", classifier, x, y, None, quadratic_radius(classifier, x, y))


def smooth_latents(seed: int, rows: int, latent_dim: int):
    """`rows` samples of the prior for each of the generators, each with a classifier of its own."""
    make = {"waves": Waves, "tanh": functools.partial(Tanh, latent=True)}
    for number, (kind, scale, pixels, classes) in enumerate(SMOOTH):
        first = seed + 10 * number
        generator = make[kind](latent_dim, pixels, first, scale=scale)
        prior = torch.randn(1000, latent_dim, generator=draws(first + 1), dtype=torch.float64)
        classifier = balanced(Tanh(pixels, classes, first + 2, scale=2.0), generator(prior))
        z = torch.randn(rows, latent_dim, generator=draws(first + 3), dtype=torch.float64)
        cells = 400 if latent_dim == 2 else 40_000
        latent, in_distribution = grid_radii(generator, classifier, z, REACH, cells)[:2]
        name = f"{kind} {scale}, {latent_dim} to {pixels}, K = {classes}"
        yield Latents(name, generator, classifier, z, latent, in_distribution)


# What leaves the exact radii as they are.
CHANGES = {
    "plain": lambda logits: logits,
    "+ 1e4": lambda logits: logits + 1e4,
    "- 1e4": lambda logits: logits - 1e4,
    "padded with -1e9": lambda logits: nn.functional.pad(logits, (0, 20), value=-1e9),
    "padded with -inf": lambda logits: nn.functional.pad(logits, (0, 20), value=-torch.inf),
    "* 1e6": lambda logits: logits * 1e6,
    "* 1e-6": lambda logits: logits * 1e-6,
}


def changed(case: Points, change: str, dtype) -> Points:
    """The same points of the same network in another dtype, its logits changed."""
    network = copy.deepcopy(case.classifier).to(dtype)
    return case._replace(classifier=lambda x: CHANGES[change](network(x)), x=case.x.to(dtype))
