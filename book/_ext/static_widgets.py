"""Brings the widgets of `companion.widgets` to life on pages without a kernel.

A widget's stored output holds a placeholder with the module's name and the state. This extension writes one
script with every module and a stand-in for the kernel, and adds it to the pages that have a placeholder only.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes

from companion import widgets

_SCRIPT = "static_widgets.js"


def script() -> str:
    """The script of the static pages: shim.js with the widgets' modules written in."""
    modules = {name: widgets.javascript(name) for name in ("circle", "theorem1")}
    shim = Path(__file__).with_name("shim.js").read_text(encoding="utf-8")
    return shim.replace("{/* MODULES */}", json.dumps(modules, ensure_ascii=False))


def _write(app):
    if app.builder.format == "html":
        static = Path(app.outdir, "_static")
        static.mkdir(parents=True, exist_ok=True)
        (static / _SCRIPT).write_text(script(), encoding="utf-8")


def _add(app, pagename, templatename, context, doctree):
    raw = doctree.findall(nodes.raw) if doctree else ()
    if any('class="companion-widget"' in node.astext() for node in raw):
        app.add_js_file(_SCRIPT, loading_method="defer")


def setup(app):
    app.connect("builder-inited", _write)
    app.connect("html-page-context", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
