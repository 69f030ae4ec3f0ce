"""Results as tables: HTML in a notebook and on the book's pages, aligned plain text in a terminal.

The numbers are rounded once, as text, and both forms show the same text: a notebook that is executed again on another
processor stores the same table. On a phone the table scrolls in its own box, and its first column stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Table", "table"]

# A table is complete in itself, for JupyterLab and Colab; where a page has colours, it takes those.
_STYLE = """<style>
.companion-table { overflow-x: auto; max-width: 100%; width: fit-content; margin: 0.5rem 0 }
.companion-table table { border-collapse: collapse; width: auto; margin: 0; color: inherit;
  font-variant-numeric: tabular-nums }
.companion-table .title { position: sticky; left: 0; padding: 0 0.7rem 0.4rem }
.companion-table :is(th, td) { padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; color: inherit;
  border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.35);
  background: var(--pst-color-background, var(--jp-layout-color0, var(--colab-primary-surface-color, Canvas))) }
.companion-table thead th { font-weight: 600; vertical-align: bottom; border-bottom-width: 2px }
.companion-table tbody th { font-weight: 400; max-width: 11rem }
.companion-table tr > :first-child { position: sticky; left: 0; z-index: 1 }
.companion-table .number { text-align: right; white-space: nowrap }
.companion-table .best { font-weight: 700 }
</style>"""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Table:
    """Rounded cells under a header; `table` makes one. In a terminal it is text, in a notebook HTML.

    In both, the best cells are marked: with a star, or in bold.
    """

    header: list[str]
    cells: list[list[str]]
    numeric: list[bool]
    best: set[tuple[int, int]]
    title: str

    def __repr__(self) -> str:
        lines = [self.header, *self.cells]
        if self.best:
            marks = [[" *"[(r, c) in self.best] for c in range(len(self.header))] for r in range(-1, len(self.cells))]
            lines = [[text + mark for text, mark in zip(*pair, strict=True)] for pair in zip(lines, marks, strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [str.rjust if number else str.ljust for number in self.numeric]
        texts = [
            "  ".join(align(text, width) for align, text, width in zip(right, line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *texts] if self.title else texts)

    def _repr_html_(self) -> str:
        def cell(r: int, c: int, text: str) -> str:
            classes = " ".join(["number"] * self.numeric[c] + ["best"] * ((r, c) in self.best))
            tag = "td" if r >= 0 and c > 0 else "th"
            scope = {"td": "", "th": ' scope="row"' if r >= 0 else ' scope="col"'}[tag]
            return f"<{tag}{scope}" + (f' class="{classes}"' if classes else "") + f">{_html(text)}</{tag}>"

        head, *body = (
            "<tr>" + "".join(cell(r, c, text) for c, text in enumerate(line)) + "</tr>"
            for r, line in enumerate([self.header, *self.cells], start=-1)
        )
        # Not a caption, which would be no wider than the table.
        title = f'<div class="title">{_html(self.title)}</div>\n' if self.title else ""
        name = f' aria-label="{escape(self.title)}"' if self.title else ""
        return (
            f'{_STYLE}\n<div class="companion-table">\n{title}<table{name}>\n<thead>{head}</thead>\n<tbody>\n'
            + "\n".join(body)
            + "\n</tbody></table></div>"
        )


def table(
    rows: Iterable[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]],
    *,
    formats: str | Mapping[str, str] = ".3g",
    best: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
    title: str = "",
) -> Table:
    """Rows as a table.

    Args:
        rows: a mapping for each row, from the names of the columns to the cells: numbers, arrays or tensors of one
            element, texts, truth values, or None for an empty cell; a cell that a row does not name is empty. Or a
            mapping from the names of the rows, which become the first column, to such rows. A unit belongs into the
            name of the column, "radius (turns)"; `r_in` gets a subscript.
        formats: how to round, as in an f-string (".3g", ".2f", ".0%"): one for all, or one a column, ".3g" where none
            is given. Round so far that another processor shows the same. Integers are never rounded.
        best: `min` or `max` marks the best number of each row; a mapping from names of columns to `min` or `max` marks
            the best of each of these columns. What is equal after rounding is equally good.
        title: a line above the table.

    Returns:
        The table; as the last line of a notebook's cell it is shown.

    Raises:
        ValueError: no cell at all; a format or a best for a column that is not there; a cell of more than one element.
    """
    if isinstance(rows, Mapping):
        rows = [{"": name, **row} for name, row in rows.items()]
    values = [{name: _value(name, cell) for name, cell in row.items()} for row in rows]
    header = list(dict.fromkeys(name for row in values for name in row))
    if not header:
        raise ValueError("rows must hold at least one cell, got none")
    for argument, names in (("formats", formats), ("best", best)):
        if isinstance(names, Mapping) and not names.keys() <= set(header):
            raise ValueError(f"{argument} must name columns among {header}, got {list(names)}")
    rule = dict.fromkeys(header, formats) if isinstance(formats, str) else {**dict.fromkeys(header, ".3g"), **formats}
    cells = [[_text(row.get(name), rule[name]) for name in header] for row in values]
    numeric = [{type(row.get(name)) for row in values} <= {float, int, type(None)} for name in header]

    every_row, every_column = range(len(values)), range(len(header))
    groups = []
    if isinstance(best, Mapping):
        groups = [(choose, [(r, header.index(name)) for r in every_row]) for name, choose in best.items()]
    elif best is not None:
        groups = [(best, [(r, c) for c in every_column]) for r in every_row]
    marked = set()
    for choose, group in groups:
        numbers = {(r, c): values[r].get(header[c]) for r, c in group}
        numbers = {at: number for at, number in numbers.items() if type(number) in (float, int) and number == number}
        if numbers:
            r, c = choose(numbers, key=numbers.__getitem__)
            marked |= {at for at in numbers if cells[at[0]][at[1]] == cells[r][c]}
    return Table(header, cells, numeric, marked, title)


def _value(name: str, cell: Any) -> Any:
    """A cell as a Python number, text, truth value or None."""
    try:
        return cell.item() if hasattr(cell, "item") else cell
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"the cells of column {name!r} must be single values, got {cell!r}") from error


def _text(value: Any, rule: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    text = f"{value:{rule}}"
    if not re.search("[1-9]", text):
        text = text.removeprefix("-")  # what rounds to zero has no sign
    mantissa, exponential, exponent = text.partition("e")
    if exponential:
        mantissa += f" × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return mantissa.replace("-", "−").replace("%", " %")


def _html(text: str) -> str:
    return re.sub(r"\b([^\W\d_])_(\w+)", r"<i>\1</i><sub>\2</sub>", escape(text))
