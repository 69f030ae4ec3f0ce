"""The launch copies: current, plain, complete; their links lead somewhere, and the launch buttons lead to them."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
ADDRESS, REPOSITORY = CONFIG["html"]["baseurl"], CONFIG["repository"]["url"]
MACROS = CONFIG["sphinx"]["config"]["katex_macros"]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("name", CHAPTERS)


def source(name):
    return nbformat.read(ROOT / f"book/{name}.ipynb", as_version=4)


def copy(name):
    return nbformat.read(ROOT / f"launch/book/{name}.ipynb", as_version=4)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def outside_code(text):
    return re.sub(r"(`+).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def page(name):
    """The text of a built page."""
    path = SITE / name
    if not path.is_file():
        pytest.fail(f"{path} is not there; run: make book", pytrace=False)
    return path.read_text(encoding="utf-8")


def test_there_is_a_copy_of_every_chapter_and_nothing_else():
    assert CHAPTERS
    found = {path.relative_to(ROOT / "launch").as_posix() for path in (ROOT / "launch").rglob("*") if path.is_file()}
    assert found == {f"book/{name}.ipynb" for name in CHAPTERS}
    assert not (SITE / "launch").exists()  # they are no pages of the book


@every_chapter
def test_the_copy_is_the_one_that_the_build_makes(name):
    assert page(f"_sources/book/{name}.ipynb") == (ROOT / f"book/{name}.ipynb").read_text(encoding="utf-8"), (
        "the book is older than this chapter; run: make book"
    )
    made = ROOT / f"_build/launch/book/{name}.ipynb"
    assert made.read_bytes() == (ROOT / f"launch/book/{name}.ipynb").read_bytes(), "run: make launch"


@every_chapter
def test_it_runs_the_chapters_code(name):
    notebook = copy(name)
    nbformat.validate(notebook)
    mine, theirs = cells(notebook, "code"), cells(source(name), "code")
    assert [(cell.id, cell.source) for cell in mine] == [(cell.id, cell.source) for cell in theirs]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in mine)
    for cell, original in zip(mine, theirs, strict=True):
        folded = {"jupyter": {"source_hidden": True}} if "hide-input" in original.metadata.get("tags", ()) else {}
        assert cell.metadata == original.metadata | folded


@every_chapter
def test_nothing_in_it_is_myst(name):
    left = r"\{[\w:-]+\}`|^\s*(?:`{3,}|~{3,}|:{3,})\s*\{|^\([\w-]+\)=|^\$\$ *\(|^:[\w-]+:|\{\{|^\+\+\+|^% |\]\(#"
    macros = "|".join(rf"{re.escape(name)}(?![A-Za-z])" for name in MACROS)
    for cell in cells(copy(name), "markdown"):
        # A directive is no code span, though it has backticks.
        assert re.findall(r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{.*", cell.source, re.MULTILINE) == []
        assert re.findall(f"{left}|{macros}", outside_code(cell.source), re.MULTILINE) == []
        for tag in ("details", "summary", "blockquote"):
            assert cell.source.count(f"<{tag}>") == cell.source.count(f"</{tag}>")


@every_chapter
def test_it_says_everything_that_the_chapter_says(name):
    """Every line without markup is there, in its order."""
    text = iter("\n".join(cell.source for cell in cells(copy(name), "markdown")).splitlines())
    chapter = "\n".join(cell.source for cell in cells(source(name), "markdown"))
    marked = re.compile(r"[{}`]|^:|^\(.*\)=$|^\$\$ \(|^$|" + "|".join(map(re.escape, MACROS)))
    missing = [line for line in chapter.splitlines() if not marked.search(line) and line not in text]
    assert missing == []


@every_chapter
def test_it_says_where_it_is_from(name):
    line = cells(copy(name), "markdown")[0].source.splitlines()[2]
    assert line.startswith("<small>") and line.endswith("</small>")
    assert f"({REPOSITORY}/blob/main/book/{name}.ipynb)" in line
    assert f"({ADDRESS}book/{name}.html)" in line


@every_chapter
def test_its_links_lead_to_what_is_there(name):
    text = "\n".join(outside_code(cell.source) for cell in cells(copy(name), "markdown"))
    links = set(re.findall(r"\]\(([^)\s]+)\)", text))
    assert all(link.startswith("https://") for link in links)
    ours = {link.removeprefix(ADDRESS) for link in links if link.startswith(ADDRESS)}
    assert len(ours) > 5
    for link in ours:
        path, _, anchor = link.partition("#")
        assert not anchor or f'id="{anchor}"' in page(path), link
        assert page(path)


@every_chapter
def test_the_launch_buttons_lead_to_it_and_the_others_to_the_chapter(name):
    project = REPOSITORY.removeprefix("https://github.com/")
    assert set(re.findall(rf'href="([^"]*/{name}\.ipynb[^"]*)"', page(f"book/{name}.html"))) == {
        f"https://mybinder.org/v2/gh/{project}/main?urlpath=lab/tree/launch/book/{name}.ipynb",
        f"https://colab.research.google.com/github/{project}/blob/main/launch/book/{name}.ipynb",
        f"{REPOSITORY}/edit/main/book/{name}.ipynb",
        f"../_sources/book/{name}.ipynb",
    }


def test_the_pages_are_those_of_the_repository():
    owner, name = REPOSITORY.split("/")[-2:]
    assert ADDRESS == f"https://{owner}.github.io/{name}/"


CONF = """
extensions = ["myst_nb", "sphinx_proof", "sphinx_exercise", "launch"]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
html_baseurl = "https://example.org/"
html_theme_options = {"repository_url": "https://example.org/code", "repository_branch": "main"}
suppress_warnings = ["config"]
numfig = True
math_numfig = False

