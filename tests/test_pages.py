"""The built book in a real browser: complete, quiet and readable, wide and narrow, light and dark."""

import re
from contextlib import contextmanager

import pytest
from conftest import SITE

PAGES = sorted(
    page.relative_to(SITE).as_posix()
    for pattern in ("book/**/*.html", "search.html", "genindex.html")
    for page in SITE.glob(pattern)
)
AXE = SITE.parents[1] / "node_modules" / "axe-core" / "axe.min.js"
LOCAL = re.compile(r"(http://127\.0\.0\.1:|file:|data:|blob:)")

# The theme's own: the search button's label differs from its text, and its dialog is in no landmark.
THEME = {"label-content-name-mismatch", "region"}

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


def serious(page, *rules):
    """What axe-core finds to be a serious or critical obstacle, with the first place of each."""
    options = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    formulas_aside = "(options) => axe.run({ include: 'html', exclude: '.katex' }, options)"
    found = page.evaluate(formulas_aside, options)["violations"]
    return {
        violation["id"]: (violation["nodes"][0]["html"][:300], violation["nodes"][0]["failureSummary"])
        for violation in found
        if violation["impact"] in ("serious", "critical") and violation["id"] not in THEME
    }


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
        assert serious(page) == {}
        page.set_viewport_size({"width": 360, "height": 800})
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert too_wide(page) == []
        assert serious(page, "color-contrast", "scrollable-region-focusable") == {}


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
