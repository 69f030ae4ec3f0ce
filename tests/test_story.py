"""One thread, one voice, pages that fit: what CONTRIBUTING.md asks of a chapter, as far as a test can ask it."""

import re

import pytest
import yaml
from test_notebooks import NOTEBOOKS, ROOT, code_cells, read, source

PAGES = sorted(page for page in (ROOT / "book").glob("*.md") if page.stem != "deck")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").partition("{glossary}")[2]
TERMS = [line.lower() for line in GLOSSARY.splitlines() if re.match(r"\w", line)]

_CODE = re.compile(r"```python.*?```|`[^`]*`", re.DOTALL)
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\begin\{align.*?\\end\{align\*?\}", re.DOTALL)
_ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")


def texts(path):
    """What a chapter says in words: its Markdown cells, captions and alternative texts."""
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            yield source(cell)
        settings = cell["metadata"].get("mystnb", {})
        yield settings.get("figure", {}).get("caption", "")
        yield settings.get("image", {}).get("alt", "")


def prose(text, *, without=()):
    """The words of Markdown: without code and formulas, and without the roles named."""
    text = _ROLE.sub(lambda role: "" if role[1] in without else role[2].partition("<")[0], text)
    return _FORMULA.sub("", _CODE.sub("", text))


def too_long(path):
    for cell in code_cells(path)[1:]:
        for line in source(cell).splitlines():
            if len(line) > 75:
                yield f"a line of {len(line)} columns; 75 fit: {line}"


def columns_printed(path):
    """Columns belong in a table; what is printed are a few sentences."""
    for cell in code_cells(path):
        printed = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        if len(printed.splitlines()) > 3 or re.search(r"\S  |^ ", printed, re.MULTILINE):
            yield f"prints more than three lines, or columns; use companion.tables.table:\n{printed}"


def numbers_without_a_link(path):
    for text in texts(path):
        for found in re.finditer(r".{0,40}\([456]\)", prose(text, without={"eq"})):
            yield f"an equation of the paper without a link: {found[0]}"
        if re.search(r"\{prf:theorem\} Theorem \d", text):
            yield "a theorem of the paper is titled by its authors; its number comes by itself"


def shows_picture(cell):
    shown = [output.get("data", {}) for output in cell["outputs"]]
    return any("image/png" in data or "companion-widget" in "".join(data.get("text/html", "")) for data in shown)


def figures(path):
    for cell in filter(shows_picture, code_cells(path)):
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        name = f"the figure of {cell['id']}"
        if len(figure.get("caption", "")) < 20 or not figure.get("name", "").startswith("fig-"):
            yield f"{name} has no caption, or no name that begins with fig-"
        long = len(source(cell).splitlines()) > 5
        if long and "hide-input" not in cell["metadata"].get("tags", []):
            yield f"{name} shows its code: tag it hide-input, and compute in a cell of its own"


def opening(path):
    """Title and question; the picture; the box."""
    cells = read(path)["cells"][1:]
    start = "".join(source(cell) + "\n\n" for cell in cells if cell["cell_type"] == "markdown")
    if not re.match(r"# .+\n\n\*[^*]+\?\*", start):
        yield "does not open with its title and its question, in italics"
    first = [cell["cell_type"] for cell in cells].index("code")
    if first != 1 or not any(map(shows_picture, [cell for cell in cells[1:5] if cell["cell_type"] == "code"])):
        yield "has no picture below the question"
    before = start.partition("\n## ")[0]
    box = re.search(r"```\{admonition\} In this chapter\n:class: opening\n(.*?)\n```", before, re.DOTALL)
    if not box or not re.search(r"\*\*You will learn\*\*\n\n- .*\n\n\*\*You need\*\* \S", box[1], re.DOTALL):
        yield "has no box 'In this chapter' before the first section"


def handover(path):
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    order = [chapter["file"].removeprefix("book/") for part in parts for chapter in part["chapters"]]
    after = order[order.index(path.stem) + 1 :]
    chapters = [name for name in after if (ROOT / "book" / f"{name}.ipynb").is_file()]
    end = source(read(path)["cells"][-1]).rpartition("\n## ")[2]
    if chapters and not re.search(rf"\{{doc\}}`([^`]*<)?{chapters[0]}>?`", end):
        yield f"does not end with a link to the next chapter, {chapters[0]}"


_SLIDES = re.compile(r".{0,40}(?:\bdecks?\b|\b(?:the|a|an|each|every|these|those|this|on|next|last) slides?\b).{0,20}")


def slides(path):
    everything = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    everything += [re.sub(r"\{\w+\}`[^`]*\bdeck\b[^`]*`", "", text) for text in texts(path)]
    for text in everything:
        for found in _SLIDES.finditer(text):
            yield f"speaks of slides: {found[0]}"


def linked_terms(path):
    roles = [role for text in texts(path) for role in _ROLE.finditer(text) if role[1] == "term"]
    return {(role[2].partition("<")[2].strip("> ") or role[2]).lower() for role in roles}


def terms_without_a_link(path):
    text = "\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    without_titles = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    words = " ".join(prose(without_titles, without={"doc", "cite:t", "cite:p", "ref", "prf:ref"}).lower().split())
    for term in sorted(TERMS, key=len, reverse=True):  # "latent radius" is neither "latent" nor "radius"
        words, used = re.subn(rf"\b{term}s?\b", "", words)
        if used and term not in linked_terms(path):
            yield f"the term '{term}' is used and nowhere linked to the glossary"


RULES = (
    too_long,
    columns_printed,
    numbers_without_a_link,
    figures,
    opening,
    handover,
    slides,
    terms_without_a_link,
)


def judge(name, wrong):
    assert not wrong, f"{name}:\n- " + "\n- ".join(wrong)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter(path):
    judge(path.stem, [sentence for rule in RULES for sentence in rule(path)])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path):
    text = re.sub(r"\{\w+\}`[^`]*\bdeck\b[^`]*`", "", path.read_text(encoding="utf-8"))
    judge(path.stem, _SLIDES.findall(text))


def test_every_term_is_linked_from_a_chapter():
    assert set(TERMS) <= set().union(*map(linked_terms, NOTEBOOKS))
