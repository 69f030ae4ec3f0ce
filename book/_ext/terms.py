"""A term of the glossary shows its definition where it is linked, to the mouse and to the keyboard.

`{term}` makes the link; the definition is written behind it while the book is built, and book.css shows it.
"""

from __future__ import annotations

from docutils import nodes


class defined(nodes.Inline, nodes.TextElement):
    """A link to the glossary; in its attribute `definition`, unseen by the search, what is shown beside it."""


def _definitions(app) -> dict[str, list[nodes.Node]]:
    """The definition of each anchor of the glossary, without links of its own."""
    terms = {place for (kind, _), place in app.env.domains["std"].objects.items() if kind == "term"}
    found = {}
    for page in {page for page, _ in terms}:
        doctree = app.env.get_and_resolve_doctree(page, app.builder)
        for item in doctree.findall(nodes.definition_list_item):
            for link in list(item.findall(nodes.reference)):
                link.replace_self(link.children)
            texts = item.next_node(nodes.definition).findall(nodes.paragraph)
            content = [part for text in texts for part in (*text.children, nodes.Text(" "))]
            found |= {anchor: content for term in item.findall(nodes.term) for anchor in term["ids"]}
    return found


def _define(app, doctree, docname):
    links = [link.parent for link in doctree.findall(nodes.inline) if "std-term" in link["classes"]]
    links = [link for link in links if isinstance(link, nodes.reference)]
    if not links or app.builder.format != "html":
        return
    if not hasattr(app, "definitions"):
        app.definitions = {}  # the glossary itself comes here, too
        app.definitions = _definitions(app)
    for number, link in enumerate(links):
        definition = app.definitions.get(link.get("refuri", "").partition("#")[2])
        if definition:
            shown = defined(definition=definition, number=number)
            link.replace_self(shown)
            shown += link


def _visit(translator, node):
    node["start"] = len(translator.body)
    translator.body.append('<span class="defined">')


def _depart(translator, node):
    name, body = f"definition-{node['number']}", translator.body
    link = node["start"] + 1
    body[link] = body[link].replace("<a ", f'<a aria-describedby="{name}" ', 1)
    body.append(f'<span class="meaning" id="{name}" role="tooltip">')
    for part in node["definition"]:
        part.walkabout(translator)
    body.append("</span></span>")


def setup(app):
    app.add_node(defined, html=(_visit, _depart))
    app.connect("doctree-resolved", _define)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
