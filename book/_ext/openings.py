"""The box that opens a chapter says how long the chapter is: counted while the book is built."""

from __future__ import annotations

from docutils import nodes

_WORDS_A_MINUTE = 200
# What a first reading leaves out: exercises, solutions, and code that is folded.
_LEFT_OUT = {"exercise", "solution", "above-input"}


def _words(node: nodes.Node) -> int:
    """Words, with code and the source of formulas."""
    if isinstance(node, nodes.Text):
        return len(node.split())
    if isinstance(node, nodes.Invisible | nodes.raw) or _LEFT_OUT & set(node["classes"]):
        return 0
    return sum(map(_words, node.children))


def _add_minutes(app, doctree, docname):
    for box in list(doctree.findall(nodes.Admonition)):
        if "opening" in box["classes"]:
            # The box stands in the section that is the chapter; in print, the document is the whole book.
            minutes = max(1, round(_words(box.parent) / _WORDS_A_MINUTE))
            box += nodes.paragraph(
                "", "", nodes.strong("", "To read:"), nodes.Text(f" about {minutes} minutes, without the exercises.")
            )


def setup(app):
    app.connect("doctree-resolved", _add_minutes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
