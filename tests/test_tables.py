"""Tables of results: one rounding for text and HTML, aligned, described to screen readers, safe."""

import re

import numpy as np
import pytest
import torch

from companion.tables import table

ROWS = [
    {"offset": 0.0, "classes": 2, "law": torch.tensor(0.32181, dtype=torch.float64), "proved": True},
    {"offset": -0.25, "classes": 20_000, "law": np.float64(0.0000321), "proved": False},
    {"offset": 0.5, "classes": None, "law": float("inf"), "proved": True},
]


def html_cells(shown):
    """The texts of the HTML table, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", shown._repr_html_())
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_text_is_aligned_numbers_to_the_right():
    assert repr(table(ROWS, formats={"offset": ".2f"}, title="Half-planes")).splitlines() == [
        "Half-planes",
        "offset  classes          law  proved",
        "  0.00        2        0.322  yes",
        " −0.25   20,000  3.21 × 10⁻⁵  no",
        "  0.50                     ∞  yes",
    ]


def test_text_and_html_show_the_same_cells():
    shown = table(ROWS)
    assert html_cells(shown) == [shown.header, *shown.cells]
    assert '<th scope="col" class="number">law</th>' in shown._repr_html_()
    assert '<th scope="row" class="number">0.5</th>' in shown._repr_html_()
    assert shown._repr_html_() == table(ROWS)._repr_html_()


def test_named_rows_and_cells_that_are_not_there():
    shown = table({"FGSM": {"fools": 0.92}, "JSMA": {"fools": 1.0, "pixels": 8}}, formats=".0%")
    assert repr(shown).splitlines() == ["      fools  pixels", "FGSM   92 %", "JSMA  100 %       8"]


def test_best_of_a_column_and_of_a_row_ties_after_rounding():
    rows = {"a": {"x": 0.501, "y": 3}, "b": {"x": 0.499, "y": 5}, "c": {"x": 0.7, "y": None}, "d": {"x": float("nan")}}
    assert table(rows, formats=".1f", best={"x": min, "y": max}).best == {(0, 1), (1, 1), (1, 2)}
    assert table(rows, formats=".1f", best=max).best == {(0, 2), (1, 2), (2, 1)}
    lines = repr(table(rows, formats=".1f", best={"y": max})).splitlines()
    assert lines[1:3] == ["a            0.5   3", "b            0.5   5*"]
    assert 'class="number best">5</td>' in table(rows, best={"y": max})._repr_html_()


def test_what_rounds_to_zero_has_no_sign():
    assert table([{"x": -1e-9}], formats=".2f").cells == [["0.00"]]


def test_html_is_escaped_and_radii_get_subscripts():
    shown = table([{"<b>": "a < b", "r_in / L": 1.0}], title="r_Z & co")._repr_html_()
    for expected in ("&lt;b&gt;", "a &lt; b", "<i>r</i><sub>in</sub> / L", "<i>r</i><sub>Z</sub> &amp; co"):
        assert expected in shown
    assert "minimal_l2" in table([{"attack": "minimal_l2"}])._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, "rows must hold"),
        ({"rows": [{}]}, "rows must hold"),
        ({"rows": ROWS, "formats": {"x": ".2f"}}, r"formats must name columns among .*'offset'"),
        ({"rows": ROWS, "best": {"x": min}}, "best must name columns"),
        ({"rows": [{"x": torch.ones(2)}]}, "column 'x' must be single values"),
        ({"rows": [{"x": np.ones(2)}]}, "column 'x' must be single values"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        table(**arguments)
