"""What every widget shares: its JavaScript, values that are checked, a picture and a sentence without JavaScript.

A widget NAME is `NAME.py`, `NAME_math.js` (arithmetic, nothing else) and `NAME.js` (what is drawn of it). The same
modules run in a live notebook, joined to one (through anywidget), and on the static page, where each is loaded once.
What a widget shows and does not calculate, such as photographs or weights, is in `NAME_data.json`, which
`tools/widget_data.py` makes; to the other modules it is the module `NAME_data`, with the one name `DATA`.
"""

from __future__ import annotations

import html
import json
import re
import struct
from base64 import b64decode, b64encode
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError(
        "companion.widgets needs anywidget; install it with: pip install 'adversarial-vulnerability[book]'"
    ) from error

# The widgets by the names of their modules: subclasses of `Widget` enter themselves.
registry: dict[str, type[Widget]] = {}

_FOLDER = Path(__file__).parent
_IMPORT = re.compile(r'^import \{.*\} from "\./(\w+)\.js";\n', re.MULTILINE)


def modules(name: str) -> dict[str, str]:
    """The ES modules of a widget: the text of each by its name, a module after those that it imports.

    Raises:
        ValueError: if there is no widget of this name.
    """
    if name not in registry:
        raise ValueError(f"name must be one of {', '.join(map(repr, registry))}, got {name!r}")
    found: dict[str, str] = {}

    def add(module: str) -> None:
        text = _data_module(module) if module.endswith("_data") else (_FOLDER / f"{module}.js").read_text("utf-8")
        for needed in _IMPORT.findall(text):
            if needed not in found:
                add(needed)
        found[module] = text

    add(name)
    return found


def _data_module(module: str) -> str:
    return f"export const DATA = {(_FOLDER / f'{module}.json').read_text('utf-8').strip()};\n"


@cache
def data(name: str) -> dict[str, Any]:
    """What `NAME_data.json` holds; nobody changes it."""
    return json.loads((_FOLDER / f"{name}_data.json").read_text("utf-8"))


def unpacked(text: str) -> Tensor:
    """(n,) the bytes in a text of `NAME_data.json`, as `bytes.js` reads them."""
    return torch.frombuffer(bytearray(b64decode(text)), dtype=torch.uint8)


def javascript(name: str) -> str:
    """The ES module of a widget, complete in itself, by its name, such as 'circle'.

    Raises:
        ValueError: if there is no widget of this name.
    """
    return "\n".join(_IMPORT.sub("", text) for text in modules(name).values())


class _InRange:
    """A synchronised trait from `low` to `high`, ends included."""

    def __init__(self, default: float, low: float, high: float):
        super().__init__(default)
        self.low, self.high = low, high
        self.tag(sync=True, value=True)

    def validate(self, widget, value):
        value = super().validate(widget, value)
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must be from {self.low} to {self.high}, got {value!r}")
        return value


class Number(_InRange, traitlets.Float):
    """A synchronised number from `low` to `high`."""


class Count(_InRange, traitlets.Int):
    """A synchronised integer from `low` to `high`."""


class Choice(traitlets.Enum):
    """A synchronised choice among names; the first is the default."""

    def __init__(self, *names: str):
        super().__init__(names, names[0])
        self.tag(sync=True, value=True)

    def validate(self, widget, value):
        if value not in self.values:
            raise ValueError(f"{self.name} must be one of {', '.join(map(repr, self.values))}, got {value!r}")
        return value


class Widget(anywidget.AnyWidget):
    """An anywidget that checks its values and also shows itself as HTML, for pages without a kernel.

    A subclass sets `_module`, its name in the registry, and defines `_picture` and `_sentence`.
    """

    _module: str

    def __init_subclass__(cls, **kwargs):
        # Adding traits to an instance makes a class as well, one without a name.
        if "_module" in cls.__dict__:
            registry[cls._module] = cls
            cls._esm = javascript(cls._module)
        super().__init_subclass__(**kwargs)

    @property
    def _data(self) -> dict[str, Any]:
        return data(self._module)

    def _values(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.trait_names(value=True)}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        """The placeholder that a static page brings to life, with a picture and a sentence until then."""
        state = html.escape(json.dumps(self._values()))
        return (
            f'<div class="companion-widget" data-module="{self._module}" data-state="{state}">\n'
            f"{self._picture()}\n<p>{self._sentence()}</p>\n</div>"
        )

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/html": self._repr_html_()}, metadata

    def _picture(self) -> str:
        raise NotImplementedError

    def _sentence(self) -> str:
        raise NotImplementedError


def picture_of(levels: Tensor, *, columns: int, label: str) -> str:
    """An `<svg>` of small pictures, for pages without JavaScript.

    Args:
        levels: (n, channels, height, width) from 0 to 255; three channels of colour, or one of ink on white.
        columns: pictures in a row.
        label: alternative text.
    """
    colours = levels if levels.shape[1] == 3 else 255 - levels.expand(-1, 3, -1, -1)
    images = nn.functional.pad(colours.round().to(torch.uint8), (0, 1, 0, 1), value=255)
    whole = torch.cat([torch.cat(list(row), 2) for row in images.split(columns)], 1)
    height, width = whole.shape[1:]
    # A bitmap file is not compressed, so the same everywhere: rows from the bottom, blue first, each filled to 4 bytes.
    rows = nn.functional.pad(whole.flip(0, 1).permute(1, 2, 0).reshape(height, -1), (0, -3 * width % 4))
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 54 + rows.numel(), 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    address = "data:image/bmp;base64," + b64encode(header + rows.numpy().tobytes()).decode()
    return (
        f'<svg viewBox="0 0 {width} {height}" width="320" style="max-width: 100%" role="img" aria-label="{label}">'
        f'<image href="{address}" width="{width}" height="{height}" style="image-rendering: pixelated"/></svg>'
    )
