"""Brings the widgets of `companion.widgets` to life on pages without a kernel.

A widget's stored output holds a placeholder with the module's name and the state. This extension writes every ES
module as a script of its own, because a page opened from the disk may not import files, and adds to each page those
that its placeholders need, and the stand-in for the kernel.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes

from companion import widgets

_PLACEHOLDER = re.compile(r'class="companion-widget" data-module="(\w+)"')
_SHIM = Path(__file__).with_name("shim.js")


def scripts(html: str) -> list[str]:
    """The scripts, in the order of loading, that the placeholders in some HTML need; none without placeholders."""
    found = _PLACEHOLDER.findall(html)
    needed = dict.fromkeys(module for name in found for module in widgets.modules(name))
    return [f"widgets/{module}.js" for module in needed] + ["widgets/shim.js"] * bool(found)


def write(folder: Path) -> None:
    """Write every script into a folder `widgets`, made if it is not there."""
    folder = folder / "widgets"
    folder.mkdir(parents=True, exist_ok=True)
    for name in widgets.registry:
        for module, text in widgets.modules(name).items():
            kept = f"(globalThis.companionModules ??= {{}}).{module} = {json.dumps(text, ensure_ascii=False)};\n"
            (folder / f"{module}.js").write_text(kept, encoding="utf-8")
    (folder / "shim.js").write_text(_SHIM.read_text(encoding="utf-8"), encoding="utf-8")


def _write(app):
    if app.builder.format == "html":
        write(Path(app.outdir, "_static"))


def _add(app, pagename, templatename, context, doctree):
    raw = doctree.findall(nodes.raw) if doctree else ()
    for script in scripts("\n".join(node.astext() for node in raw)):
        app.add_js_file(script, loading_method="defer")


def setup(app):
    app.connect("builder-inited", _write)
    app.connect("html-page-context", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