def setup(app):
    app.add_config_value("katex_macros", {r"\\P": r"\\mathbb{P}"}, "env")
"""
TEXT = """# One

```{prf:theorem} Large
:label: thm
It is large.
```

```{exercise}
:label: ex
How large?
```

```{figure} dot.png
:name: fig
A dot.
```

$$
1
$$ (eq)
"""
PLAIN = {
    "{prf:ref}`thm` and `{code}`": "[Theorem 1](https://example.org/one.html#thm) and `{code}`",
    "{doc}`the\nnext <two>`": "[the next](https://example.org/two.html)",
    r"`\P`, $\P(A)$ and $\Phi$": r"`\P`, $\mathbb{P}(A)$ and $\Phi$",
    "(label)=\n## Title": "## Title",
    "$$\nx\n$$ (eq)": "$$\nx\n\\tag{1}\n$$",
    "See\n```{prf:theorem} Large\n:label: thm\n$\\P$\n```\nhere": (
        "See\n\n<blockquote>\n\n**Theorem 1** (Large)\n\n$\\mathbb{P}$\n\n</blockquote>\n\nhere"
    ),
    "```{prf:proof}\nBy {ref}`ex`.\n```": (
        "<blockquote>\n\n**Proof**\n\nBy [Exercise 1](https://example.org/one.html#ex).\n\n</blockquote>"
    ),
    "````{tip}\n```{note}\nTwice.\n```\n````": (
        "<blockquote>\n\n**Tip**\n\n<blockquote>\n\n**Note**\n\nTwice.\n\n</blockquote>\n\n</blockquote>"
    ),
    "```{margin}\nAside.\n```": "<blockquote>\n\nAside.\n\n</blockquote>",
    "```{admonition} More\n:class: note dropdown\nHidden.\n```": (
        "<details>\n<summary>More</summary>\n\nHidden.\n\n</details>"
    ),
    "```{figure} dot.png\n:alt: a dot\n:name: fig\nA *dot*.\n```": (
        "![a dot](https://example.org/_images/dot.png)\n\n**Fig. 1.** A *dot*."
    ),
    "```{raw} html\n:file: dot.svg\n```": "*Drawn on [the page of the book](https://example.org/one.html).*",
    "```python\n{role}`x`\n```": "```python\n{role}`x`\n```",
}
REFUSED = {
    "{nonsense}`x`": "{nonsense}`x`",
    "{ref}`nowhere`": "{ref}`nowhere`",
    "{sub}`x`": "{sub}`x`",
    "```{tableofcontents}\n```": "{tableofcontents}",
    "```{prf:theorem}\nNo label.\n```": "needs a label",
    "% comment": "myst_line_comment",
    "A note[^1].\n\n[^1]: Here.": "footnote",
    "[x](two.md)": "two.md",
    "`x`{.python}": "class",
}


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    """The chapter one.ipynb of a very small book, to convert cells in."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    folder = tmp_path_factory.mktemp("book")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\none\ntwo\n```\n", encoding="utf-8")
    (folder / "two.md").write_text("# Two\n", encoding="utf-8")
    (folder / "dot.png").write_bytes((ROOT / "book/_assets/opening.png").read_bytes())
    text = nbformat.v4.new_markdown_cell(TEXT, id="text")
    nbformat.write(nbformat.v4.new_notebook(cells=[text]), folder / "one.ipynb")
    sys.path.insert(0, str(ROOT / "book/_ext"))
    with patch_docutils(str(folder)), docutils_namespace():
        import launch

        app = Sphinx(folder, folder, folder / "_build/html", folder / "_build/.doctrees", "html", status=None)
        app.build()
        assert (folder / "_build/launch/one.ipynb").is_file()
        yield launch.Chapter(app, "one")
    sys.path.remove(str(ROOT / "book/_ext"))


