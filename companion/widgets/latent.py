"""Two of the sixteen latents of the digits generator, to play with."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from companion import models
from companion.smoothness import lipschitz_at
from companion.widgets._base import Count, Number, Widget, data, picture_of, unpacked


@cache
def rounded_generator() -> nn.Sequential:
    """The digits generator with the weights of the page, rounded to 8 bits; in float64. Nobody changes it."""
    network = models.load("digits/generator").double()
    for layer, kept in zip(
        (one for one in network if isinstance(one, nn.Linear)), data("latent")["layers"], strict=True
    ):
        whole = unpacked(kept["values"]).view(torch.int8).reshape(layer.weight.shape)
        layer.weight.data = whole * torch.tensor(kept["scale"], dtype=torch.float64)[:, None]
        layer.bias.data = torch.tensor(kept["bias"], dtype=torch.float64)
    return network


class LatentWidget(Widget):
    """The generator of digits in your hand: two of its sixteen latents, the digit, and how steep the way there is.

    The page calculates with weights rounded to 8 bits, and so do the properties here.

    Args:
        start: which of the stored latents to start from, from 1 to 8.
        across: the latent that a step across changes, from 1 to 16.
        up: the latent that a step up changes, from 1 to 16.
        x: the step across, from -3 to 3.
        y: the step up, from -3 to 3.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: chapter on smoothness, `companion.smoothness`.
    """

    _module = "latent"

    start = Count(1, 1, 8)
    across = Count(1, 1, 16)
    up = Count(2, 1, 16)
    x = Number(0.0, -3, 3)
    y = Number(0.0, -3, 3)

    def __init__(self, *, start: int = 1, across: int = 1, up: int = 2, x: float = 0.0, y: float = 0.0):
        super().__init__(start=start, across=across, up=up, x=x, y=y)

    @property
    def generator(self) -> nn.Sequential:
        """The generator of the page."""
        return rounded_generator()

    @property
    def home(self) -> Tensor:
        """(16,) the latent at the start."""
        return torch.tensor(self._data["starts"][self.start - 1], dtype=torch.float64)

    @property
    def latent(self) -> Tensor:
        """(16,) the latent after the step."""
        latent = self.home
        latent[self.across - 1] += self.x
        latent[self.up - 1] += self.y
        return latent

    @property
    def image(self) -> Tensor:
        """(8, 8) the digit after the step."""
        return self.generator(self.latent[None])[0, 0]

    @property
    def moved(self) -> float:
        """How far the image is from that of the start."""
        return float((self.image - self.generator(self.home[None])[0, 0]).norm())

    @property
    def slope(self) -> float:
        """The largest singular value of the Jacobian after the step."""
        return float(lipschitz_at(self.generator, self.latent[None])[0])

    @property
    def modulus(self) -> float:
        """The local modulus of the start at the length of the step, as a search found it; nan beyond a step of 4."""
        kept = self._data
        t, found = [0, *kept["t"]], [0, *kept["moduli"][self.start - 1]]
        length = float((self.latent - self.home).norm())
        return float(np.interp(length, t, found, right=math.nan))

    def _sentence(self) -> str:
        length = float((self.latent - self.home).norm())
        return (
            f"A digit of the generator and, right, what a step of {self.x:g} along latent {self.across} and of "
            f"{self.y:g} along latent {self.up} makes of it. The step is {length:.3g} long and moves the image by "
            f"{self.moved:.3g}; the slope of the generator there is {self.slope:.3g}. With JavaScript, or in a live "
            "notebook, you can drag the latent."
        )

    def _picture(self) -> str:
        both = self.generator(torch.stack([self.home, self.latent]))
        return picture_of(255 * both, columns=2, label="A digit before and after a latent step")
