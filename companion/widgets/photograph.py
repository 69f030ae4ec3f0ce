"""A photograph moved along the signs of the gradient, or along random ones, to play with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from companion.widgets._base import Choice, Count, Widget, picture_of, unpacked

_SHADES, _PHOTOGRAPHS = 16, 6


class PhotographWidget(Widget):
    """A generated photograph, every colour moved up or down by the same size, and what a network says of it.

    The pictures are put together on the page; the answers for every size are stored, since the networks are too large
    for a page. `tools/widget_data.py` makes the file from the shipped networks.

    Args:
        photograph: which of six, from 0 to 5.
        network: 'wide-resnet', 'vgg' or 'wide-resnet-adversarial', the last of which was trained on attacks.
        direction: 'gradient', the signs of the gradient of this network's loss, or 'random' ones.
        shades: how far each colour is moved, from 0 to 16 of 255.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Goodfellow et al. (2015), section 4.
    """

    _module = "photograph"

    photograph = Count(1, 0, _PHOTOGRAPHS - 1)
    network = Choice("wide-resnet", "vgg", "wide-resnet-adversarial")
    direction = Choice("gradient", "random")
    shades = Count(2, 0, _SHADES)

    def __init__(
        self, *, photograph: int = 1, network: str = "wide-resnet", direction: str = "gradient", shades: int = 2
    ):
        super().__init__(photograph=photograph, network=network, direction=direction, shades=shades)

    @property
    def original(self) -> Tensor:
        """(3, 32, 32) the photograph as it was, in whole colours of 255, as bytes."""
        return unpacked(self._data["photographs"][self.photograph]).reshape(3, 32, 32)

    @property
    def signs(self) -> Tensor:
        """The direction, (3, 32, 32), +1 where a colour grows and −1 elsewhere."""
        bits = np.unpackbits(unpacked(self._row["signs"][self.photograph]).numpy())
        return 2 * torch.from_numpy(bits).short().reshape(3, 32, 32) - 1

    @property
    def image(self) -> Tensor:
        """(3, 32, 32) the photograph as it stands now, in whole colours of 255, as bytes."""
        return (self.original + self.shades * self.signs).clamp(0, 255).byte()

    @property
    def answer(self) -> tuple[str, float]:
        """What the network says of it, and how sure it is, rounded to three digits."""
        label = self._row["label"][self.photograph][self.shades]
        return self._data["classes"][label], self._row["sure"][self.photograph][self.shades]

    @property
    def first_fooled(self) -> int | None:
        """The fewest shades, in this direction, at which another label wins; None if there are none."""
        right = self._data["labels"][self.photograph]
        said = self._row["label"][self.photograph]
        return next((shades for shades, label in enumerate(said) if label != right), None)

    @property
    def _row(self) -> dict:
        return self._data["networks"][self.network][self.direction]

    def _sentence(self) -> str:
        kept, (label, sure), first = self._data, self.answer, self.first_fooled
        right, network = kept["classes"][kept["labels"][self.photograph]], kept["networks"][self.network]
        sure = math.floor(100 * sure + 0.5)
        way = {"gradient": "signs of the gradient", "random": "random signs"}[self.direction]
        since = "at no size up to 16" if first is None else f"from {first} of 255 on"
        return (
            f"A generated photograph, {right}, and the same with every colour moved by {self.shades} of 255 shades "
            f"along {way}: the network ({network['name']}) says {label}, {sure} % sure. In this "
            f"direction another label wins {since}. With JavaScript, or in a live notebook, you can choose photograph, "
            "network, direction and size."
        )

    def _picture(self) -> str:
        label = "A small photograph, and the same one after every colour was moved a little"
        return picture_of(torch.stack([self.original, self.image]), columns=2, label=label)