def converted(chapter, *cells):
    """The cells that become of these; a string stands for Markdown."""
    cells = [nbformat.v4.new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return [made for cell in cells for made in chapter._cells(cell)]


@pytest.mark.parametrize("markdown", PLAIN)
def test_markdown_becomes_plain(markdown, chapter):
    assert [cell.source for cell in converted(chapter, markdown)] == [PLAIN[markdown]]


@pytest.mark.parametrize("markdown", REFUSED)
def test_what_has_no_plain_form_is_refused_with_file_and_cell(markdown, chapter):
    with pytest.raises(Exception, match=re.escape(REFUSED[markdown])) as refused:
        converted(chapter, "Fine.", markdown)
    assert "one.ipynb, cell cell-1: " in str(refused.value)


def test_a_solution_over_several_cells_is_folded_cell_by_cell(chapter):
    code = nbformat.v4.new_code_cell("1 + 1")
    first, _, second, _, last = converted(
        chapter,
        "```{solution-start} ex\n:class: dropdown\n```",
        code.copy(),
        "Between.",
        code.copy(),
        "The end.\n```{solution-end}\n```\nAfter.",
    )
    assert first.source == "**Solution to Exercise 1:** the next cell."
    summary = "<summary>Solution to Exercise 1, continued</summary>"
    assert second.source == f"<details>\n{summary}\n\nBetween.\n\n</details>"
    assert last.source == f"<details>\n{summary}\n\nThe end.\n\n</details>\n\nAfter."


def test_the_caption_of_a_figure_follows_its_cell(chapter):
    figure = {"figure": {"caption": "A dot, $\\P$.", "name": "fig"}}
    code = nbformat.v4.new_code_cell("dot()", metadata={"mystnb": figure, "tags": ["hide-input"]})
    drawn, caption = converted(chapter, code)
    assert drawn.source == "dot()" and drawn.metadata.jupyter == {"source_hidden": True}
    assert (caption.id, caption.source) == ("cell-0-caption", "**Fig. 1.** A dot, $\\mathbb{P}$.")
