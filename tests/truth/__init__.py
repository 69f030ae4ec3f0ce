"""A second opinion on radii: exact, or dense enough to be, and made without the package's searches.

    relu_radius        small ReLU networks: linear pieces in the order of their distance, a quadratic programme on each
    quadratic_radius   quadratic logits: the secular equation
    grid_radii         smooth generators of latent dimension 1 or 2: every boundary of a dense grid

`python -m tests.truth` prints how far the package is from them.
"""

from .exact import least_distance, quadratic_radius, relu_radius
from .grid import Grid, grid_radii
from .networks import Quadratic, Tanh, Waves, balanced, draws, relu_network

__all__ = [
    "Grid",
    "Quadratic",
    "Tanh",
    "Waves",
    "balanced",
    "draws",
    "grid_radii",
    "least_distance",
    "quadratic_radius",
    "relu_network",
    "relu_radius",
]
