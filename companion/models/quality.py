"""How good a trained network is: accuracies, and a generator measured beside real images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.data import Digits
from companion.models.architectures import Generator
from companion.smoothness import lipschitz_at

LATENTS = 100_000


def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of `images` (n, *image) that `classifier` gives the label of `labels` (n,)."""
    with torch.no_grad():
        found = torch.cat([classifier(part).argmax(1) for part in images.split(1_000)])
    return (found == labels).double().mean().item()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features (n, k) and (m, k).

    Source:
        D. C. Dowson and B. V. Landau, Journal of Multivariate Analysis 12, 1982; tr √(AB) is the sum of the
        square roots of the eigenvalues of AB.
    """
    first, second = first.double(), second.double()
    a, b = torch.cov(first.T), torch.cov(second.T)
    cross = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross).item()


def two_sample_accuracy(first: Tensor, second: Tensor, *, folds: int = 10, seed: int = 0) -> dict[str, Any]:
    """Classifier two-sample test: how often a fresh classifier tells two sets apart (0.5: it cannot).

    A support-vector machine is fitted on all folds but one and judged on that one, for every fold in turn.

    Args:
        first, second: images (n, *image) of equal number.
    Returns:
        {"accuracy", "low", "high", "images"} with the 95 % Clopper–Pearson interval of as many independent judgements.
        Folds share the images that they were fitted on, so ours are not independent, and it is a guide only.
    Raises:
        ImportError: scikit-learn (the `data` extra) is not installed.
    Source:
        D. Lopez-Paz and M. Oquab, Revisiting classifier two-sample tests, ICLR 2017.
    """
    from scipy.stats import binomtest

    try:
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.svm import SVC
    except ImportError as error:
        install = "pip install 'adversarial-vulnerability[data]'"
        raise ImportError(f"two_sample_accuracy needs scikit-learn, the data extra: {install}") from error
    if len(first) != len(second):
        raise ValueError(f"second must have as many images as first ({len(first)}), got {len(second)}")
    images = torch.cat([first, second]).flatten(1).numpy()
    side = np.repeat([0, 1], len(first))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    correct = int((cross_val_predict(SVC(C=10.0), images, side, cv=splits) == side).sum())
    interval = binomtest(correct, len(side)).proportion_ci(0.95)
    return {"accuracy": correct / len(side), "low": interval.low, "high": interval.high, "images": len(side)}


def classifier_report(classifier: nn.Module, data: Digits) -> dict[str, Any]:
    """Accuracies of a digits classifier on the training and on the held-out scans."""
    return {
        "train_accuracy": accuracy(classifier, data.train_images, data.train_labels),
        "held_out_accuracy": accuracy(classifier, data.held_out_images, data.held_out_labels),
        "held_out_images": len(data.held_out_images),
    }


@torch.no_grad()
def generator_report(generator: Generator, judge: nn.Sequential, data: Digits, *, seed: int = 0) -> dict[str, Any]:
    """Generated digits beside real ones, as `judge` (the convolutional classifier) and others see them.

    Returns:
        `class_probabilities` over 10⁵ latents; for `generated` and for held-out `real` images the judge's
        agreement with an independent support-vector machine and its mean top probability; two-sample
        accuracies and Fréchet distances to the held-out scans, each beside what real training scans get; the
        distance to the nearest training scan (memorising would make it small); quantiles of the Jacobian's
        largest singular value over 10³ latents.
    """
    from sklearn.svm import SVC

    random = torch.Generator().manual_seed(seed)
    machine = SVC(C=10.0).fit(data.train_images.flatten(1).numpy(), data.train_labels.numpy())
    features = judge[:-1]
    train, real = data.train_images, data.held_out_images

    def seen_by_judges(images: Tensor) -> dict[str, Any]:
        confidence, label = judge(images).softmax(1).max(1)
        other = torch.from_numpy(machine.predict(images.flatten(1).numpy()))
        return {
            "agreement": (label == other).double().mean().item(),
            "top_probability": confidence.double().mean().item(),
            "images": len(images),
        }

    def nearest(images: Tensor) -> list[float]:
        distance = torch.cdist(images.flatten(1), train.flatten(1)).amin(1)
        return _quantiles(distance, (0.0, 0.05, 0.5, 0.95))

    latents = torch.randn(LATENTS, generator.latent_dim, generator=random)
    labels = torch.cat([judge(generator(z)).argmax(1) for z in latents.split(5_000)])
    images = generator(latents[:10_000])
    sigma = lipschitz_at(generator, latents[:1_000])
    subset = torch.randperm(len(train), generator=random)[: len(real)]
    return {
        "class_probabilities": (torch.bincount(labels, minlength=10).double() / len(labels)).tolist(),
        "generated": seen_by_judges(images),
        "real": seen_by_judges(real),
        "two_sample": {
            "generated": two_sample_accuracy(images[: len(real)], real),
            "real": two_sample_accuracy(train[subset], real),
        },
        "frechet": {
            "generated": frechet_distance(features(images[: len(train)]), features(real)),
            "real": frechet_distance(features(train), features(real)),
        },
        "nearest_training_distance": {
            "quantiles": [0.0, 0.05, 0.5, 0.95],
            "generated": nearest(images[:1_000]),
            "real": nearest(real),
        },
        "jacobian_norm": {
            "quantiles": [0.05, 0.25, 0.5, 0.75, 0.95, 1.0],
            "values": _quantiles(sigma, (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)),
        },
    }


def _quantiles(values: Tensor, levels: tuple[float, ...]) -> list[float]:
    return torch.quantile(values.double(), torch.tensor(levels, dtype=torch.float64)).tolist()
