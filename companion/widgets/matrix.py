"""The measured matrix of attacks and defences, with a digit before and after in every cell, to play with."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from torch import Tensor

from companion import arms_race
from companion.widgets._base import Choice, Count, Widget, unpacked

_race = cache(lambda: arms_race.load("digits"))
_DIGITS = 3


class Cell(NamedTuple):
    """A cell of the matrix.

    Attributes:
        accuracy: the share of digits that are still read rightly.
        distance: the median length of the smallest change found; `inf` if more digits survived than not.
        original: the example, (1, 8, 8).
        image: what the attack made of it, (1, 8, 8), in 48ths.
        label: the label of the example.
        answer: what the defended network says of `image`.
    """

    accuracy: float
    distance: float
    original: Tensor
    image: Tensor
    label: int
    answer: int


class MatrixWidget(Widget):
    """Every attack against every defence, under a threat model of your choice, as it was measured.

    The examples are stored, and for the page the measurement; `tools/widget_data.py` makes the file from both.

    Args:
        threat: a threat model, one of `companion.arms_race.THREATS`.
        victim: the defence, one of `companion.arms_race.VICTIMS`.
        attack: one of the names of `companion.arms_race.all_attacks()`.
        digit: which of three examples is shown, from 0 to 2.

    Raises:
        ValueError: if a value is none of these, now or when it is set later.

    Source: own measurement (chapter on the arms race).
    """

    _module = "matrix"

    threat = Choice(*arms_race.THREATS)
    victim = Choice(*arms_race.VICTIMS)
    attack = Choice(*arms_race.all_attacks())
    digit = Count(1, 0, _DIGITS - 1)

    def __init__(
        self,
        *,
        threat: str = arms_race.THREATS[0],
        victim: str = "distilled",
        attack: str = "FGSM",
        digit: int = 1,
    ):
        super().__init__(threat=threat, victim=victim, attack=attack, digit=digit)

    @property
    def cell(self) -> Cell:
        """The chosen cell."""
        kept = self._data
        place = [arms_race.VICTIMS.index(self.victim), arms_race.THREATS.index(self.threat)]
        place.append(_race().attacks.index(self.attack))
        attacked, answer = kept["attacked"][self.digit], kept["answers"][self.digit]
        for k in place:
            attacked, answer = attacked[k], answer[k]
        return Cell(
            *_race().at(self.victim, self.threat, self.attack),
            *(
                unpacked(text).double().reshape(1, 8, 8) / kept["greys"]
                for text in (kept["digits"][self.digit], attacked)
            ),
            kept["labels"][self.digit],
            answer,
        )

    @property
    def strongest(self) -> Tensor:
        """What the strongest attack under this threat model leaves of each defence, (6,)."""
        return _race().accuracy[:, arms_race.THREATS.index(self.threat)].amin(1)

    @property
    def standing(self) -> int:
        """In how many cells, under this threat model, most digits survive."""
        return int((_race().accuracy[:, arms_race.THREATS.index(self.threat)] > 0.5).sum())

    def _sentence(self) -> str:
        cell = self.cell
        cells = _race().accuracy[:, 0].numel()
        return (
            f"Every attack against every defence ({self.threat}): in {self.standing} of {cells} cells most digits are "
            f"still read rightly. In the cell {self.victim}, {self.attack}, {100 * cell.accuracy:.0f} % are; the "
            f"example, a {cell.label}, is read as a {cell.answer}. With JavaScript, or in a live notebook, you can "
            "choose the threat model and look at every cell."
        )

    def _picture(self) -> str:
        race = _race()
        shares = race.accuracy[:, race.threats.index(self.threat)].tolist()
        head = "".join(
            f'<text transform="translate({126 + 38 * a} 72) rotate(-40)">{name}</text>'
            for a, name in enumerate(race.attacks)
        )
        rows = "".join(
            f'<text x="104" y="{96 + 20 * v}" text-anchor="end">{victim}</text>'
            + "".join(
                f'<text x="{130 + 38 * a}" y="{96 + 20 * v}" text-anchor="middle">{100 * share:.0f}</text>'
                for a, share in enumerate(row)
            )
            for v, (victim, row) in enumerate(zip(race.victims, shares, strict=True))
        )
        return (
            '<svg viewBox="0 0 430 206" width="430" height="206" role="img" font-size="13" fill="currentColor" '
            'aria-label="A table of shares in per cent: six defences in rows, seven attacks in columns">'
            f"{head}{rows}</svg>"
        )
