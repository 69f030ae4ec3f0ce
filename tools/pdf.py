"""Print the book, as one page of HTML, to a PDF: `python tools/pdf.py PAGE.html BOOK.pdf`.

Chromium prints; it must be installed, or its path be in the variable CHROMIUM. What is folded on the pages, solutions
above all, is open in print; widgets stand there as the picture that pages without JavaScript show.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# The theme folds by <details> and by its toggle buttons.
_UNFOLD = """() => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  for (const folded of document.querySelectorAll(".toggle-hidden")) folded.classList.remove("toggle-hidden");
  for (const picture of document.querySelectorAll("img[loading=lazy]")) picture.loading = "eager";
  return Promise.all([...document.images].map((picture) => picture.decode().catch(() => {})));
}"""
# Code, figures and small tables do not break over pages.
_PRINT = ".cell_input, .cell_output > *, figure, tr { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }"
_FOOTER = (
    '<div style="width: 100%; text-align: center; font: 8pt sans-serif; color: #555">'
    '<span class="pageNumber"></span></div>'
)


def write(page: Path, out: Path, chromium: str) -> None:
    """Print one HTML file, A4, with bookmarks for its headings."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.route("**/static_widgets.js", lambda route: route.abort())
        tab.emulate_media(media="print", color_scheme="light", reduced_motion="reduce")
        tab.set_default_timeout(300_000)
        tab.goto(page.resolve().as_uri())
        tab.add_style_tag(content=_PRINT)
        tab.evaluate(_UNFOLD)
        tab.pdf(
            path=out,
            format="A4",
            print_background=True,
            scale=0.75,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=_FOOTER,
            margin=dict(top="18mm", bottom="18mm", left="16mm", right="16mm"),
            tagged=True,
            outline=True,
        )
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        sys.exit("Chromium prints the book, and was not found. Install it, or set CHROMIUM to its path.")
    write(options.page, options.out, chromium)


if __name__ == "__main__":
    main()
