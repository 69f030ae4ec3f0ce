"""The widgets in JupyterLab: what a reader moves the kernel reads, and what the kernel sets the page shows."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install 'adversarial-vulnerability[book]'")

from test_widgets import inwards

from companion import widgets

ROOT = Path(__file__).parents[1]
EVERY = pytest.mark.parametrize("name", widgets.registry)
WAIT = 120_000  # milliseconds, for a machine on which other things run

SETUP = """import json
from companion import widgets
made = {name: widget() for name, widget in widgets.registry.items()}
start = {name: widget._values() for name, widget in made.items()}"""
# For every widget: a cell that shows it, one that reads its values, one that sets them to what they were.
SHOW = "made[{!r}]"
ASK = "print(json.dumps(made[{!r}]._values()))"
TELL = "for trait, value in start[{0!r}].items(): setattr(made[{0!r}], trait, value)"

# All that a widget says: its sentence, its numbers, its controls.
SAID = """(host) => {
    const root = host.shadowRoot, all = (rule) => [...root.querySelectorAll(rule)];
    return [root.querySelector("[role=status]").textContent, ...all("dd").map((e) => e.textContent),
        ...all("input").map((e) => e.type === "radio" ? e.checked : [e.value, e.getAttribute("aria-valuetext")])];
}"""
# The same of a widget that is made of these values on a page without a kernel.
MADE_OF = f"""async ([code, values]) => {{
    const model = {{ get: (name) => values[name], on: () => {{}}, off: () => {{}} }};
    const url = URL.createObjectURL(new Blob([code], {{ type: "text/javascript" }}));
    const el = document.body.appendChild(document.createElement("div"));
    (await import(url)).default.render({{ model, el }});
    const said = ({SAID})(el.firstChild);
    el.remove();
    return said;
}}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """JupyterLab on a free port, with a folder and settings of its own: the address of the notebook."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [SETUP] + [cell.format(name) for name in widgets.registry for cell in (SHOW, ASK, TELL)]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "live.ipynb")
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": str(folder / kind) for kind in ("SETTINGS", "WORKSPACES")}
    # It asks on the network for news otherwise, and the reader whether it may.
    quiet = folder / "CONFIG" / "labconfig" / "page_config.json"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    # A notebook attaches only the cells in sight at first; here those below are asked too.
    whole = folder / "SETTINGS" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"windowingMode": "none"}')
    options = ["--no-browser", "--allow-root", "--port=0", f"--notebook-dir={folder}"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own | {"PYTHONPATH": str(ROOT)})
    try:
        yield started(server, folder)
    finally:
        server.terminate()
        server.wait(30)


def started(server, folder):
    """The address of the notebook, once the server has said where it is."""
    until = time.monotonic() + WAIT / 1000
    while time.monotonic() < until and server.poll() is None:
        for file in (folder / "RUNTIME").glob(f"jpserver-{server.pid}.json"):
            text = file.read_text(encoding="utf-8")
            if text.rstrip().endswith("}"):  # written in full
                found = json.loads(text)
                return f"{found['url']}lab/tree/live.ipynb?token={found['token']}"
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{(folder / 'log').read_text()}")


@pytest.fixture(scope="module")
def page(browser, address):
    """The notebook in JupyterLab, its first cell run; an error of the page or a request to elsewhere fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page, wrong = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: "://127.0.0.1:" in r.url or "://localhost:" in r.url or wrong.append(r.url))
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel-toolbar [data-status=idle]")
    run(page, 0)
    yield page
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def elsewhere(browser):
    """A page without a kernel, in a window of its own: in the same one it would slow down the notebook."""
    page = browser.new_page()
    yield page
    page.close()


def run(page, number):
    """Run a cell as a reader does, until its count is another and no star; what it has printed."""
    cell = page.locator(".jp-Notebook .jp-Cell").nth(number)
    prompt = cell.locator(".jp-InputPrompt")
    before = prompt.text_content()
    until, again = time.monotonic() + WAIT / 1000, 0.0
    while (now := prompt.text_content()) == before or not re.search(r"\d", now):
        if time.monotonic() > until:
            status = page.locator(".jp-NotebookPanel-toolbar [data-status]").get_attribute("data-status")
            pytest.fail(f"cell {number} has not run: its count is {now!r}, was {before!r}; the kernel is {status}")
        # A key that comes while the notebook is still being laid out is lost, and a reader presses it once more.
        if now == before and time.monotonic() > again:
            cell.locator(".cm-content").click()
            page.keyboard.press("Control+Enter")
            again = time.monotonic() + 5
        page.wait_for_timeout(20)
    said = cell.locator(".jp-OutputArea").text_content()
    assert cell.locator("[data-mime-type$=stderr], [data-mime-type$=error]").count() == 0, said
    return said


class Shown:
    """One widget of the notebook: its card, and the cells that read and set what the kernel knows."""

    def __init__(self, name, page, elsewhere):
        self.name, self.page, self.elsewhere = name, page, elsewhere
        self.show, self.ask, self.tell = (1 + 3 * list(widgets.registry).index(name) + k for k in range(3))
        cell = page.locator(".jp-Notebook .jp-Cell").nth(self.show)
        self.card = cell.locator(".jp-OutputArea [data-lm-suppress-shortcuts]").first

    def agreed(self, other_than=None):
        """The kernel's values, once they are others than these and the card says just what follows from them.

        The page tells the kernel in its own time, so the cell is run until then.
        """
        until = time.monotonic() + WAIT / 1000
        while time.monotonic() < until:
            values = json.loads(run(self.page, self.ask))
            if values != other_than and self.card.evaluate(SAID) == self.follows(values):
                return values
        pytest.fail(f"the kernel has {values}, the page says {self.card.evaluate(SAID)}, not {self.follows(values)}")

    def follows(self, values):
        """What the widget says of these values on a page without a kernel."""
        return self.elsewhere.evaluate(MADE_OF, [widgets.javascript(self.name), values])


@EVERY
def test_the_kernel_reads_what_a_reader_moves_and_the_page_follows_the_kernel(name, page, elsewhere):
    shown = Shown(name, page, elsewhere)
    run(page, shown.show)
    start = shown.agreed()

    for control in shown.card.locator("input:is([type=range], :checked):enabled").element_handles():
        before = control.evaluate("(e) => [e.value, e.checked]")
        control.press("ArrowLeft" if control.evaluate("(e) => e.value === e.max") else "ArrowRight")
        moved = "([e, value, checked]) => e.value !== value || e.checked !== checked"
        page.wait_for_function(moved, arg=[control, *before])
    by_key = shown.agreed(other_than=start)

    grips = shown.card.locator(":is(circle, rect)[data-grip]")
    if grips.count():
        grips.first.scroll_into_view_if_needed()
        x, y, to_x, to_y = inwards(grips.first)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(to_x, to_y, steps=5)
        page.mouse.up()
        shown.agreed(other_than=by_key)

    run(page, shown.tell)
    assert shown.agreed(other_than=by_key) == start
