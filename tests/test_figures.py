"""The figures: colours that are told apart, pictures of what went in, errors that name what is wrong."""

import io

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="the figures need matplotlib")

import matplotlib

matplotlib.use("Agg")

from matplotlib import colors, pyplot

from companion import circle, figures
from companion.tightness import LinearPartition
from companion.transferability import exact_joint_radius

LINE = circle.HalfPlane([0.6, 0.8], 0.3)


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        figures.use()
        yield
    pyplot.close("all")


def linear(colour):
    """Linear-light RGB of a colour."""
    rgb = np.array(colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(
        0, 1
    )
    xyz = xyz / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# How full deuteranopia and protanopia see linear RGB (Machado, Oliveira and Fernandes, 2009).
VISION = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TOGETHER = [figures.CLASS_0, figures.CLASS_1, figures.LATENT, figures.IN_DISTRIBUTION, figures.UNCONSTRAINED]


@pytest.mark.parametrize("vision", VISION)
def test_colours_that_stand_together_are_told_apart(vision):
    seen = [lab(VISION[vision] @ linear(colour)) for colour in TOGETHER]
    apart = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(apart) > 25  # 2.3 is the least difference an eye notices side by side
    ink, measured, allowed = (
        lab(VISION[vision] @ linear(c)) for c in (figures.BOUND, figures.MEASURED, figures.IN_DISTRIBUTION)
    )
    assert np.linalg.norm(ink - measured) > 20
    assert np.linalg.norm(allowed - measured) > 20


@pytest.mark.parametrize("colour", [*TOGETHER, figures.MEASURED])
@pytest.mark.parametrize("ground", ["#FFFFFF", figures.CARD, "#121212"])
def test_colours_stand_out_on_light_and_dark(colour, ground):
    luminance = [linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (colour, ground)]
    assert max(luminance) / min(luminance) >= 3  # WCAG 2.1, 1.4.11


def test_text_is_readable_on_a_phone():
    width = figures.STYLE["figure.figsize"][0]
    for size in (figures.STYLE["font.size"], figures.STYLE["legend.fontsize"]):
        assert 340 * size / (72 * width) >= 9  # pixels, with the figure 340 pixels wide
    for colour in (figures.INK, figures.MUTED):
        light, dark = (linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (figures.CARD, colour))
        assert light / dark >= 4.5


def test_the_same_figure_gives_the_same_bytes():
    def png():
        figure, axis = pyplot.subplots()
        figures.circle(axis, LINE)
        buffer = io.BytesIO()
        figure.savefig(buffer, metadata={"Software": None})
        return buffer.getvalue()

    assert png() == png()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 8, 8), (3, 3, 32, 32)])
