"""The book needs no network: what would load from another host is taken out, or is a warning."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.util import logging

logger = logging.getLogger(__name__)

# Elements that make a browser fetch something; `rel="canonical"` and the like do not.
_REMOTE = re.compile(
    r"""<(?!link\b[^>]*\brel=["']?(?:canonical|author|license|next|prev|index|search)\b)"""
    r"""(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*?"""
    r"""\b(?:src|srcset|href|data|poster)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:@import\s*|url\(\s*)["']?((?:https?:)?//[^"')\s]+)"""
)

_THEBE_SETTINGS = re.compile(r'<script type="text/x-thebe-config">.*?</script>', re.DOTALL)


def _without_thebe(app, pagename, templatename, context, doctree):
    """Thebe, which turns pages into notebooks, comes from a content network: leave it out."""
    for kind in ("script_files", "css_files"):
        if kind in context:
            context[kind] = [file for file in context[kind] if "thebe" not in _text(file).lower()]
    if "body" in context:
        context["body"] = _THEBE_SETTINGS.sub("", context["body"])


def _text(file) -> str:
    return f"{getattr(file, 'filename', None) or file} {getattr(file, 'attributes', {}).get('body', '')}"


def _check(app, exception):
    if exception or app.builder.format != "html":
        return
    for file in sorted(Path(app.outdir).rglob("*")):
        if file.suffix in (".html", ".css"):
            for found in _REMOTE.finditer(file.read_text(encoding="utf-8")):
                address = found[1] or found[2]
                logger.warning("%s loads %s", file.relative_to(app.outdir), address, type="offline")


def setup(app):
    app.connect("html-page-context", _without_thebe, priority=900)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
