"""Docstrings are plain text: outside code, a star or an underscore is itself and not a mark-up."""

from __future__ import annotations

import re


def _escape(app, what, name, obj, options, lines):
    lines[:] = [
        re.sub(r"(`[^`]*`)|([*|]|_\b)", lambda found: found[1] or "\\" + found[2], line) for line in lines
    ]


def _skip(app, what, name, obj, skip, options):
    """The fields of a named tuple stand in its docstring already."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
