"""The built book in a real browser: complete, quiet and readable, wide and narrow, light and dark."""

import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from test_notebooks import NOTEBOOKS, ROOT

SITE = ROOT / "_build" / "html"
PAGES = sorted(
    page.relative_to(SITE).as_posix()
    for pattern in ("book/**/*.html", "search.html", "genindex.html")
    for page in SITE.glob(pattern)
)
AXE = SITE.parents[1] / "node_modules" / "axe-core" / "axe.min.js"
LOCAL = re.compile(r"(http://127\.0\.0\.1:|file:|data:|blob:)")

FORMULAS = r"""async () => {
  await document.fonts.ready;
  const all = [...document.querySelectorAll(".formula, .equation > .scroll")];
  const text = [...document.querySelectorAll("article :is(p, li, td, dd, figcaption)")].map((e) => {
    e = e.cloneNode(true);
    e.querySelectorAll("code, pre, .katex").forEach((part) => part.remove());
    return e.textContent;
  });
  return {
    all: all.length,
    typeset: all.filter((e) => e.querySelector(".katex .katex-html")).length,
    fonts: [...document.fonts].filter((f) => f.family.startsWith("KaTeX") && f.status === "loaded").length,
    source: text.filter((t) => /\$.+\$|\\begin|\\\(/.test(t)),
  };
}"""
IMAGES = """() => [...document.querySelectorAll("article img")].map((i) =>
  [i.alt, i.complete && i.naturalWidth > 0])"""
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 5).map((e) => e.outerHTML.slice(0, 200))"""


@contextmanager
def opened(browser, url, **options):
    """The page at `url`; console errors and requests to other hosts fail at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url}"))
    page.route(lambda url: not LOCAL.match(url), lambda r: (wrong.append(r.request.url), r.abort()))
    page.goto(url)
    yield page
    assert wrong == []
    context.close()


def obstacles(page):
    """What axe-core finds, serious or not, with the first place of each; formulas are KaTeX's."""
    found = page.evaluate("axe.run({ include: 'html', exclude: '.katex' })")["violations"]
    return {one["id"]: (one["nodes"][0]["html"][:300], one["nodes"][0]["failureSummary"]) for one in found}


def too_wide(page):
    """The elements that make the page wider than the screen."""
    return page.evaluate(TOO_WIDE)


def test_there_are_pages():
    assert {"book/index.html", "book/circle.html", "book/glossary.html", "search.html"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_page(name, browser, address):
    with opened(browser, f"{address}/{name}", color_scheme="light") as page:
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.title() and "\\" not in page.title()

        formulas = page.evaluate(FORMULAS)
        assert formulas["typeset"] == formulas["all"]
        assert formulas["fonts"] or not formulas["all"]
        assert formulas["source"] == []

        images = page.evaluate(IMAGES)
        assert all(shown and alt.strip() and "_images/" not in alt for alt, shown in images), images
        for widget in page.locator(".companion-widget").all():
            widget.scroll_into_view_if_needed()
            page.wait_for_function("(e) => 'ready' in e.dataset", arg=widget.element_handle())

        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert too_wide(page) == []
        assert obstacles(page) == {}
        page.set_viewport_size({"width": 360, "height": 800})
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert too_wide(page) == []
        assert obstacles(page) == {}


@pytest.mark.parametrize("where", ["served", "from the disk"])
def test_search_finds_the_chapter(where, browser, address):
    base = address if where == "served" else SITE.as_uri()
    with opened(browser, f"{base}/search.html?q=Lipschitz") as page:
        page.wait_for_selector("#search-results li a")
        links = page.locator("#search-results a").evaluate_all("(all) => all.map((a) => a.href)")
        assert any("smoothness" in link for link in links)


def test_a_page_opens_from_the_disk(browser):
    with opened(browser, (SITE / "index.html").as_uri()) as page:
        page.wait_for_url("**/book/index.html")
        page.wait_for_load_state("load")
        assert page.locator("article h1").inner_text().startswith("Adversarial vulnerability for any classifier")


def test_the_papers_theorems_and_equations_keep_their_numbers(browser, address):
    places = {"vulnerability": ["Theorem 1", "(4)", "(5)", "(6)"], "projection": ["Theorem 2"]}
    places |= {"transferability": ["Theorem 3"], "approximation": ["Theorem 4"]}
    for name, numbers in places.items():
        with opened(browser, f"{address}/book/{name}.html") as page:
            counted = page.locator("article :is(.caption-number, .eqno)").all_inner_texts()
            counted = [text.strip(" #\n") for text in counted]
            assert set(numbers) <= set(counted)
            assert [text for text in counted if re.fullmatch(r"Theorem \d+|\(\d+\)", text)] == numbers
    with opened(browser, f"{address}/book/circle.html") as page:
        assert page.locator("article a[href*='#thm-vulnerability']").first.inner_text() == "Theorem 1"
        assert page.locator("article a[href*='#equation-eq-vulnerability']").first.inner_text() == "(4)"


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_the_code_of_a_chapter_fits_a_laptop(name, browser, address):
    unfold = """() => document.querySelectorAll("details, .toggle-hidden").forEach((box) => {
        box.open = true;
        box.classList.remove("toggle-hidden");
    })"""
    too_long = """() => [...document.querySelectorAll("article .cell_input pre, article .cell_output pre")]
        .filter((e) => e.clientWidth === 0 || e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)"""
    with opened(browser, f"{address}/book/{name}.html") as page:
        page.evaluate(unfold)
        assert page.evaluate(too_long) == []


def test_on_a_phone_the_first_column_of_a_table_stays(browser, address):
    with opened(browser, f"{address}/book/circle.html") as page:
        page.set_viewport_size({"width": 360, "height": 800})
        assert too_wide(page) == []
        table = page.locator(".companion-table", has_text="law / bound")
        start, hidden = table.evaluate("(e) => [e.getBoundingClientRect().left, e.scrollWidth - e.clientWidth]")
        assert hidden > 0
        table.evaluate("(e) => { e.scrollLeft = e.scrollWidth; }")
        lefts = table.locator("tbody th").evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().left)")
        assert lefts == pytest.approx([start] * len(lefts), abs=1)


