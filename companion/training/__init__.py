"""How the networks were trained, to be repeated: `python -m companion train digits`, `cifar10` or `svhn`."""

from companion.training.digits import CLASSIFIERS, LIPSCHITZ, NETWORKS, Recipe, distort, train_digits
from companion.training.images import train_images
from companion.training.presets import PRESETS, Classifier, Gan

__all__ = [
    "CLASSIFIERS",
    "LIPSCHITZ",
    "NETWORKS",
    "PRESETS",
    "Classifier",
    "Gan",
    "Recipe",
    "distort",
    "train_digits",
    "train_images",
]
