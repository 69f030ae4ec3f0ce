"""The widgets: values checked in Python, pages that work."""

import base64
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install 'adversarial-vulnerability[book]'")

from companion import widgets

ROOT = Path(__file__).parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"


# --- Python side ---


EVERY = pytest.mark.parametrize("widget", widgets.registry.values(), ids=widgets.registry)


@EVERY
def test_a_value_out_of_range_is_refused_when_made_and_when_set(widget):
    made = widget()
    bounded = {name: trait for name, trait in widget.class_traits(value=True).items() if hasattr(trait, "low")}
    assert bounded
    for name, trait in bounded.items():
        beyond = [trait.low - 1, trait.high + 1]
        if isinstance(trait.default_value, float):
            beyond = [*map(float, beyond), math.nan, math.inf]
        for value in beyond:
            with pytest.raises(ValueError, match=f"{name} must be from .* to .*, got"):
                widget(**{name: value})
            before = getattr(made, name)
            with pytest.raises(ValueError, match=f"{name} must be from .* to .*, got"):
                setattr(made, name, value)
            assert getattr(made, name) == before


def test_an_unknown_name_is_refused():
    with pytest.raises(TypeError, match="angel"):
        widgets.CircleWidget(angel=3)
    with pytest.raises(ValueError, match="name must be one of .*'circle', .*, got 'square'"):
        widgets.javascript("square")


def test_python_reads_what_the_page_shows():
    ball = widgets.CircleWidget(angle=90, offset=0.5, z=0.25)
    assert ball.radii == pytest.approx((1 / 6, 1.0, 0.5))
    assert ball.classifier.offset == 0.5
    assert widgets.CircleWidget(offset=1).radii[0] == math.inf
    assert widgets.Theorem1Widget().quantile == pytest.approx(0.157979905, abs=1e-9)
    assert widgets.Theorem1Widget(eta=0.157979905).bound == pytest.approx(0.25, abs=1e-8)
    assert "whatever the classifier, at least 62.6 %" in widgets.Theorem1Widget()._repr_html_()


@EVERY
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


# --- The static page ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A small site, built with warnings as errors: a page for each widget, one with two, one without any."""
    pytest.importorskip("sphinx", reason="no Sphinx: pip install 'adversarial-vulnerability[book]'")
    source = tmp_path_factory.mktemp("source")
    extension = str(ROOT / "book" / "_ext")
    (source / "conf.py").write_text(f"import sys\nsys.path.insert(0, {extension!r})\nextensions = ['static_widgets']\n")
    (source / "index.rst").write_text(
        "Plain\n=====\n\nNo widget.\n\n.. toctree::\n   :glob:\n\n   *\n", encoding="utf-8"
    )
    shown = {name: [widget()] for name, widget in widgets.registry.items()}
    for name, made in (shown | {"play": [widgets.CircleWidget(), widgets.Theorem1Widget()]}).items():
        raw = "\n".join(widget._repr_html_() for widget in made)
        body = "".join(f"   {line}\n" for line in raw.splitlines())
        (source / f"{name}.rst").write_text(f"Page\n====\n\n.. raw:: html\n\n{body}", encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "-q", "-b", "html", source, source / "out"]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert found.returncode == 0, found.stderr
    return source / "out"


