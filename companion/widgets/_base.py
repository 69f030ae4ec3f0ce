"""What every widget shares: its JavaScript, values that are checked, a picture and a sentence without JavaScript.

A widget NAME is `NAME.py`, `NAME_math.js` (arithmetic, nothing else) and `NAME.js` (what is drawn of it). The same
modules run in a live notebook, joined to one (through anywidget), and on the static page, where each is loaded once.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

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
        text = (_FOLDER / f"{module}.js").read_text(encoding="utf-8")
        for needed in _IMPORT.findall(text):
            if needed not in found:
                add(needed)
        found[module] = text

    add(name)
    return found


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

    A subclass sets `_module`, its name in the registry, and defines `_picture` and `_sentence`. What its page needs
    beside the values, and nobody sets, is the default of `given`.
    """

    _module: str

    given = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        # Adding traits to an instance makes a class as well, one without a name.
        if "_module" in cls.__dict__:
            registry[cls._module] = cls
            cls._esm = javascript(cls._module)
        super().__init_subclass__(**kwargs)

    def _values(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.trait_names(value=True)}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        """The placeholder that a static page brings to life, with a picture and a sentence until then."""
        state, given = (html.escape(json.dumps(part)) for part in (self._values(), self.given))
        more = f' data-given="{given}"' * bool(self.given)
        return (
            f'<div class="companion-widget" data-module="{self._module}" data-state="{state}"{more}>\n'
            f"{self._picture()}\n<p>{self._sentence()}</p>\n</div>"
        )

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/html": self._repr_html_()}, metadata

    def _picture(self) -> str:
        raise NotImplementedError

    def _sentence(self) -> str:
        raise NotImplementedError
