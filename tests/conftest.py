"""What several test files share: the browser, and the book as a site."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

SITE = Path(__file__).parents[1] / "_build" / "html"


@pytest.fixture(scope="session")
def browser():
    """Chromium; where it is missing the test is skipped, or fails if REQUIRE_BROWSER=1."""
    without = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without("no playwright: pip install 'adversarial-vulnerability[test]'")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        without("no Chromium on the PATH, so the pages were not opened")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def address():
    """The built book, served on this machine: the address of its folder."""
    if not (SITE / "index.html").is_file():
        pytest.fail("the book is not built; run: make book", pytrace=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