@pytest.mark.parametrize("width", [1280, 360])
def test_a_term_shows_its_meaning_to_the_keyboard(width, browser, address):
    with opened(browser, f"{address}/book/circle.html") as page:
        page.set_viewport_size({"width": width, "height": 800})
        term = page.locator("article .defined", has_text="modulus of continuity").first
        meaning = term.get_by_role("tooltip", include_hidden=True)
        assert not meaning.is_visible()
        term.locator("> a").focus()
        assert meaning.is_visible() and "how far images move" in meaning.inner_text()
        assert meaning.locator(".katex").count()
        assert too_wide(page) == []
        assert term.locator("> a").get_attribute("aria-describedby") == meaning.get_attribute("id")


def test_a_figure_has_a_numbered_caption_and_the_opening_counts_its_words(browser, address):
    with opened(browser, f"{address}/book/circle.html") as page:
        captions = page.locator("article figure figcaption").all_inner_texts()
        chapter = page.locator("article h1").inner_text().split(".")[0]
        assert [text.split(" ")[:2] for text in captions] == [
            ["Fig.", f"{chapter}.{k}"] for k in range(1, len(captions) + 1)
        ]
        minutes = re.search(r"about (\d+) minutes", page.locator(".opening").inner_text())[1]
        assert 5 < int(minutes) < 60


def test_what_the_search_shows_has_each_formula_once(browser, address):
    with opened(browser, f"{address}/search.html?q=unwinds") as page:
        page.wait_for_selector("#search-results li .context")
        found = page.locator("#search-results .context").first.inner_text()
        assert "unwinds" in found and not re.search(r"\\|\^|_\{", found)


def test_widgets_and_tables_have_the_colour_of_the_dark_page(browser, address):
    with opened(browser, f"{address}/book/circle.html", color_scheme="dark") as page:
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        boxes = page.locator("article .text_html").evaluate_all(
            "(all) => all.map((e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).padding])"
        )
        assert boxes and set(map(tuple, boxes)) == {("rgba(0, 0, 0, 0)", "0px")}


def test_a_page_describes_itself(browser, address):
    with opened(browser, f"{address}/book/circle.html") as page:
        say = "(e) => e.content"
        description = page.locator("meta[name=description]").evaluate(say)
        assert description.startswith("How far is a point from changing its label") and len(description) <= 200
        assert page.locator("meta[property='og:title']").evaluate(say) == "The circle"
        picture = page.locator("meta[property='og:image']").evaluate(say)
        assert (SITE / "_static" / picture.rpartition("/")[2]).is_file()


def test_a_page_is_printed_with_bookmarks_and_open_solutions(browser, tmp_path):
    page, out = SITE / "book" / "circle.html", tmp_path / "circle.pdf"
    subprocess.run([sys.executable, ROOT / "tools" / "pdf.py", page, out], check=True)
    content = out.read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") > 8
    assert b"/Outlines" in content


def test_without_chromium_the_printer_says_what_is_missing(tmp_path):
    command = [sys.executable, ROOT / "tools" / "pdf.py", "page.html", "page.pdf"]
    ran = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("Chromium prints the book, and was not found.")
