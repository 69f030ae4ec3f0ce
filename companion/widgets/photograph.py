"""A photograph moved along the signs of the gradient, or along random ones, to play with."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import traitlets

from companion.widgets._base import Choice, Count, Widget
from companion.widgets._packed import png, signs, stored, unpacked

_pictures = cache(lambda: stored("photographs"))
_SHADES, _PHOTOGRAPHS = 16, 6


class PhotographWidget(Widget):
    """A generated photograph, every colour moved up or down by the same size, and what a network says of it.

    The pictures are put together on the page; the answers for every size were computed before, since the networks are
    too large for a page. `python tools/pictures.py photographs` makes them anew.

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

    @traitlets.default("given")
    def _pictures_and_answers(self) -> dict[str, Any]:
        return {key: value for key, value in _pictures().items() if key not in ("weights", "command")}

    @property
    def image(self) -> torch.Tensor:
        """The photograph as it stands now, (3, 32, 32) in whole colours of 255, as bytes."""
        pattern = _pictures()["networks"][self.network][self.direction]["signs"][self.photograph]
        colours = unpacked(_pictures()["photographs"][self.photograph]).short() + self.shades * signs(pattern)
        return colours.clamp(0, 255).byte().reshape(3, 32, 32)

    @property
    def answer(self) -> tuple[str, float]:
        """What the network says of it, and how sure it is, rounded to three digits."""
        row = _pictures()["networks"][self.network][self.direction]
        label = row["label"][self.photograph][self.shades]
        return _pictures()["classes"][label], row["sure"][self.photograph][self.shades]

    @property
    def first_fooled(self) -> int | None:
        """The fewest shades, in this direction, at which another label wins; None if there are none."""
        said = _pictures()["networks"][self.network][self.direction]["label"][self.photograph]
        right = _pictures()["labels"][self.photograph]
        return next((shades for shades, label in enumerate(said) if label != right), None)

    def _sentence(self) -> str:
        pictures, (label, sure), first = _pictures(), self.answer, self.first_fooled
        right, network = pictures["classes"][pictures["labels"][self.photograph]], pictures["networks"][self.network]
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
        before = unpacked(_pictures()["photographs"][self.photograph]).reshape(3, 32, 32)
        images = "".join(
            f'<image x="{34 * k}" width="32" height="32" href="{png(image)}"/>'
            for k, image in enumerate((before, self.image))
        )
        return (
            '<svg viewBox="0 0 66 32" width="396" height="192" role="img" '
            f'aria-label="A small photograph, and the same one after every colour was moved a little">{images}</svg>'
        )
