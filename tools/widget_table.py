"""Print a table of the widgets: what the tests find, and what a page costs: `python tools/widget_table.py`.

The book must be built, and Chromium on the PATH. The tests run for some minutes. What fails is "no", what was not run
"–"; widgets that no page shows are left out.
"""

from __future__ import annotations

import re
import shutil
import statistics
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from companion import widgets

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "_build" / "html" / "book"
# The column -> the tests that must pass; {widget} is its name, {page} the page that shows it.
TESTS = {
    "mouse": r"test_widgets_live.py::.*\[{widget}\]",
    "keyboard": r"test_widgets.py::test_every_widget_can_be_used_by_finger_and_by_keyboard\[1280-{widget}\]",
    "touch": r"test_widgets.py::test_a_finger_moves.*\[{widget}\]",
    "dark": r"test_pages.py::test_page\[book/{page}.html\]",
    "360 px": r"test_widgets.py::test_every_widget_can_be_used_by_finger_and_by_keyboard\[360-{widget}\]",
    "live kernel": r"test_widgets_live.py::.*\[{widget}\]",
    "numbers equal": r"test_widgets_arithmetic.py::test_{widget}_agrees_with_the_package",
}
# When the first slider that is moved has been answered, in milliseconds since the page was asked for.
ANSWERED = """addEventListener("DOMContentLoaded", async () => {
    const frame = () => new Promise(requestAnimationFrame), el = document.querySelector("[data-module=NAME]");
    while (!("ready" in el.dataset)) await frame();
    const slider = el.firstElementChild.shadowRoot.querySelector("input[type=range]");
    const before = slider.getAttribute("aria-valuetext");
    slider.value = +slider.value < +slider.max ? slider.max : slider.min;
    slider.dispatchEvent(new Event("input"));
    while (slider.getAttribute("aria-valuetext") === before) await frame();
    globalThis.answered = performance.now();
});"""


class Outcomes(dict):
    """A plugin that keeps, by the name of each test, whether it passed."""

    def pytest_runtest_logreport(self, report):
        self[report.nodeid] = self.get(report.nodeid, True) and report.passed


def verdict(outcomes: dict[str, bool], pattern: str) -> str:
    """What the tests of this name say."""
    found = [passed for name, passed in outcomes.items() if re.search(pattern, name.replace("theorem_1", "theorem1"))]
    return "–" if not found else "yes" if all(found) else "no"


def seconds(browser, page: Path, widget: str) -> float:
    """From asking for the page to the first answer, the median of five."""
    times = []
    for _ in range(5):
        tab = browser.new_page()
        tab.add_init_script(ANSWERED.replace("NAME", widget))
        tab.goto(page.as_uri())
        times.append(tab.wait_for_function("globalThis.answered").json_value() / 1000)
        tab.close()
    return statistics.median(times)


def main() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(BOOK.glob("*.html"))}
    shown = {name: p for name in widgets.registry for p, text in pages.items() if f'data-module="{name}"' in text}
    chosen = " or ".join({f"book/{page}.html" for page in shown.values()})
    outcomes = Outcomes()
    files = [str(path) for path in (ROOT / "tests").glob("test_widgets*.py")]
    needed = "by_finger or a_finger or kernel_reads or agrees_with"
    pytest.main(["-q", *files, "-k", needed], plugins=[outcomes])
    pytest.main(["-q", str(ROOT / "tests" / "test_pages.py"), "-k", f"test_page and ({chosen})"], plugins=[outcomes])

    print("\n| widget | page |", " | ".join([*TESTS, "kB of scripts", "seconds to the first answer"]), "|")
    print("|---" * (len(TESTS) + 4) + "|")
    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, page in shown.items():
            says = [verdict(outcomes, pattern.format(widget=name, page=page)) for pattern in TESTS.values()]
            size = sum((BOOK / file).stat().st_size for file in re.findall(r'src="(\S+/widgets/\w+\.js)', pages[page]))
            took = seconds(browser, BOOK / f"{page}.html", name)
            print(f"| {name} | {page} |", " | ".join([*says, f"{size / 1000:.0f}", f"{took:.2f}"]), "|")
        browser.close()


if __name__ == "__main__":
    main()
