"""What search engines and messengers show of a page: its first paragraph, its title and the book's picture."""

from __future__ import annotations

from html import escape
from textwrap import shorten

from docutils import nodes

_PICTURE = "A photograph of a car, plus a little coloured noise, equals one that looks the same but is called ship"


def _describe(app, pagename, templatename, context, doctree):
    paragraph = doctree.next_node(nodes.paragraph) if doctree else None
    if paragraph is None:
        return
    description = shorten(paragraph.astext(), 200, placeholder=" …")
    base = app.config.html_baseurl
    tags = {
        "name": {"description": description, "twitter:card": "summary_large_image"},
        "property": {
            "og:type": "article",
            "og:site_name": app.config.html_title,
            "og:title": app.env.titles[pagename].astext(),
            "og:description": description,
            "og:url": f"{base}{app.builder.get_target_uri(pagename)}",
            "og:image": f"{base}_static/opening.png",
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
