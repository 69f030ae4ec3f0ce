"""Three attacks on a small network of digits, with a size to choose, to play with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from companion import models
from companion.attacks import deepfool, fgsm
from companion.widgets._base import Choice, Count, Number, Widget, picture_of, unpacked

_STEPS = 10
_network = cache(lambda: models.load("digits/mlp").double())


class Fooled(NamedTuple):
    """The smallest size of an attack, in steps of 0.01, at which the label is another one.

    Attributes:
        eps: the largest change of a pixel.
        length: the L2 length of the change.
    """

    eps: float
    length: float


class AttackWidget(Widget):
    """A generated digit, attacked with a size of your choice, and what `digits/mlp` says of it.

    The digits are stored, and for the page the weights; `tools/widget_data.py` makes the file of the shipped networks.

    Args:
        digit: the label of the digit, from 0 to 9.
        attack: 'one step' or 'ten steps' along the sign of the gradient, or 'smallest change', the one of DeepFool,
            lengthened or shortened to the size.
        eps: the size, how far a pixel may move, from 0 to 0.5; full ink is 1.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Goodfellow et al. (2015), Kurakin et al. (2017), Moosavi-Dezfooli et al. (2016).
    """

    _module = "attack"

    digit = Count(3, 0, 9)
    attack = Choice("one step", "ten steps", "smallest change")
    eps = Number(0.1, 0, 0.5)

    def __init__(self, *, digit: int = 3, attack: str = "one step", eps: float = 0.1):
        super().__init__(digit=digit, attack=attack, eps=eps)

    @property
    def network(self) -> nn.Sequential:
        """The network, in float64."""
        return _network()

    @property
    def original(self) -> Tensor:
        """The digit as it was, (1, 8, 8)."""
        kept = self._data
        return unpacked(kept["digits"][self.digit]).double().reshape(1, 8, 8) / kept["greys"]

    @property
    def image(self) -> Tensor:
        """The attacked digit, (1, 8, 8)."""
        return self._attack()(self.eps)

    @property
    def probabilities(self) -> Tensor:
        """What the network says of the attacked digit, (10,)."""
        return self.network(self.image[None])[0].softmax(0)

    @property
    def first_fooled(self) -> Fooled | None:
        """The smallest size at which this attack changes the label, None if there is none up to 0.5."""
        attacked = self._attack()
        for step in range(51):
            image = attacked(step / 100)
            if int(self.network(image[None]).argmax()) != self.digit:
                return Fooled(step / 100, float((image - self.original).norm()))
        return None

    def _attack(self) -> Callable[[float], Tensor]:
        """The attacked digit as a function of the size."""
        x, y, box = self.original[None], torch.tensor([self.digit]), (0.0, 1.0)
        if self.attack == "smallest change":
            change = deepfool(self.network, x, y, bounds=box) - x
            return lambda eps: (x + eps / change.abs().max() * change).clamp(*box)[0]
        options = {"steps": 1 if self.attack == "one step" else _STEPS, "bounds": box, "keep_failed": True}
        return lambda eps: fgsm(self.network, x, y, eps=eps, **options)[0] if eps else x[0]

    def _sentence(self) -> str:
        share, label = self.probabilities.max(0)
        how = {"one step": "in one step", "ten steps": "in ten steps", "smallest change": "along the smallest change"}
        first = self.first_fooled
        least = (
            f"first fools at ε = {first.eps:g}, by a change {first.length:.2f} long"
            if first
            else "fools at no ε up to 0.5"
        )
        return (
            f"A generated {self.digit}, and what is left of it when every pixel may move by ε = {self.eps:g}, "
            f"{how[self.attack]}: a small network says {int(label)}, {100 * float(share):.0f} % sure. "
            f"This attack {least}. With JavaScript, or in a live notebook, you can choose digit, attack and size."
        )

    def _picture(self) -> str:
        label = f"A handwritten {self.digit} in coarse pixels, and the same one after an attack"
        return picture_of(255 * torch.stack([self.original, self.image]), columns=2, label=label)
