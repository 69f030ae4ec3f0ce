"""A walk in latent space from a generated photograph to the nearest other label, to play with."""

from __future__ import annotations

import torch
from torch import Tensor

from companion import models
from companion.widgets._base import Choice, Count, Number, Widget, picture_of, unpacked


class WalkWidget(Widget):
    """Straight from the latent of a photograph to the nearest latent with another label, and half as far again.

    Photographs, probabilities and radii are stored; `tools/widget_data.py` makes the file from the shipped networks.

    Args:
        photo: which of the first photographs of the table, from 1 to 4.
        network: whose label it is, 'wide-resnet' or 'wide-resnet-adversarial'.
        t: how far to walk, from 0 to 1.5; at 1 the label changes.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: chapter on CIFAR-10; the radii of Fawzi et al. (2018).
    """

    _module = "walk"

    photo = Count(1, 1, 4)
    network = Choice("wide-resnet", "wide-resnet-adversarial")
    t = Number(0.0, 0, 1.5)

    def __init__(self, *, photo: int = 1, network: str = "wide-resnet", t: float = 0.0):
        super().__init__(photo=photo, network=network, t=t)

    @property
    def latent(self) -> Tensor:
        """(100,) the latent at `t`."""
        start = torch.tensor(self._data["starts"][self.photo - 1], dtype=torch.float64)
        end = torch.tensor(self._walk["end"], dtype=torch.float64)
        return start + self.t * (end - start)

    @property
    def image(self) -> Tensor:
        """(3, 32, 32) the photograph there, by the shipped generator."""
        return models.load("cifar10/generator").double()(self.latent[None])[0]

    @property
    def probabilities(self) -> Tensor:
        """(10,) what the network gives each class there."""
        return models.load(f"cifar10/{self.network}").double()(self.image[None])[0].softmax(0)

    @property
    def radii(self) -> tuple[float, float, float]:
        """(r_Z, r_in, r_unc) of the photograph and the network, upper estimates found by search."""
        return tuple(self._walk["radii"])

    @property
    def label(self) -> str:
        """The name of the class that the network chooses at the multiple of 0.01 nearest to `t`."""
        kept = self._data
        return kept["classes"][int(self._walk["labels"][round(self.t / kept["fine"])])]

    @property
    def _walk(self) -> dict:
        return self._data["walks"][self.network][self.photo - 1]

    def _sentence(self) -> str:
        kept = self._data
        latent, inside, free = self.radii
        first, last = (kept["classes"][int(self._walk["labels"][k])] for k in (0, -1))
        return (
            f"Photograph {self.photo} of the generator (network: {self.network}), on a straight way in latent space, "
            f"at every {kept['key']:g} of t: the label is {first} up to t = 1, a latent step of r<sub>Z</sub> = "
            f"{latent:.3g}, and {last} from there on. In images r<sub>in</sub> = {inside:.3g} and r<sub>unc</sub> = "
            f"{free:.3g}. With JavaScript, or in a live notebook, you can walk."
        )

    def _picture(self) -> str:
        first, later = (unpacked(text).reshape(-1, 3, 32, 32) for text in (self._data["first"], self._walk["frames"]))
        frames = torch.cat([first[self.photo - 1 : self.photo], later])
        return picture_of(frames, columns=7, label="Seven photographs on a walk across a boundary")
