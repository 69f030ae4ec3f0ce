"""What a bound needs to know of a layer, and how a layer that it does not know is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from companion import _validation as check

Shape = tuple[int, ...]


@dataclass
class Affine:
    """x ↦ A x + b; b moves nothing apart and is left out.

    Attributes:
        shape, out: shapes of one input and of one output.
        apply: A x for a batch (n, *shape).
        absolute: |A| x, with |A| entry by entry.
        roundings: how many roundings, at most, an entry of A x goes through.
        norm: an upper bound on ‖A‖₂ without writing A out.
        keeps_norm: A only moves entries about, and keeps all of them.
        scale: of a map that multiplies channels (dimension 1 of a batch): the factors (channels,).
        rescaled: of a map with weights: the same, its output channels multiplied by given factors.
    """

    shape: Shape
    apply: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]
    norm: Callable[[], float]
    roundings: int = 0
    keeps_norm: bool = False
    scale: Tensor | None = None
    rescaled: Callable[[Tensor], Affine] | None = None
    out: Shape = field(init=False)

    def __post_init__(self) -> None:
        self.out = tuple(self.apply(torch.zeros(1, *self.shape, dtype=torch.float64)).shape[1:])


@dataclass
class Elementwise:
    """An activation: x_i ↦ σ(x_i) whose slopes between any two points lie in [low, high]."""

    shape: Shape
    low: float
    high: float

    @property
    def out(self) -> Shape:
        return self.shape

    @property
    def constant(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass
class Bounded:
    """Another map with a Lipschitz constant of its own."""

    shape: Shape
    out: Shape
    constant: float
    name: str


@dataclass
class Sum:
    """x ↦ body(x) + shortcut(x)."""

    shape: Shape
    out: Shape
    body: list[Part]
    shortcut: list[Part]


Part = Affine | Elementwise | Bounded | Sum
# From the exact type of a layer to what reads it.
Table = dict[type[nn.Module], Callable[[Any, Shape], Part]]


def refuse(requirement: str, layer: nn.Module | str) -> ValueError:
    """The error to raise: what the network must do, and the layer that does not."""
    return ValueError(f"network must {requirement}, got {layer}")


def weight(layer: nn.Module, name: str) -> Tensor:
    """`weights` of a layer that has them."""
    found = weights(layer, name)
    if found is None:
        raise refuse(f"have its {name}", layer)
    return found


def weights(layer: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer of a layer in float64 on the CPU, which changes none of its values; None if it has none."""
    value = getattr(layer, name)
    if value is None:
        return None
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.is_meta:
        raise refuse(f"hold its {name} as a plain dense tensor", layer)
    if value.is_complex() or value.is_quantized:
        raise refuse(f"have real {name}", layer)
    value = value.detach().to("cpu", torch.float64)
    if not value.isfinite().all():
        raise refuse(f"have finite {name}", layer)
    return value


def ranked(layer: nn.Module, shape: Shape, *ranks: int) -> None:
    """Refuse an input without the layer's number of dimensions: what PyTorch takes for a batch is another then."""
    if len(shape) not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise refuse(f"give {type(layer).__name__} inputs of {wanted} dimensions beside the batch, not {shape}", layer)


def input_dimensions(input_shape: Sequence[int]) -> Shape:
    """`input_shape` as a tuple of positive integers."""
    sides = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if not sides:
        raise ValueError(f"input_shape must be a tuple of positive integers, without the batch, got {input_shape!r}")
    return tuple(check.integer("input_shape", side, minimum=1) for side in sides)
