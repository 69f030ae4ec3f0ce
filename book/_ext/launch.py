"""Launch copies: the chapters in plain Markdown, for JupyterLab, Colab and editors, which know no directives or roles.

The launch buttons open `launch/book/NAME.ipynb`. Every build of the book makes these copies from `book/NAME.ipynb`, in
`_build/launch`; `make launch` takes them from there. Code cells stay as they are, without outputs. Numbers, names and
addresses are those of the pages: Sphinx resolves every role. What has no plain form stops the build, with its cell.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from pathlib import Path
from textwrap import indent
from urllib.parse import urljoin

import nbformat
from docutils import nodes
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.parsers.mdit import create_md_parser
from myst_parser.parsers.sphinx_ import MystParser
from nbformat import NotebookNode
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransformer
from sphinx.util.docutils import new_document, sphinx_domains

_NOTES = {"attention", "caution", "danger", "error", "hint", "important", "note", "seealso", "tip", "warning"}
_BOXES = {"admonition", "margin", "sidebar", "topic"}
# What every notebook interface shows; the names are the parser's.
_PLAIN = set(
    "amsmath blockquote bullet_list code_block code_inline em fence hardbreak heading hr html_block html_inline image "
    "inline link list_item math_block math_inline math_inline_double ordered_list paragraph softbreak strong table "
    "tbody td text th thead tr".split()
)
_PLAIN_ATTRIBUTES = {"alt", "href", "src", "start", "style", "title"}


class Chapter:
    """A chapter and what its copy needs from Sphinx."""

    def __init__(self, app, docname: str):
        self.app, self.docname = app, docname
        self.path = Path(app.env.doc2path(docname))
        self.page = urljoin(app.config.html_baseurl, app.builder.get_target_uri(docname))
        self.parser = create_md_parser(app.env.myst_config, RendererHTML)
        self.macros = app.config.katex_macros
        names = "|".join(re.escape(name) for name in self.macros)
        # A role, or code, in which nothing is replaced, or a macro.
        self.inline = re.compile(
            r"\{(?P<role>[\w:.+-]+)\}(?P<quote>`+)(?P<text>.+?)(?<!`)(?P=quote)(?!`)"
            rf"|(?P<code>`+).+?(?<!`)(?P=code)(?!`)|(?P<macro>{names})(?![A-Za-z])",
            re.DOTALL,
        )
        self.resolve = cache(self._resolve)
        self.where = self.solution = ""  # the cell at work; the solution that an earlier cell began

    def copy(self) -> NotebookNode:
        """The notebook that is launched."""
        notebook = nbformat.read(self.path, as_version=4)
        notebook.cells = list(chain.from_iterable(map(self._cells, notebook.cells)))
        title = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
        title.source = re.sub("(?<=\n)|$", lambda _: f"\n{self._origin()}\n", title.source, count=1)
        nbformat.validate(notebook)
        return notebook

    def _origin(self) -> str:
        options = self.app.config.html_theme_options
        name = f"{self.docname}.ipynb"
        source = f"[{name}]({options['repository_url']}/blob/{options['repository_branch']}/{name})"
        return f"<small>A copy to run, made from {source}. To read: [the page of the book]({self.page}).</small>"

    def _cells(self, cell: NotebookNode) -> list[NotebookNode]:
        """What a cell becomes: itself, and behind it the caption of its figure, if it has one."""
        self.where = f"{self.docname}.ipynb, cell {cell.id}"
        if cell.cell_type == "markdown":
            cell.source = self._markdown(cell.source)
            return [cell] if cell.source else []
        cell.outputs, cell.execution_count = [], None
        if "hide-input" in cell.metadata.get("tags", ()):
            cell.metadata["jupyter"] = {"source_hidden": True}
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" not in figure:
            return [cell]
        caption = self._markdown(self._caption(figure.get("name"), figure["caption"]))
        return [cell, nbformat.v4.new_markdown_cell(caption, id=f"{cell.id}-caption")]

    def _markdown(self, source: str) -> str:
        """A cell's Markdown without MyST."""
        source = self._over_cells(self._blocks(source))
        source = re.sub(r"\n{3,}", "\n\n", self.inline.sub(self._inline, source)).strip()
        self._check(self.parser.parse(source))
        return source

    def _blocks(self, source: str) -> str:
        """Markdown without directives and labels; from its end, so that the lines before keep their numbers."""
        lines = source.split("\n")
        for token in reversed(self.parser.parse(source)):
            if token.type in ("fence", "colon_fence") and token.info.startswith("{"):
                margin = re.match(r"\s*", lines[token.map[0]])[0]
                lines[slice(*token.map)] = ["", indent(self._directive(token), margin), ""]
            elif token.type == "math_block_label":
                number = self._name("eq", token.info).strip("()")
                last = token.map[1] - 1
                lines[last] = re.sub(r"\$\$\s*\(.*\)\s*$", rf"\\tag{{{number}}}\n$$", lines[last])
            elif token.type == "myst_target":
                del lines[slice(*token.map)]
        return "\n".join(lines)

    def _directive(self, token: Token) -> str:
        name, title = re.fullmatch(r"\{([\w:-]+)\}\s*(.*?)\s*", token.info).groups()
        fields = re.match(r"(?::[\w-]+:.*\n?)*", token.content)[0]
        options = dict(re.findall(r":([\w-]+):[ \t]*(.*?)[ \t]*(?:\n|$)", fields))
        body = self._blocks(token.content[len(fields) :]).strip("\n")
        kind = name.removeprefix("prf:").capitalize()
        match name:
            case "solution":
                return f"{_summary(self._solution(title))}\n\n{body}\n\n</details>"
            case "solution-start":
                return _summary(self._solution(title))
            case "solution-end":
                return "</details>"
            case "exercise":
                head = _titled(self._name("ref", options.get("label")), title)
            case "prf:proof":
                head = _titled(kind, title)
            case _ if name.startswith("prf:"):
                head = _titled(kind if "nonumber" in options else self._name("prf:ref", options.get("label")), title)
            case "figure":
                address = self._image(title)
                return f"![{options.get('alt', '')}]({address})\n\n{self._caption(options.get('name'), body)}"
            case "raw" if title == "html":
                return body or f"*Drawn on [the page of the book]({self.page}).*"
            case "dropdown":
                return f"{_summary(title)}\n\n{body}\n\n</details>"
            case _ if name in _BOXES | _NOTES:
                title = title if name in _BOXES else kind
                if "dropdown" in options.get("class", ""):
                    return f"{_summary(title)}\n\n{body}\n\n</details>"
                head = f"**{title}**" if title else ""
            case _:
                raise self._error(f"the directive {{{name}}} has no plain form")
        return f"<blockquote>\n\n{head}\n\n{body}\n\n</blockquote>"

    def _over_cells(self, text: str) -> str:
        """HTML does not reach from cell to cell: a solution that does is folded cell by cell."""
        if self.solution:
            text = f"{_summary(self.solution + ', continued')}\n\n{text}"
        self.solution = ""
        if text.count("<details>") > text.count("</details>"):
            self.solution = re.findall("<summary>(Solution.*?)(?:, continued)?</summary>", text)[-1]
            text += "\n\n</details>"
        text = re.sub(r"<details>\s*<summary>[^<]*, continued</summary>\s*</details>", "", text)
        return re.sub(r"<details>\s*<summary>([^<]*)</summary>\s*</details>", r"**\1:** the next cell.", text)

    def _inline(self, found: re.Match) -> str:
        if found["role"]:
            return self._plain(self.resolve(found["role"], found["text"]))
        return found[0] if found["code"] else self.macros[found["macro"]]

    def _resolve(self, role: str, text: str) -> nodes.paragraph:
        """What a role stands for on the chapter's page."""
        env = self.app.env
        document = new_document(str(self.path))
        document.settings.env = env
        env.prepare_settings(self.docname)
        with sphinx_domains(env):
            MystParser().parse(f"{{{role}}}`{text}`", document)
        transformer = SphinxTransformer(document)
        transformer.set_environment(env)
        transformer.add_transforms(self.app.registry.get_post_transforms())
        transformer.apply_transforms()
        if not document.next_node(nodes.reference):
            raise self._error(f"the role {{{role}}}`{text}` leads nowhere, or has no plain form")
        return document.next_node(nodes.paragraph)

    def _plain(self, node: nodes.Node) -> str:
        """A resolved role as Markdown."""
        if isinstance(node, nodes.Text):
            return node.translate(str.maketrans("[]\n", "() "))  # in Markdown, square brackets are for links
        inside = "".join(map(self._plain, node.children))
        if isinstance(node, nodes.reference):
            address = node["refuri"] if "refuri" in node else f"#{node['refid']}"
            return f"[{inside}]({urljoin(self.page, address)})"
        if isinstance(node, nodes.paragraph | nodes.inline):
            return inside
        if isinstance(node, nodes.emphasis):
            return f"*{inside}*"
        if isinstance(node, nodes.literal):
            return f"`{inside}`"
        raise self._error(f"{type(node).__name__} in a reference has no plain form")

    def _name(self, role: str, label: str | None) -> str:
        """What a label is called: "Theorem 2.1", "Exercise 2.3", "(2.5)"."""
        if label is None:
            raise self._error("what is numbered needs a label")
        return self.resolve(role, label).astext()

    def _solution(self, label: str) -> str:
        return f"Solution to {self._name('ref', label)}"

    def _caption(self, label: str | None, caption: str) -> str:
        return f"**{self._name('numref', label)}.** {caption}" if label else caption

    def _image(self, source: str) -> str:
        """The address of a picture on the built pages."""
        path, _ = self.app.env.relfn2path(source, self.docname)
        return urljoin(self.app.config.html_baseurl, f"{self.app.builder.imagedir}/{self.app.env.images[path][1]}")

    def _check(self, tokens: list[Token]) -> None:
        for token in tokens:
            name = re.sub("_(open|close)$", "", token.type)
            if name not in _PLAIN or token.info.startswith("{") or token.attrs.keys() - _PLAIN_ATTRIBUTES:
                what = f"{name} {token.info or token.attrs or token.meta or ''}"
                raise self._error(f"{what} has no plain form: {token.content[:60]!r}")
            address = token.attrGet("href") or token.attrGet("src") or "https:"
            if not re.match("https?:|mailto:", address):
                raise self._error(f"the link to {address} leads nowhere from the copy; use {{doc}} or {{ref}}")
            self._check(token.children or [])

    def _error(self, message: str) -> ExtensionError:
        return ExtensionError(f"{self.where}: {message} (book/_ext/launch.py)")


def _titled(name: str, title: str) -> str:
    return f"**{name}** ({title})" if title else f"**{name}**"


def _summary(title: str) -> str:
    return f"<details>\n<summary>{title}</summary>"


def _write(app, exception):
    if exception or app.builder.format != "html":
        return
    for name in sorted(app.env.all_docs):
        if app.env.doc2path(name).endswith(".ipynb"):
            target = Path(app.outdir).parent / "launch" / f"{name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(Chapter(app, name).copy(), target)


def _lead_to_the_copy(app, pagename, templatename, context, doctree):
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace(f"/{pagename}.ipynb", f"/launch/{pagename}.ipynb")


def setup(app):
    app.connect("html-page-context", _lead_to_the_copy, priority=900)  # after the theme has made the buttons
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
