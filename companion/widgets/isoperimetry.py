"""A painted set on the Gaussian plane, and its race against the half-space of the same mass."""

from __future__ import annotations

import re

import numpy as np
import torch
import traitlets
from scipy.special import ndtr
from torch import Tensor

from companion._types import Numbers
from companion.widgets._base import Choice, Number, Widget

# Squares in a row and in a column, and their side: the plane is painted from -3 to 3.
_COUNT, _CELL = 48, 1 / 8
_EDGE = _COUNT * _CELL / 2
_PICTURE = re.compile(f"[0-9a-f]{{{_COUNT**2 // 4}}}|")


class _Squares(traitlets.Unicode):
    """A synchronised set of squares, row after row from below: a hexadecimal digit for each four, or '' for none."""

    def __init__(self):
        super().__init__("")
        self.tag(sync=True, value=True)

    def validate(self, widget, value):
        value = super().validate(widget, value)
        if not _PICTURE.fullmatch(value):
            raise ValueError(f"{self.name} must be {_COUNT**2 // 4} hexadecimal digits or '', got {value!r}")
        return value


class IsoperimetryWidget(Widget):
    """Paint a set on the plane of N(0, I), enlarge it by t, and hold it against the half-space of the same mass.

    The set consists of 48 × 48 squares of side 1/8, from -3 to 3; `paint` sets it, `painted` tells it.

    Args:
        shape: 'half-space' (inside the frame), 'disc', 'stripes', 'checkerboard', 'nothing', or 'own', that of `cells`.
        cells: the squares of the shape 'own', row after row from below, four to a hexadecimal digit; '' for none.
        t: by how much it is enlarged, from 0 to 2.
        tool: 'paint' or 'erase', what the brush does on the page.
        brush: radius of the brush, from 0.1 to 1.
        brush_x: where the brush is, from -3 to 3.
        brush_y: the same, upwards.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Sudakov & Tsirelson (1974), Borell (1975).
    """

    _module = "isoperimetry"

    shape = Choice("half-space", "disc", "stripes", "checkerboard", "nothing", "own")
    cells = _Squares()
    t = Number(0.5, 0, 2)
    tool = Choice("paint", "erase")
    brush = Number(0.3, 0.1, 1)
    brush_x = Number(0.0, -3, 3)
    brush_y = Number(0.0, -3, 3)

    def __init__(
        self,
        *,
        shape: str = "disc",
        cells: str = "",
        t: float = 0.5,
        tool: str = "paint",
        brush: float = 0.3,
        brush_x: float = 0.0,
        brush_y: float = 0.0,
    ):
        super().__init__(shape=shape, cells=cells, t=t, tool=tool, brush=brush, brush_x=brush_x, brush_y=brush_y)

    def paint(self, painted: Numbers) -> None:
        """Paint a set: (48, 48), rows from below, true or not 0 where a square belongs to it.

        Raises:
            ValueError: if `painted` has another shape.
        """
        squares = torch.as_tensor(painted).bool()
        if squares.shape != (_COUNT, _COUNT):
            raise ValueError(f"painted must have the shape ({_COUNT}, {_COUNT}), got {tuple(squares.shape)}")
        self.cells = np.packbits(squares.cpu().numpy()).tobytes().hex()
        self.shape = "own"

    @property
    def painted(self) -> Tensor:
        """(48, 48) the squares of the set as it stands now, rows from below."""
        middle = torch.arange(_COUNT, dtype=torch.float64) * _CELL + _CELL / 2 - _EDGE
        number = torch.arange(_COUNT)
        if self.shape == "half-space":
            return (middle < -0.625).expand(_COUNT, _COUNT)
        if self.shape == "disc":
            return torch.hypot(middle[:, None], middle) < 0.76
        if self.shape == "stripes":
            return ((number + 1) % 8 < 2).expand(_COUNT, _COUNT)
        if self.shape == "checkerboard":
            return (number[:, None] // 4 + number // 4) % 2 == 0
        cells = self.cells if self.shape == "own" and self.cells else "0" * (_COUNT**2 // 4)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(cells), dtype=np.uint8))
        return torch.from_numpy(bits.reshape(_COUNT, _COUNT) > 0)

    @property
    def mass(self) -> float:
        """The Gaussian mass of the set, the sum over its squares."""
        edges = ndtr(np.linspace(-_EDGE, _EDGE, _COUNT + 1))
        weights = np.diff(edges)
        return float(weights @ self.painted.numpy() @ weights)

    @property
    def enlarged(self) -> float:
        """The mass of all points within t of the set; off by less than 1e-4 (compared with a finer rule).

        An integral over x. The slice at x is a union of intervals: the squares of a column at the distance d < t, each
        longer by √(t² − d²) at both ends. The nodes are dense where d comes to t.
        """
        if self.t == 0:
            return self.mass
        painted, t = self.painted.numpy(), self.t
        lines = np.arange(-_COUNT // 2 - 17, _COUNT // 2 + 18) * _CELL
        breaks = np.unique(np.concatenate([lines, lines + t, lines - t]).clip(-_EDGE - t, _EDGE + t).round(12))
        # Gauss's rule of six points on three pieces of [0, 1], after x = 3u² − 2u³, which takes roots at both ends.
        nodes, weights = np.polynomial.legendre.leggauss(6)
        u = ((np.arange(3)[:, None] + (1 + nodes) / 2) / 3).ravel()
        weights = np.tile(weights / 3, 3)
        low, width = breaks[:-1, None], np.diff(breaks)[:, None]
        x = (low + width * u**2 * (3 - 2 * u)).ravel()
        weight = (width * weights * 3 * u * (1 - u)).ravel() * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        return float(weight @ [_slice(painted, t, float(one)) for one in x])

    @property
    def half_space(self) -> float:
        """What the half-space of the same mass becomes, Φ(Φ⁻¹(mass) + t); by the theorem, no more than `enlarged`."""
        return float(torch.special.ndtr(torch.special.ndtri(torch.tensor(self.mass, dtype=torch.float64)) + self.t))

    def _sentence(self) -> str:
        return (
            f"A set on the Gaussian plane (shape: {self.shape}) of mass {100 * self.mass:.3g} %. Within t = {self.t:g} "
            f"of it are {100 * self.enlarged:.3g} % of the mass; of the half-space of the same mass, "
            f"{100 * self.half_space:.3g} %. With JavaScript, or in a live notebook, you can paint a set of your own."
        )

    def _picture(self) -> str:
        squares = self.painted.nonzero().tolist()
        shape = "".join(f"M{column} {_COUNT - 1 - row}h1v1h-1z" for row, column in squares)
        return (
            f'<svg viewBox="0 0 {_COUNT} {_COUNT}" width="240" height="240" role="img" '
            'aria-label="A set of squares in the plane" fill="currentColor">'
            f'<path d="{shape}"/><path d="M0 0h{_COUNT}v{_COUNT}h-{_COUNT}z" fill="none" stroke="currentColor"/></svg>'
        )


def _slice(painted: np.ndarray, t: float, x: float) -> float:
    """The mass under N(0, 1) of the slice at x through all that is within t of the squares."""
    left = np.arange(_COUNT) * _CELL - _EDGE
    away = np.maximum(0, np.maximum(left - x, x - left - _CELL))
    column, row = np.nonzero(painted.T & (away < t)[:, None])
    if not len(row):
        return 0.0
    more = np.sqrt(t * t - away[column] ** 2)
    order = np.argsort(left[row] - more)
    low, high = (left[row] - more)[order], np.maximum.accumulate((left[row] + _CELL + more)[order])
    # A gap is where the next interval begins above all before it.
    gaps = np.flatnonzero(low[1:] > high[:-1])
    return float(ndtr(high[[*gaps, -1]]).sum() - ndtr(low[[0, *(gaps + 1)]]).sum())
