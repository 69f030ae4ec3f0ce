"""Docstrings are plain text: a star is a star, and what a module's docstring indents keeps its lines."""

from __future__ import annotations

import re


def _escape(app, what, name, obj, options, lines):
    lines[:] = [
        re.sub(r"(`[^`]*`)|([*|]|_\b)", lambda found: found[1] or "\\" + found[2], line) for line in lines
    ]
    if what == "module":
        starts = [n for n, line in enumerate(lines) if line.startswith("  ") and not lines[n - 1]]
        for n in reversed(starts):
            lines[n:n] = ["::", ""]


def _skip(app, what, name, obj, skip, options):
    """The fields of a named tuple stand in its docstring already."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
