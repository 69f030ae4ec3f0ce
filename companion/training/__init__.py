"""How the networks were trained, to be repeated: `python -m companion train digits`, `cifar10` or `svhn`."""

from companion.training.digits import CLASSIFIERS, LIPSCHITZ, NETWORKS, Recipe, distort, train_digits
from companion.training.images import train_images
from companion.training.presets import PRESETS, RACES, Classifier, Gan, Race

__all__ = [
    "CLASSIFIERS",
    "LIPSCHITZ",
    "NETWORKS",
    "PRESETS",
    "RACES",
    "Classifier",
    "Gan",
    "Race",
    "Recipe",
    "distort",
    "train_digits",
    "train_images",
]
