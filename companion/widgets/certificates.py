"""Six generators of digits, what is proved of them and what attacks find, to play with."""

from __future__ import annotations

import torch

from companion import models
from companion.models.architectures import Generator
from companion.smoothness import Lipschitz
from companion.vulnerability import robustness_quantile
from companion.widgets._base import Choice, Count, Number, Widget, picture_of, unpacked


class CertificatesWidget(Widget):
    """Generators of a certified Lipschitz constant: their digits, the proved quantile of r_in, and the measured one.

    The digits, their labels and the radii are stored; `tools/widget_data.py` makes the file from the shipped networks.

    Args:
        generator: which one: 0 to 4 are those of L = 1, 1.5, 2, 3 and 4; 5 is the free one of the other chapters.
        reader: the classifier, 'cnn', 'mlp' or 'linear'.
        q: of which share of the images the bound speaks, from 0.05 to 0.9.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: chapter on certificates; Theorem 1 with a certified constant and counted labels.
    """

    _module = "certificates"

    generator = Count(0, 0, 5)
    reader = Choice("cnn", "mlp", "linear")
    q = Number(0.25, 0.05, 0.9)

    def __init__(self, *, generator: int = 0, reader: str = "cnn", q: float = 0.25):
        super().__init__(generator=generator, reader=reader, q=q)

    @property
    def constant(self) -> float:
        """The certified Lipschitz constant of the generator."""
        return self._data["constants"][self.generator]

    @property
    def network(self) -> Generator:
        """The generator itself, in float64."""
        names = [name for name in self._data["made_of"] if name.startswith(("digits/lipschitz", "digits/generator"))]
        return models.load(names[self.generator]).double()

    @property
    def radii(self) -> torch.Tensor:
        """(n,) in-distribution radii, found by attack."""
        return torch.tensor(self._data["readers"][self.reader]["radii"][self.generator], dtype=torch.float64)

    @property
    def proved(self) -> float:
        """Within this distance at least the share `q` of the images has another label, by Theorem 1."""
        safe = self._data["readers"][self.reader]["safe"][self.generator]
        return float(robustness_quantile(self.q, safe, Lipschitz(self.constant)))

    @property
    def measured(self) -> float:
        """The q-quantile of the radii that were found by attack."""
        return float(self.radii.quantile(self.q))

    def _sentence(self) -> str:
        within = float((self.radii <= self.proved).double().mean())
        return (
            f"Twelve digits of the generator {self._data['names'][self.generator]}, whose proved Lipschitz constant "
            f"is {self.constant:.6g}. It is proved, given the counted labels, that {100 * self.q:.3g} % of its images "
            f"change their label within {self.proved:.3g} (classifier: {self.reader}). Attacks find that they do "
            f"within {self.measured:.3g}, and that {100 * within:.3g} % do within the proved distance. With "
            "JavaScript, or in a live notebook, you can change generator, classifier and share."
        )

    def _picture(self) -> str:
        digits = unpacked(self._data["images"]).reshape(6, 12, 1, 8, 8)[self.generator]
        return picture_of(digits, columns=6, label="Twelve generated digits")