@pytest.fixture(params=[1280, 360])
def visit(request, browser, site):
    """Opens a page from the disk, in a window of this width; errors and outside requests fail the test."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    errors = []

    def opened(name):
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("request", lambda r: r.url.startswith(("file:", "blob:", "data:")) or errors.append(r.url))
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('.companion-widget')].every((e) => 'ready' in e.dataset)")
        return page

    yield opened
    assert errors == []
    context.close()


@pytest.fixture
def page(visit):
    """The page with the two oldest widgets."""
    return visit("play")


def value(page, label):
    """The number that the widgets show beside `label`."""
    row = page.locator("dl > div", has=page.locator("dt", has_text=label))
    return row.locator("dd").inner_text()


def loaded(site, name):
    """The scripts of the widgets that a page loads."""
    return re.findall(r'src="(_static/widgets/\w+\.js)', (site / f"{name}.html").read_text(encoding="utf-8"))


def test_a_page_loads_the_modules_of_its_widgets_once_and_no_others(site):
    assert loaded(site, "index") == []
    assert not any("theorem1" in script for script in loaded(site, "circle"))
    both = loaded(site, "play")
    assert len(both) == len(set(both))
    for name in widgets.registry:
        found = loaded(site, name)
        assert found == [f"_static/widgets/{module}.js" for module in [*widgets.modules(name), "shim"]]
        # Frames and weights are no code; they have a limit of their own.
        sizes = {script: (site / script).stat().st_size for script in found}
        data = sum(size for script, size in sizes.items() if script.endswith("_data.js"))
        assert sum(sizes.values()) - data <= 60_000 and data <= 300_000


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
        "(v) => document.querySelector('.companion-widget > div').shadowRoot.querySelector('dd').textContent === v",
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


def resting(page, picture):
    """The box of a picture or handle that has come to rest.

    Scrolling may change the width, and then everything is drawn anew: for a moment the element is none of the page's.
    """
    before = None
    for _ in range(100):
        page.wait_for_timeout(50)
        box = picture.bounding_box()
        if box is not None and box == before:
            return box
        before = box
    pytest.fail(f"{picture} does not come to rest: {before}")


def drag(page, grip, to_x, to_y):
    """Drag the centre of a handle by so many pixels."""
    box = resting(page, grip)
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
    unit = resting(page, plane)["width"] / 340
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
    box = resting(page, plot)
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.wait_for_timeout(100)
    assert at("η, size of the move") == pytest.approx(10, rel=0.1)


def number(page, label):
    """What a slider says, as a number."""
    return float(page.get_by_label(label).get_attribute("aria-valuetext").strip("°%").replace("−", "-"))


def test_projection_moves_the_point_off_the_circle(visit):
    page = visit("projection")
    second = page.locator(".companion-widget svg[role=img]").nth(1)
    second.scroll_into_view_if_needed()
    unit = 98 * resting(page, second)["width"] / 300
    drag(page, second.locator("[data-grip=y]"), -0.8 * unit, 0.5 * unit)
    assert number(page, "y, across") == pytest.approx(0.45 - 0.8, abs=0.02)
    assert number(page, "y, up") == pytest.approx(0.12 - 0.5, abs=0.02)
    now = widgets.ProjectionWidget(y1=number(page, "y, across"), y2=number(page, "y, up"))
    assert float(now.witness.distance) < float("inf")
    assert value(page, "at most twice that") == f"{float(now.witness.distance):.3f}"
    assert value(page, "into the wedge") == f"{now.radii[0]:.3f}"


def test_tightness_exchanges_the_shape_and_refuses_others(visit):
    with pytest.raises(ValueError, match="shape must be one of 'tripod', .*, got 'ball'"):
        widgets.TightnessWidget(shape="ball")
    page = visit("tightness")
    page.get_by_label("half-space").check()
    page.wait_for_timeout(100)
    assert value(page, "strip / bound") == "1.000"
    page.get_by_label("half-space").press("ArrowUp")
    page.wait_for_timeout(100)
    slabs = widgets.TightnessWidget(shape="slabs")
    assert value(page, "the strip") == f"{100 * slabs.law:.1f} %"
    assert value(page, "same shares") == f"{100 * slabs.bound:.1f} %"


def test_approximation_moves_a_point_and_pairs_again(visit):
    for points in ([[0, 0]] * 11, [[0, 0]] * 11 + [[0, 3]], [[0, 0, 0]] * 12):
        with pytest.raises(ValueError, match="real must be 12 points .* from -2.6 to 2.6, got"):
            widgets.ApproximationWidget(real=points)
    page = visit("approximation")
    picture = page.locator(".companion-widget svg[role=img]").first
    picture.scroll_into_view_if_needed()
    drag(page, picture.locator("[data-grip='2']"), 30, -20)
    moved = [number(page, "the point, across"), number(page, "the point, up")]
    made = widgets.ApproximationWidget()
    unit = 46 * resting(page, picture)["width"] / 340
    assert moved == pytest.approx([made.real[2][0] + 30 / unit, made.real[2][1] + 20 / unit], abs=0.04)
    made.real = [moved if k == 2 else point for k, point in enumerate(made.real)]
    assert value(page, "of these points") == f"{float(made.transport.distance):.3f}"
    page.get_by_label("points in each sample").press("End")
    page.wait_for_timeout(100)
    made.n = 12
    assert value(page, "of these points") == f"{float(made.transport.distance):.3f}"


def test_audit_finds_other_stories_for_the_printed_number(visit):
    page = visit("audit")
    assert value(page, "/ E‖z‖") == "0.01584"
    assert value(page, "in two digits") == "0.016, 0.016"
    picture = page.locator(".companion-widget svg[role=img]").first
    picture.scroll_into_view_if_needed()
    unit = resting(page, picture)["width"] / 340
    # 270 units are all of q, 218 the powers of ten from 2 to 1,000 classes.
    drag(page, picture.locator("circle[data-grip=num_classes]"), 0.15 * 270 * unit, 0)
    assert number(page, "q, quantile") == pytest.approx(40, abs=1)
    drag(page, picture.locator("circle[data-grip=num_classes]"), 0, -218 * unit * math.log(30) / math.log(500))
    assert number(page, "K, classes") == pytest.approx(300, rel=0.06)
    now = widgets.AuditWidget(q=number(page, "q, quantile") / 100, num_classes=int(number(page, "K, classes")))
    mean, root = now.relative
    assert value(page, "/ E‖z‖") == f"{mean:.4g}" and value(page, "/ √d") == f"{root:.4g}"
    low, high = now.quantiles
    assert value(page, "that round to 0.016") == f"{100 * low:.1f} – {100 * high:.1f} %"
    second = page.locator(".companion-widget svg[role=img]").nth(1)
    second.scroll_into_view_if_needed()
    drag(page, second.locator("circle[data-grip=latent_dim]"), 0, -218 * unit / 4)
    assert number(page, "d, latent dimension") == pytest.approx(1000, rel=0.06)


def test_modulus_follows_eta_over_stairs_and_flat_pieces(visit):
    with pytest.raises(ValueError, match="kind must be one of 'circle', .*, got 'line'"):
        widgets.ModulusWidget(kind="line")
    page = visit("modulus")
    assert value(page, "sure up to here") == f"{1 / 6:.3g}"
    first = page.locator(".companion-widget svg[role=img]").first
    first.scroll_into_view_if_needed()
    unit = resting(page, first)["width"] / 340
    grip = first.locator("circle[data-grip=eta]").last
    # 228 units are the image distances up to 2.25.
    drag(page, grip, 0, -0.5 * 228 / 2.25 * unit)
    assert number(page, "η, image distance") == pytest.approx(1.5, abs=0.02)
    made = widgets.ModulusWidget(eta=number(page, "η, image distance"))
    assert value(page, "sure up to here") == f"{made.inverse:.3g}"
    drag(page, grip, 0, -0.6 * 228 / 2.25 * unit)
    assert value(page, "sure up to here") == "∞"
    page.get_by_label("measured at some steps").check()
    page.wait_for_timeout(100)
    assert value(page, "sure up to here") == "0.8" and value(page, "just after") == "∞"
    # The same axis in the other picture, from left to right.
    second = page.locator(".companion-widget svg[role=img]").nth(1)
    second.scroll_into_view_if_needed()
    drag(page, second.locator("circle[data-grip=eta]"), -0.9 * 276 / 2.25 * unit, 0)
    made = widgets.ModulusWidget(kind="staircase", eta=number(page, "η, image distance"))
    assert 1.1 < made.eta < 1.35
    assert value(page, "sure up to here") == f"{made.inverse:.3g}" == "0.133"
    assert value(page, "just after") == f"{2 * math.sin(math.pi * 0.8 / 3):.3g}"
    page.wait_for_timeout(400)
    assert "latents less than 0.133 apart are sure to have images" in page.get_by_role("status").inner_text()


def test_robustness_steps_through_a_search_and_moves_the_point(visit):
    with pytest.raises(ValueError, match="search must be one of 'r_unc', .*, got 'r'"):
        widgets.RobustnessWidget(search="r")
    page = visit("robustness")
    made = widgets.RobustnessWidget()
    assert [value(page, label) for label in ("in latent space", "along the data", "anywhere")] == [
        f"{radius:.3f}" for radius in made.radii
    ]
    assert value(page, "found by the search") == "∞"
    # The radio buttons are named by their radius.
    page.locator("input[value=r_in]").check()
    for step in (0, 1, 2):
        made = widgets.RobustnessWidget(search="r_in", step=step)
        page.wait_for_timeout(100)
        assert value(page, "found by the search") == f"{made.found:.3f}"
        page.get_by_label("steps of the search").press("ArrowRight")
    picture = page.locator(".companion-widget svg[role=img]").first
    picture.scroll_into_view_if_needed()
    unit = 112 * resting(page, picture)["width"] / 340
    # From z = 0.05 over the middle arm to the top of it, where z is a half.
    drag(page, picture.locator("[data-grip=z]"), -0.6 * unit, -0.58 * unit)
    assert number(page, "latent point z") == pytest.approx(0.5, abs=0.03)
    drag(page, picture.locator("circle[data-grip=shift]"), 0.2 * unit, 0)
    assert number(page, "place of the wall") == pytest.approx(1.0, abs=0.02)
    made = widgets.RobustnessWidget(z=number(page, "latent point z"), shift=number(page, "place of the wall"))
    assert value(page, "anywhere") == f"{made.radii[2]:.3f}"


def test_isoperimetry_is_painted_by_pointer_and_by_keyboard(visit):
    for cells in ("0", "f" * 577, "g" * 576):
        with pytest.raises(ValueError, match="cells must be 576 hexadecimal digits or '', got"):
            widgets.IsoperimetryWidget(cells=cells)
    with pytest.raises(ValueError, match=r"painted must have the shape \(48, 48\), got \(3, 4\)"):
        widgets.IsoperimetryWidget().paint([[0] * 4] * 3)
    page = visit("isoperimetry")
    made = widgets.IsoperimetryWidget()
    for label, found in (("painted", made.mass), ("within", made.enlarged), ("half-space", made.half_space)):
        assert value(page, label) == f"{100 * found:.1f} %"
    page.get_by_role("radio", name="nothing").check()
    page.wait_for_timeout(400)
    assert "Nothing is painted" in page.get_by_role("status").inner_text()

    def painted():
        """What the page says is painted, after a while."""
        page.wait_for_timeout(150)
        return float(value(page, "painted").rstrip(" %"))

    picture = page.get_by_role("application")
    picture.scroll_into_view_if_needed()
    unit = resting(page, picture)["width"] * 54 / 340
    # A stroke from the middle to the right: no gaps, however far apart the events are.
    drag(page, picture.locator("[data-grip=brush]"), 1.5 * unit, 0)
    middle = (torch.arange(48) + 0.5) / 8 - 3
    band = torch.hypot((middle - middle.clamp(0, 1.5)), middle[:, None]) <= 0.3
    made.paint(band)
    assert page.get_by_role("radio", name="your own").is_checked()
    assert painted() == pytest.approx(100 * made.mass, abs=1.5)
    before = painted()
    page.get_by_role("radio", name="your own").focus()
    page.keyboard.press("Tab")
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "Shift+ArrowLeft"):
        picture.press(key)
    assert picture.evaluate("(el) => getComputedStyle(el).outlineStyle") == "solid"
    picture.press(" ")
    assert painted() > before
    assert number(page, "brush, up") == pytest.approx(0.5, abs=0.03)
    assert number(page, "brush, across") == pytest.approx(1.0, abs=0.03)
    page.get_by_role("radio", name="erases").check()
    picture.press("Shift+ArrowDown")
    picture.press(" ")
    assert painted() < before
    assert page.get_by_role("application").get_attribute("tabindex") == "0"


def test_certificates_shows_another_generator_to_another_classifier(visit):
    with pytest.raises(ValueError, match="reader must be one of 'cnn', .*, got 'svm'"):
        widgets.CertificatesWidget(reader="svm")
    page = visit("certificates")
    page.get_by_label("generator").focus()
    page.keyboard.press("End")
    page.get_by_label("linear").check()
    page.get_by_label("share of the images").press("ArrowRight")
    page.wait_for_timeout(400)
    made = widgets.CertificatesWidget(generator=5, reader="linear", q=0.26)
    assert value(page, "given the counted labels") == f"{made.proved:.3g}"
    assert value(page, "found by attack") == f"{made.measured:.3g}"
    assert value(page, "share within the proved distance") == "100.0 %"
    assert "L = " not in page.get_by_label("generator").get_attribute("aria-valuetext")
    # The first digit as it is stored: dark ink on white.
    ink = page.locator("canvas").first.evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 8, 8).data]")
    levels = base64.b64decode(widgets.data("certificates")["images"])[5 * 12 * 64 :][:64]
    assert ink[::4] == [255 - level for level in levels]


def test_walk_crosses_the_boundary_under_the_pointer(visit):
    page = visit("walk")
    bold = page.locator(".widget div", has_text=re.compile("^“.*”$")).last
    plot = page.locator("rect[data-grip=t]")
    seen = []
    for t in (0.5, 1.2):
        plot.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        box = resting(page, plot)
        page.mouse.click(box["x"] + box["width"] * t / 1.5, box["y"] + box["height"] / 3)
        page.wait_for_timeout(400)
        assert number(page, "t, how far to walk") == pytest.approx(t, abs=0.02)
        made = widgets.WalkWidget(t=number(page, "t, how far to walk"))
        assert bold.inner_text() == f"“{made.label}”"
        assert f"{100 * float(made.probabilities.max()):.1f} %" in page.get_by_role("status").inner_text()
        found = page.locator("canvas").first.evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 32, 32).data]")
        exact = 255 * made.image.permute(1, 2, 0).flatten()
        shown = [level for k, level in enumerate(found) if k % 4 != 3]
        assert max(abs(a - b) for a, b in zip(shown, exact.tolist(), strict=True)) < widgets.data("walk")["error"] + 0.6
        seen.append(made.label)
    assert len(set(seen)) == 2
    assert value(page, "latent step") == f"{widgets.WalkWidget().radii[0]:.3g}"


def test_latent_draws_the_digit_where_the_pointer_lets_go(visit):
    page = visit("latent")
    square = page.locator(".companion-widget svg[role=img]").first
    square.scroll_into_view_if_needed()
    unit = resting(page, square)["width"] / 340 * 296 / 6
    drag(page, square.locator("circle[data-grip=z]"), 1.5 * unit, -0.8 * unit)
    assert [number(page, f"step {way}") for way in ("across", "up")] == pytest.approx([1.5, 0.8], abs=0.06)
    page.get_by_label("latent up").press("ArrowRight")
    page.wait_for_timeout(400)
    made = widgets.LatentWidget(up=3, x=number(page, "step across"), y=number(page, "step up"))
    assert value(page, "moved") == f"{made.moved:.2f}"
    assert value(page, "slope here") == f"{made.slope:.2f}"
    assert value(page, "found by search") == f"{made.modulus:.2f}"
    found = page.locator("canvas").nth(1).evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 8, 8).data]")
    exact = 255 * (1 - made.image.flatten())
    assert max(abs(a - b) for a, b in zip(found[::4], exact.tolist(), strict=True)) < 0.51


def shown(page, name):
    """The picture whose description begins so."""
    return page.locator(f".companion-widget svg[aria-label^='{name}']")


def said(page, name):
    """The words in the picture."""
    return " ".join(shown(page, name).locator("text").all_text_contents())


def tap(page, picture, x, y):
    """A tap at this share of its width and height."""
    picture.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
    box = resting(page, picture)
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_timeout(100)


def test_attack_follows_the_size_the_digit_and_the_attack(visit):
    with pytest.raises(ValueError, match="attack must be one of 'one step', .*, got 'two steps'"):
        widgets.AttackWidget(attack="two steps")
    page = visit("attack")
    tap(page, shown(page, "Ten digits"), 0.85, 0.5)
    assert page.get_by_role("slider", name="digit").get_attribute("aria-valuetext") == "8"
    plot = page.locator("[data-grip=eps]")
    tap(page, plot, 0.5, 0.5)
    assert number(page, "how far a pixel may move") == 0.25
    for attack in ("ten steps", "smallest change"):
        page.get_by_role("radio", name=attack).check()
        made = widgets.AttackWidget(digit=8, attack=attack, eps=0.25)
        first = made.first_fooled
        page.wait_for_timeout(100)
        assert value(page, attack) == f"{first.eps:.2f} · {first.length:.2f}"
        share, label = made.probabilities.max(0)
        assert f"“{int(label)}” {100 * share:.0f} % sure" in said(page, "A digit")
    page.wait_for_timeout(400)
    assert (
        f"the change is {float((made.image - made.original).norm()):.2f} long"
        in page.get_by_role("status").inner_text()
    )


def test_photograph_shows_what_the_network_saw_and_said(visit):
    with pytest.raises(ValueError, match="network must be one of 'wide-resnet', .*, got 'lenet'"):
        widgets.PhotographWidget(network="lenet")
    page = visit("photograph")
    tap(page, shown(page, "Six photographs"), 5.5 / 6, 0.5)
    assert number(page, "size, in shades of 255") == 2
    plot = page.locator("[data-grip=shades]")
    tap(page, plot, 0.25, 0.5)
    page.get_by_label("VGG", exact=True).check()
    for direction in ("random", "gradient"):
        page.get_by_role("radio", name="random" if direction == "random" else "signs of the").check()
        page.wait_for_timeout(100)
        made = widgets.PhotographWidget(photograph=5, network="vgg", shades=4, direction=direction)
        label, sure = made.answer
        assert f"“{label}” {math.floor(100 * sure + 0.5)} % sure" in said(page, "A photograph")
        first = made.first_fooled
        assert value(page, direction) == ("never" if first is None else f"{first}/255")
    drawn = """(picture) => new Promise((done) => {
        const image = new Image(), sheet = document.createElement("canvas");
        image.onload = () => {
            const context = sheet.getContext("2d");
            context.drawImage(image, 0, 0);
            done([...context.getImageData(0, 0, 32, 32).data].filter((_, k) => k % 4 < 3));
        };
        image.src = [...picture.querySelectorAll("image")].at(-1).getAttribute("href");
    })"""
    assert shown(page, "A photograph").evaluate(drawn) == made.image.permute(1, 2, 0).flatten().tolist()


def test_matrix_is_walked_by_keys_taps_and_a_look_of_the_mouse(visit):
    with pytest.raises(ValueError, match="victim must be one of 'undefended', .*, got 'nobody'"):
        widgets.MatrixWidget(victim="nobody")
    page = visit("matrix")
    cells = page.locator(".companion-widget td button")
    assert cells.count() == 42
    for cell in cells.all():
        assert min(cell.bounding_box()["width"], cell.bounding_box()["height"]) >= 24

    def now(**chosen):
        page.wait_for_timeout(100)
        cell = widgets.MatrixWidget(**chosen).cell
        assert value(page, "still read rightly") == f"{100 * cell.accuracy:.0f} %"
        assert value(page, "median length") == ("∞" if cell.distance == math.inf else f"{cell.distance:.2f}")
        assert f"“{cell.answer}”" in said(page, "An example digit")

    now(victim="distilled", attack="FGSM")
    page.get_by_label("white box, adaptive").check()
    now(victim="distilled", attack="FGSM", threat="white box, adaptive")
    assert value(page, "cells where most") == str(widgets.MatrixWidget(threat="white box, adaptive").standing)
    # One stop for the keyboard; arrows go on from there, and not over the edge.
    assert [cell.get_attribute("tabindex") for cell in cells.all()].count("0") == 1
    page.get_by_role("button", name="distilled, FGSM").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
    assert page.evaluate("document.querySelector('.companion-widget > div').shadowRoot.activeElement.ariaLabel") == (
        "undefended, iterated: 2 per cent"
    )
    now(victim="undefended", attack="iterated", threat="white box, adaptive")
    random = page.get_by_role("button", name="random, MI-FGSM")
    random.click()
    now(victim="random", attack="MI-FGSM", threat="white box, adaptive")
    page.get_by_role("button", name="quantised, JSMA:").hover()
    now(victim="quantised", attack="JSMA", threat="white box, adaptive")
    page.mouse.move(1, 1)
    now(victim="random", attack="MI-FGSM", threat="white box, adaptive")
    assert random.get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(400)
    best = widgets.MatrixWidget(threat="white box, adaptive").strongest[-1]
    assert f"leaves {100 * best:.0f} %" in page.get_by_role("status").inner_text()


@EVERY
def test_every_widget_can_be_used_by_finger_and_by_keyboard(visit, widget):
    page = visit(widget._module)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    sliders = page.locator(".companion-widget input[type=range]")
    assert sliders.count()
    for slider in page.locator(".companion-widget input").all():
        # A radio button's label belongs to its target.
        area = slider if slider.get_attribute("type") == "range" else slider.locator("..")
        assert area.bounding_box()["height"] >= 24
        assert slider.get_attribute("data-lm-suppress-shortcuts") == "true"
        if slider.get_attribute("type") == "radio" and not slider.is_checked():
            continue  # the arrow keys get there
        slider.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        assert slider.evaluate("(el) => getComputedStyle(el).outlineStyle") == "solid"
    for grip in page.locator("circle[data-grip]").all():
        assert min(grip.bounding_box()["width"], grip.bounding_box()["height"]) >= 24

    # Every slider moves, and what the widget says follows.
    status = page.get_by_role("status").first
    assert status.get_attribute("aria-live") == "polite"
    before = status.inner_text()
    for slider in sliders.all():
        text = slider.get_attribute("aria-valuetext")
        slider.focus()
        page.keyboard.press("End" if int(float(slider.input_value())) < float(slider.get_attribute("max")) else "Home")
        page.wait_for_function(
            "([el, text]) => el.getAttribute('aria-valuetext') !== text", arg=[slider.element_handle(), text]
        )
    page.wait_for_timeout(400)
    assert status.inner_text() != before
    assert "NaN" not in page.locator(".companion-widget").inner_text()
    assert "undefined" not in page.locator(".companion-widget").inner_text()


def inwards(grip):
    """From the middle of a handle to a point nearer the middle of its picture, in pixels of the window: x, y, x, y.

    In a plot the finger goes across, because up and down belongs to the page there.
    """
    whole = grip.locator("xpath=ancestor::*[@role='img' or @role='application']")
    handle, picture = (resting(grip.page, found) for found in (grip, whole))
    (x, y), (to_x, to_y) = ((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in (handle, picture))
    across, down = to_x - x, to_y - y
    if grip.evaluate("(e) => e.localName") == "rect":
        across, down = 1 if across > 0 else -1, 0
    length = math.hypot(across, down) or 1
    across, down = across / length, down / length
    return x, y, x + 40 * across + 12 * down, y + 40 * down - 12 * across


@EVERY
def test_a_finger_moves_what_can_be_dragged_and_not_the_page(browser, site, widget):
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page = context.new_page()
    glass = context.new_cdp_session(page)
    page.goto((site / f"{widget._module}.html").as_uri())
    page.wait_for_function("'ready' in document.querySelector('.companion-widget').dataset")
    says = """() => [...document.querySelector(".companion-widget > div").shadowRoot.querySelectorAll("input, dd")]
        .map((e) => e.value ?? e.textContent).join()"""

    def touch(kind, *points):
        glass.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    def seen():
        """What the widget says, and how far the page is scrolled."""
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page.evaluate(says), page.evaluate("scrollY")

    def swipe(x, y, to_x, to_y):
        """Both, once the finger is down and after its way."""
        touch("touchStart", (x, y))
        down = seen()
        for k in range(1, 5):
            touch("touchMove", (x + k / 4 * (to_x - x), y + k / 4 * (to_y - y)))
        touch("touchEnd")
        return down, seen()

    for picture in page.locator(".companion-widget svg[role=img]").all():
        # What lets the page scroll is for a tap, and no handle.
        grips = picture.locator(":is(circle, rect)[data-grip]:not([style*='manipulation'])")
        for name in list(dict.fromkeys(grips.evaluate_all("(all) => all.map((e) => e.dataset.grip)")))[:4]:
            grip = picture.locator(f":is(circle, rect)[data-grip='{name}']").first
            grip.evaluate("(e) => e.scrollIntoView({ block: 'center', behavior: 'instant' })")
            (before, place), (after, same) = swipe(*inwards(grip))
            assert before != after and place == same, name

    # The same finger on the sentence moves the page.
    sentence = page.get_by_role("status").first
    sentence.evaluate("(e) => e.scrollIntoView({ block: 'center', behavior: 'instant' })")
    box = sentence.bounding_box()
    (_, place), (_, other) = swipe(box["x"] + 40, box["y"] + 10, box["x"] + 40, box["y"] + 90)
    assert other < place
    context.close()


# The part of anywidget's model that the modules use, and a change that comes from Python.
_LIVE = """async ([code, values, changed]) => {
    const listeners = {};
    const tell = (name) => (listeners[`change:${name}`] ?? []).forEach((listener) => listener());
    const model = {
        get: (name) => values[name],
        set: (name, value) => { values[name] = value; tell(name); },
        save_changes: () => {},
        on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
        off: (event, listener) => listeners[event].delete(listener),
    };
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const el = document.body.appendChild(document.createElement("div"));
    const stop = (await import(url)).default.render({ model, el });
    const status = el.firstChild.shadowRoot.querySelector("[role=status]");
    const before = status.textContent;
    for (const [name, value] of Object.entries(changed)) model.set(name, value);
    for (let k = 0; k < 100 && status.textContent === before; k++) await new Promise((done) => setTimeout(done, 100));
    stop();
    const left = Object.values(listeners).reduce((sum, set) => sum + set.size, 0);
    return [before, status.textContent, left];
}"""


@EVERY
def test_in_a_kernel_the_page_follows_python_and_tidies_up(browser, widget):
    page = browser.new_page()
    made = widget()
    traits = widget.class_traits(value=True)
    changed = {
        name: trait.low if trait.low != trait.default_value else trait.high
        for name, trait in traits.items()
        if isinstance(getattr(trait, "low", None), int)
    }
    before, after, left = page.evaluate(_LIVE, [widgets.javascript(widget._module), made._values(), changed])
    assert before != after
    assert left == 0
    page.close()


@EVERY
def test_without_javascript_a_picture_and_a_sentence_stand_in(browser, site, widget):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / f"{widget._module}.html").as_uri())
    assert page.locator(".companion-widget > svg[role=img][aria-label]").count() == 1
    assert page.locator(".companion-widget > p").inner_text().endswith(".")
    context.close()
