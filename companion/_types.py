"""The types of what public functions take, for type checkers; values are checked where they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# A generator (n, d) -> (n, *image) or a classifier (n, *image) -> (n, K). That a generator has an attribute
# `latent_dim` cannot be said of functions and modules alike, which get it by assignment.
Model: TypeAlias = Callable[[Tensor], Tensor]
# A number, or an array of any shape.
Numbers: TypeAlias = float | Sequence[Any] | NDArray[Any] | np.generic | Tensor
# A pixel box (low, high).
Box: TypeAlias = Sequence[float]


class Modulus(Protocol):
    """What a bound needs of a modulus of continuity; `smoothness.Modulus` has it."""

    def inverse(self, eta: Any, /) -> Any: ...
