"""Lets Sphinx write the whole book as one page, which `tools/pdf.py` prints.

The extensions say how to write their nodes for the builder `html` only. Whatever it can do, `singlehtml` can.
"""

from __future__ import annotations

from sphinx.application import Sphinx


def _share(app: Sphinx) -> None:
    handlers = app.registry.translation_handlers
    if app.builder.name == "singlehtml":
        handlers["singlehtml"] = handlers["html"] | handlers.get("singlehtml", {})


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", _share)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
