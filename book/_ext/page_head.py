"""What search engines and messengers show of a page: its first paragraph, its title and the book's picture."""

from __future__ import annotations

from html import escape
from textwrap import shorten

from docutils import nodes

_PICTURE = "A circle cut by a line in a red and a blue part, and below it the bell curve that is wrapped around it"


def _describe(app, pagename, templatename, context, doctree):
    paragraph = doctree.next_node(nodes.paragraph) if doctree else None
    if paragraph is None:
        return
    description = shorten(paragraph.astext(), 200, placeholder=" …")
    base = app.config.html_baseurl
    tags = {
        "name": {"description": description, "twitter:card": "summary"},
        "property": {
            "og:type": "article",
            "og:site_name": app.config.html_title,
            "og:title": app.env.titles[pagename].astext(),
            "og:description": description,
            "og:url": f"{base}{app.builder.get_target_uri(pagename)}",
            "og:image": f"{base}_static/circle.png",
            "og:image:alt": _PICTURE,
        },
    }
    context["metatags"] += "".join(
        f'\n<meta {kind}="{name}" content="{escape(text)}" />'
        for kind, pairs in tags.items()
        for name, text in pairs.items()
    )


def setup(app):
    app.connect("html-page-context", _describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