def test_image_grid_shows_every_image(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    figure = figures.image_grid(images, titles=["a", "b", 7], columns=2)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["a", "b", "7"]
    for axis, image in zip(shown, images, strict=True):
        picture = torch.as_tensor(np.asarray(axis.images[0].get_array()))
        expected = image.permute(1, 2, 0) if shape[1:2] == (3,) else image.reshape(picture.shape)
        assert torch.allclose(picture.float(), expected)


def test_triptych_prints_the_distances():
    original = np.zeros((2, 8, 8))
    moved = original.copy()
    moved[0, 0, 0], moved[1, :2, 0] = 0.5, 1.0
    figure = figures.triptych(
        original, {"unconstrained": moved}, labels={"original": [3, 4], "unconstrained": [5, 6]}
    )
    assert [axis.get_xlabel() for axis in figure.axes] == ["3", "4", "5  0.50", "6  1.41"]
    assert figure.axes[2].get_title(loc="left") == "unconstrained"


def test_circle_is_coloured_by_the_classifier():
    axis = pyplot.subplots()[1]
    figures.circle(axis, LINE)
    arcs = [line for line in axis.lines if line.get_label() in ("class 0", "class 1")]
    for label, arc in enumerate(arcs):
        points = torch.tensor(arc.get_xydata())
        points = points[~points.isnan().any(1)]
        assert (LINE(points).argmax(1) == label).all()
    drawn = [(~np.isnan(arc.get_xdata())).mean() for arc in arcs]
    np.testing.assert_allclose(drawn, circle.class_probabilities(LINE), atol=2e-3)


def test_latent_line_is_coloured_by_the_classifier():
    axis = pyplot.subplots()[1]
    figures.latent_line(axis, LINE)
    for label, area in enumerate(axis.collections):
        middles = [path.get_extents().get_points()[:, 0].mean() for path in area.get_paths()]
        z = torch.tensor(middles)[:, None]
        assert len(middles) > 3
        assert (LINE(circle.Circle()(z)[1:-1]).argmax(1) == label).all()


@pytest.mark.parametrize("z", [0.1, 0.2, -0.3])
def test_three_radii_have_their_lengths(z):
    plane, line = figures.three_radii(LINE, z).axes
    arc, chord, normal = [part.get_xydata() for part in plane.lines][-4:-1]
    latent, in_distribution, unconstrained = (float(r) for r in circle.exact_radii(LINE, [[z]]))
    assert np.linalg.norm(np.diff(chord, axis=0)) == pytest.approx(in_distribution)
    assert np.linalg.norm(np.diff(normal, axis=0)) == pytest.approx(unconstrained)
    assert np.ptp(line.lines[0].get_xdata()) == pytest.approx(latent)
    # The arc is drawn at 1.13 radii; its pieces are chords.
    length = np.linalg.norm(np.diff(arc, axis=0), axis=1).sum()
    assert length == pytest.approx(1.13 * 2 * np.pi * latent, rel=1e-3)
    for end in (chord[1], normal[1]):
        assert end @ LINE.normal.numpy() == pytest.approx(LINE.offset)


@pytest.mark.parametrize("offset", [0.8, -0.9])
def test_projected_plane_shows_both_radii(offset):
    line, z = circle.HalfPlane([0.6, 0.8], offset), [[0.11]]
    before, after = figures.projected(line, 0.11).axes
    chord, marker, shortest = [part.get_xydata() for part in after.lines[1:4]]
    assert np.linalg.norm(np.diff(chord, axis=0)) == pytest.approx(float(circle.exact_radii(line, z)[1]))
    np.testing.assert_allclose(marker[0], chord[1])
    radius = float(circle.exact_projected_radius(line, z))
    assert np.linalg.norm(np.diff(shortest, axis=0)) == pytest.approx(radius)
    assert f"{radius:.2f}" in after.get_title()
    assert f"{float(circle.exact_radii(line, z)[2]):.2f}" in before.get_title()


@pytest.mark.parametrize("z", [0.125, 0.2, -0.4])
def test_fooled_twice_shows_the_shortest_ways(z):
    first, second = circle.HalfPlane([0.5, 0.87], 0.25), circle.HalfPlane([0.9, 0.44], 0.3)
    axis = figures.fooled_twice(first, second, z).axes[0]
    along, straight = [line.get_xydata() for line in axis.lines if line.get_linewidth() == 4]
    x = circle.Circle()(torch.tensor([[z]], dtype=torch.float64))
    pair = [LinearPartition(torch.stack([-h.normal, h.normal]), [h.offset, -h.offset]) for h in (first, second)]
    lengths = [np.linalg.norm(np.diff(way, axis=0)) for way in (along, straight)]
    assert lengths[1] == pytest.approx(float(exact_joint_radius(*pair, x)), rel=1e-6)
    # On the circle: the nearest of many points where both labels differ.
    turns = torch.linspace(-0.5, 0.5, 100_001, dtype=torch.float64)[:, None]
    fooled = torch.stack([h(circle.Circle()(turns)).argmax(1) != h(x).argmax(1) for h in (first, second)]).all(0)
    nearest = (circle.Circle()(turns[fooled]) - x).norm(dim=1).min()
    assert lengths[0] == pytest.approx(float(nearest), abs=1e-3)


def test_bound_plot_shades_what_the_theorem_allows():
    axis = pyplot.subplots()[1]
    eta = np.linspace(0, 1, 5)
    figures.bound_plot(axis, eta, eta - 0.2, np.sqrt(eta), interval=(eta, np.ones(5)), name="a classifier")
    bound, measured = axis.lines
    np.testing.assert_allclose(bound.get_ydata(), [0, 0.05, 0.3, 0.55, 0.8], atol=1e-12)
    assert measured.get_label() == "a classifier"
    region = axis.collections[0].get_paths()[0]
    assert region.contains_point((0.5, 0.5)) and not region.contains_point((0.5, 0.2))


def test_bracket_marks_every_number_and_shades_the_room_between():
    axis = pyplot.subplots()[1]
    figures.bracket(axis, {"sampled": 2.0, "searched": 5.0}, {"certified": 300.0})
    assert [line.get_xdata()[0] for line in axis.lines] == [2, 5, 300]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sampled", "searched", "certified"]
    room = axis.patches[0].get_extents().transformed(axis.transData.inverted())
    assert (room.x0, room.x1) == pytest.approx((5, 300))


def test_regions_colour_the_side_of_the_line():
    axis = pyplot.subplots()[1]
    figures.regions(axis, circle.HalfPlane([1.0, 0.0], 0.5), xlim=(0, 1), ylim=(-1, 1))
    axis.figure.canvas.draw()
    pixels = np.asarray(axis.figure.canvas.buffer_rgba())
    for spot, colour in (((0.25, 0.5), figures.CLASS_0), ((0.75, -0.5), figures.CLASS_1)):
        column, row = axis.transData.transform(spot).astype(int)
        seen, pure = pixels[pixels.shape[0] - row, column, :3] / 255, np.array(colors.to_rgb(colour))
        np.testing.assert_allclose(
            seen, 0.22 * pure + 0.78 * np.array(colors.to_rgb(figures.CARD)), atol=0.02
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: figures.image_grid(np.zeros((2, 5, 8, 8))),
            r"images must have shape .* got \(2, 5, 8, 8\)",
        ),
        (lambda a: figures.image_grid(np.zeros((0, 8, 8))), "images must hold at least one image"),
        (lambda a: figures.image_grid(np.full((1, 8, 8), np.nan)), "images must not contain NaN"),
        (lambda a: figures.image_grid(np.zeros((2, 8, 8)), titles=["a"]), "titles must hold 2 texts.* got 1"),
        (
            lambda a: figures.image_grid(np.zeros((2, 8, 8)), columns=0),
            "columns must be .* at least 1, got 0",
        ),
        (
            lambda a: figures.triptych(np.zeros((2, 8, 8)), {"b": np.zeros((1, 8, 8))}),
            r"adversarial\['b'\] must have",
        ),
        (
            lambda a: figures.circle(a, circle.HalfPlane([1.0, 0, 0])),
            "classifier must be a HalfPlane of the plane",
        ),
        (
            lambda a: figures.fooled_twice(LINE, circle.HalfPlane([0.6, 0.8], 0.9), 0.0),
            "first and second must both change somewhere on the circle",
        ),
        (lambda a: figures.latent_line(a, LINE, span=0), "span must be one positive number, got 0"),
        (
            lambda a: figures.bound_plot(a, [0.0, 1], [0.0]),
            r"bound must have shape \(n,\), n = 2 as eta, got \(1,\)",
        ),
        (lambda a: figures.bound_plot(a, [0.0, 1], [0.0, 1], [0.0]), "measured must have shape"),
        (lambda a: figures.bound_plot(a, [], []), "eta must have shape"),
        (lambda a: figures.bracket(a, {}, {"b": 1}), "lower and upper must each hold a number, got 0 and 1"),
        (
            lambda a: figures.bracket(a, {"a": -1}, {"b": 1}),
            r"lower\['a'\] must be one positive number, got -1",
        ),
        (lambda a: figures.bracket(a, {"a": 3}, {"b": 1}), "lower must not exceed upper, got 3 and 1"),
        (
            lambda a: figures.regions(a, lambda x: x[:, [0, 1, 0]], xlim=(0, 1), ylim=(0, 1)),
            "classifier must return 2 logits, got 3",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(pyplot.subplots()[1])


# The arms race

EVENTS = {"first": (2013, "attacks"), "second": (2016, "attacks"), "third": (2016, "defences"), "x": (2016, "attacks")}


def test_time_line_is_in_order_and_on_two_sides():
    axis = figures.time_line(EVENTS, sides=("attacks", "defences")).axes[0]
    spots = {text.get_text(): text.get_position() for text in axis.texts}
    assert spots["2013"][1] < spots["2016"][1]
    assert spots["first"][0] < 0 < spots["third"][0]
    assert spots["second"][1] == spots["third"][1] != spots["x"][1]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def test_heat_maps_write_what_they_are_given():
    table = np.array([[0.0, 0.256], [np.inf, np.nan]])
    figure = figures.heat_maps({"a": table, "b": 2 * table}, rows=["p", "q"], columns=["u", "v"], percent=True)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "26", "∞", ""]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["u", "v"]
    plain = figures.heat_maps({"a": table}, rows=["p", "q"], columns=["u", "v"], high=0.5)
    assert [text.get_text() for text in plain.axes[0].texts] == ["0.0", "0.3", "∞", ""]
    assert plain.axes[0].images[0].get_array().max() == 1.0


@pytest.mark.parametrize("share", np.linspace(0, 1, 11))
def test_numbers_on_a_heat_map_are_readable(share):
    axis = figures.heat_maps({"a": [[share]]}, rows=["p"], columns=["u"]).axes[0]
    ground = axis.images[0].cmap(share)[:3]
    light, dark = sorted(
        (linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (ground, axis.texts[0].get_color())), reverse=True
    )
    assert light / dark >= 3.5


def test_attacked_shows_the_change_beside_its_size():
    original = torch.zeros(1, 8, 8)
    moved = original.clone()
    moved[0, 0, 0], moved[0, 1, 1] = 0.6, 0.8
    figure = figures.attacked(original, {"few": moved}, labels=["3", "8"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["original\n3", "few\n8"]
    change = figure.axes[3]
    assert change.get_xlabel() == "1.00\n2 px"
    assert change.images[0].get_clim() == pytest.approx((-0.8, 0.8))
    colour = figures.attacked(torch.zeros(3, 4, 4), {"none": torch.zeros(3, 4, 4)}).axes[3]
    assert colour.get_xlabel() == "0.00\n0 px"


def test_equation_has_three_pictures_and_two_signs():
    image = torch.full((1, 8, 8), 0.5)
    figure = figures.equation(image, -torch.ones(1, 8, 8), image - 0.2, factor="0.2", texts=["a", "b", "c"])
    assert [axis.get_xlabel() for axis in figure.axes[::2]] == ["a", "b", "c"]
    assert [axis.texts[0].get_text() for axis in figure.axes[1::2]] == ["+ 0.2 ×", "="]
    assert (np.asarray(figure.axes[2].images[0].get_array()) == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.time_line({}, sides=("a", "b")), "events must each be"),
        (lambda: figures.time_line({"x": (2013, "c")}, sides=("a", "b")), "events must each be"),
        (lambda: figures.heat_maps({}, rows=["p"], columns=["u"]), "panels must hold at least one table"),
        (lambda: figures.heat_maps({"a": [[1, 2]]}, rows=["p"], columns=["u"]), r"panels\['a'\] must have shape"),
        (lambda: figures.heat_maps({"a": [[1]]}, rows=["p"], columns=["u"], high=0), "high must be one positive"),
        (lambda: figures.attacked(torch.zeros(8, 8), {}), "adversarial must hold images"),
        (lambda: figures.attacked(torch.zeros(8, 8), {"a": torch.zeros(4, 4)}), "adversarial must hold images"),
        (lambda: figures.attacked(torch.zeros(8, 8), {"a": torch.zeros(8, 8)}, labels=["1"]), "labels must hold 2"),
        (
            lambda: figures.equation(*[torch.zeros(8, 8)] * 2, torch.zeros(4, 4), factor="1", texts="abc"),
            "must have the shape of original",
        ),
        (lambda: figures.equation(*[torch.zeros(8, 8)] * 3, factor="1", texts=["a"]), "texts must hold 3 texts"),
    ],
)
def test_arms_race_figures_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
