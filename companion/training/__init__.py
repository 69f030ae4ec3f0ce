"""How the networks were trained, to be repeated."""

from companion.training.digits import CLASSIFIERS, Recipe, distort, train_digits

__all__ = ["CLASSIFIERS", "Recipe", "distort", "train_digits"]
