"""One look for every figure of the book: the same colour means the same idea, in every chapter.

Call `use()` once at the top of a notebook. The colours are told apart with any common colour vision (a test
measures it) and stand out on the light card that a figure brings along: a dark page needs no second version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

try:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "companion.figures needs matplotlib; install it with: pip install 'adversarial-vulnerability[book]'"
    ) from error

from companion import _validation as check
from companion.circle import Circle, HalfPlane, exact_radii
from companion.projection import ProjectedClassifier

INK, MUTED, CARD = "#2B303B", "#5C6370", "#FBFAF7"
CLASSES = CLASS_0, CLASS_1 = "#1490EC", "#B63A2F"
BOUND = INK
MEASURED = "#E82A62"
LATENT, IN_DISTRIBUTION, UNCONSTRAINED = "#924997", "#2F9E86", "#BF8700"
_RADII = {"latent": LATENT, "in-distribution": IN_DISTRIBUTION, "unconstrained": UNCONSTRAINED}

# At 5.6 inches, 12 points are still 10 pixels when a phone shows the figure 340 pixels wide.
STYLE = {
    "figure.figsize": (5.6, 3.5),
    "figure.dpi": 100,
    "figure.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "savefig.facecolor": CARD,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "mathtext.fontset": "dejavusans",
    "axes.facecolor": CARD,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(
        color=[CLASS_0, CLASS_1, IN_DISTRIBUTION, LATENT, UNCONSTRAINED, MEASURED],
    ),
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 2.2,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
}


def use() -> None:
    """Draw every following figure in the book's style; in a notebook, as sharp and reproducible PNG."""
    matplotlib.rcParams.update(STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if _in_notebook():
        set_matplotlib_formats("retina", bbox_inches=None, metadata={"Software": None})


def image_grid(images, *, titles=None, columns: int | None = None) -> Figure:
    """A grid of small images.

    Args:
        images: (n, H, W), (n, 1, H, W) or (n, 3, H, W), values in [0, 1]; grey images are drawn as dark ink.
        titles: n short texts to stand above the images.
        columns: images in a row, at least 1; by default up to ten, in rows of nearly equal length.

    Returns:
        The figure.

    Raises:
        ValueError: for images of another shape, or another number of titles.
    """
    pictures = _pictures("images", images)
    titles = _names("titles", titles, len(pictures))
    columns = min(10, len(pictures)) if columns is None else check.integer("columns", columns, minimum=1)
    rows = math.ceil(len(pictures) / columns)
    figure, axes = _cells(rows, columns, titled=any(titles))
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        _show(axis, picture)
        axis.set_title(title, pad=3)
    for axis in axes.flat[len(pictures) :]:
        axis.set_visible(False)
    return figure


def triptych(original, adversarial: Mapping[str, object], *, labels: Mapping[str, object] = {}) -> Figure:
    """Originals in the top row, and below them one row for each way to change them, with the distances.

    Args:
        original: n images, of a shape that `image_grid` takes.
        adversarial: name of a row -> images of the shape of `original`. The names "latent",
            "in-distribution" and "unconstrained" are framed in the colour of their radius.
        labels: name of a row, or "original" -> n labels to write under the images, before the distance.

    Returns:
        The figure.

    Raises:
        ValueError: for images of different shapes, or another number of labels.
    """
    rows = {"original": _pictures("original", original)}
    for name, images in adversarial.items():
        rows[name] = _pictures(f"adversarial[{name!r}]", images)
        if rows[name].shape != rows["original"].shape:
            raise ValueError(
                f"adversarial[{name!r}] must have the shape of original, {rows['original'].shape}, "
                f"got {rows[name].shape}"
            )
    count = len(rows["original"])
    figure, axes = _cells(len(rows), count, titled=True)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        colour = _RADII.get(name, MUTED)
        names = _names(f"labels[{name!r}]", labels.get(name), count)
        for axis, picture, start, label in zip(line, pictures, rows["original"], names, strict=True):
            _show(axis, picture, frame=colour)
            distance = "" if name == "original" else f"{np.linalg.norm(picture - start):.2f}"
            axis.set_xlabel("  ".join(filter(None, (label, distance))), labelpad=3)
        line[0].set_title(name, loc="left", pad=3, color=INK)
    return figure


def circle(axis: Axes, classifier: HalfPlane) -> None:
    """The unit circle coloured by class, and the line that divides the plane.

    Args:
        axis: where to draw; its limits are set to show the whole circle.
        classifier: a half-plane of the plane.

    Raises:
        ValueError: if `classifier` is not a half-plane of the plane.
    """
    normal = _normal(classifier)
    turn = np.linspace(0, 1, 1441)
    points = np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=-1)
    inside = points @ normal > classifier.offset
    for label, colour in enumerate(CLASSES):
        part = np.where((inside == label)[:, None], points, np.nan)
        axis.plot(*part.T, color=colour, linewidth=5, solid_capstyle="butt", label=f"class {label}")
    foot, along = classifier.offset * normal, np.array([-normal[1], normal[0]])
    axis.axline(foot, foot + along, color=INK, linewidth=1.5)
    axis.annotate("", foot + 0.3 * normal, foot, arrowprops={"arrowstyle": "-|>", "color": INK})
    axis.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def latent_line(axis: Axes, classifier: HalfPlane, *, span: float = 2.6) -> None:
    """The Gaussian density of the circle's latent z, coloured by the class of g(z).

    Args:
        axis: where to draw.
        classifier: a half-plane of the plane.
        span: z is shown from -span to span; positive.

    Raises:
        ValueError: if `classifier` is not a half-plane of the plane, or `span` is not positive.
    """
    normal, span = _normal(classifier), check.positive("span", span)
    z = np.linspace(-span, span, 4001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    inside = np.cos(2 * np.pi * z) * normal[0] + np.sin(2 * np.pi * z) * normal[1] > classifier.offset
    for label, colour in enumerate(CLASSES):
        axis.fill_between(z, density, where=inside == label, color=colour, alpha=0.8, linewidth=0)
    axis.set(xlim=(-span, span), ylim=(0, 0.42), yticks=[], xlabel="latent z")
    axis.spines["left"].set_visible(False)


def three_radii(classifier: HalfPlane, z: float) -> Figure:
    """One point g(z) of the circle with its three radii, above the latent line that is wrapped around it.

    Args:
        classifier: a half-plane of the plane, whose line cuts the circle.
        z: the latent point, one number from -2 to 2.

    Returns:
        The figure.

    Raises:
        ValueError: if `classifier` is not such a half-plane, or `z` is not such a number.
    """
    normal, z = _normal(classifier), float(z)
    end = _nearest_end(classifier, z)
    x, boundary = _on_circle(z), _on_circle(end)
    foot = x - (x @ normal - classifier.offset) * normal
    arc = 1.13 * np.stack([_on_circle(turn) for turn in np.linspace(z, end, 61)])
    beside = (foot - boundary) / max(1e-9, np.linalg.norm(foot - boundary))
    figure, (plane, line) = pyplot.subplots(2, 1, figsize=(5.6, 6.0), height_ratios=[3, 1])
    circle(plane, classifier)
    plane.set(xlim=(-1.2, 1.3), ylim=(-1.1, 1.2))
    plane.axis("off")
    latent_line(line, classifier, span=2.3)
    for path, colour, name, spot in [
        (arc, LATENT, "$r_Z$", 1.14 * arc[30]),
        (np.stack([x, boundary]), IN_DISTRIBUTION, "$r_{in}$", (x + boundary) / 2 - 0.13 * arc[30]),
        (np.stack([x, foot]), UNCONSTRAINED, "$r_{unc}$", (x + foot) / 2 + 0.17 * beside),
    ]:
        plane.plot(*path.T, color=colour, linewidth=4, solid_capstyle="round")
        plane.text(*spot, name, ha="center", va="center", fontsize=15)
    line.plot([z, end], [0, 0], color=LATENT, linewidth=12, solid_capstyle="butt", clip_on=False, zorder=3)
    for axis, spot, name in ((plane, x, "x"), (line, (z, 0), "z")):
        axis.plot(*spot, "o", color=INK, markersize=16, clip_on=False, zorder=4)
        axis.annotate(name, spot, color=CARD, ha="center", va="center", style="italic", zorder=5, fontsize=13)
    return figure


def projected(classifier: HalfPlane, z: float) -> Figure:
    """A half-plane f beside its projected classifier f̃, and how far a point of the circle is from a change.

    Args:
        classifier: a half-plane of the plane, whose line cuts the circle.
        z: the latent of the point g(z), one number from -2 to 2.

    Returns:
        The figure.

    Raises:
        ValueError: if `classifier` is not such a half-plane, or `z` is not such a number.
    """
    normal, z = _normal(classifier), float(z)
    x, boundary = _on_circle(z), _on_circle(_nearest_end(classifier, z))
    foot = x - (x @ normal - classifier.offset) * normal
    # The boundary of f̃ is a ray; seen from behind, its nearest point is its end, the centre.
    ray = max(0.0, x @ boundary) * boundary
    figure, axes = pyplot.subplots(1, 2, figsize=(5.6, 3.1), sharey=True)
    pairs = zip(axes, ("f", r"\tilde f"), (classifier, ProjectedClassifier(Circle(), classifier)), strict=True)
    for axis, name, shown in pairs:
        regions(axis, shown, xlim=(-1.45, 1.45), ylim=(-1.45, 1.45))
        axis.plot(*np.stack([_on_circle(turn) for turn in np.linspace(0, 1, 181)]).T, color=INK, linewidth=2)
        end = foot if shown is classifier else ray
        if shown is not classifier:
            axis.plot(*np.stack([x, boundary]).T, color=IN_DISTRIBUTION, linewidth=3)
            axis.plot(*boundary, "o", color=IN_DISTRIBUTION)
            _beside(axis, x, boundary, "$r_{in}$", away=end)
        axis.plot(*np.stack([x, end]).T, color=UNCONSTRAINED, linewidth=4, solid_capstyle="round")
        _beside(axis, x, end, "$r_{unc}$", away=boundary)
        axis.plot(*x, "o", color=INK, markersize=13, zorder=4)
        axis.annotate("x", x, color=CARD, ha="center", va="center", style="italic", zorder=5)
        axis.set_title(f"${name}$:  $r_{{unc}}$ = {np.linalg.norm(x - end):.2f}")
        axis.axis("off")
    return figure


def fooled_twice(first: HalfPlane, second: HalfPlane, z: float) -> Figure:
    """Two half-planes f and h, a point of the circle, and the shortest ways to where both have changed their labels.

    Args:
        first: f, a half-plane of the plane.
        second: h, another one.
        z: the latent of the point g(z), one number.

    Returns:
        The figure: one way straight through the plane, one to the nearest such point of the circle.

    Raises:
        ValueError: if an argument is of another kind, or no point of the circle changes both labels.
    """
    lines = [(_normal(line), line.offset) for line in (first, second)]
    x = _on_circle(z)
    signs = [1 if x @ normal > offset else -1 for normal, offset in lines]

    def changed(points: np.ndarray) -> np.ndarray:
        """How many labels differ from those of x, those on a boundary included."""
        beyond = [s * (points @ n - b) <= 1e-9 for s, (n, b) in zip(signs, lines, strict=True)]
        return np.sum(beyond, axis=0)

    around = float(z) + np.linspace(-0.5, 0.5, 20_001)
    around = around[np.argsort(np.abs(around - float(z)), kind="stable")]
    arrived = changed(np.stack([np.cos(2 * np.pi * around), np.sin(2 * np.pi * around)], axis=-1)) == 2
    if not arrived.any():
        raise ValueError(f"first and second must both change somewhere on the circle, got {first!r} and {second!r}")
    along = _on_circle(around[arrived.argmax()])
    # The nearest point of the plane is the foot of a perpendicular, or where the lines cross; the circle's is a third.
    ends = [along, *(x - (x @ n - b) * n for n, b in lines)]
    normals = np.stack([n for n, _ in lines])
    if abs(np.linalg.det(normals)) > 1e-9:
        ends.append(np.linalg.solve(normals, [b for _, b in lines]))
    end = min((e for e in ends if changed(e) == 2), key=lambda e: np.linalg.norm(e - x))
    figure, axis = pyplot.subplots(figsize=(5.6, 4.8))
    ticks = np.linspace(-1.45, 1.45, 600)
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    count = changed(points)
    axis.text(*points[count == 2].mean(axis=0), "both\nchanged", ha="center", va="center", fontsize=13)
    axis.contourf(ticks, ticks, count, [0.5, 1.5, 2.5], colors=["#E4E4E2", "#F3C3D2"])
    axis.plot(*np.stack([_on_circle(turn) for turn in np.linspace(0, 1, 181)]).T, color=INK, linewidth=2)
    for name, (normal, offset) in zip("fh", lines, strict=True):
        direction = np.array([-normal[1], normal[0]])
        axis.axline(offset * normal, offset * normal + direction, color=INK, linewidth=1.5)
        axis.annotate(f"${name}$", offset * normal + 1.25 * direction, (6, 6), textcoords="offset points", fontsize=15)
    axis.plot(*np.stack([x, along]).T, color=IN_DISTRIBUTION, linewidth=4)
    axis.plot(*np.stack([x, end]).T, color=UNCONSTRAINED, linewidth=4)
    _beside(axis, x, along, "along the data", away=end)
    _beside(axis, x, end, "straight", away=along)
    axis.plot(*along, "o", color=IN_DISTRIBUTION, markersize=9)
    axis.plot(*end, "o", color=UNCONSTRAINED, markersize=9)
    axis.plot(*x, "o", color=INK, markersize=16, zorder=4)
    axis.annotate("x", x, color=CARD, ha="center", va="center", style="italic", zorder=5, fontsize=13)
    axis.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal")
    axis.axis("off")
    return figure


def bound_plot(axis: Axes, eta, bound, measured=None, *, interval=None, name: str = "measured") -> None:
    """A lower bound on a fraction as the edge of the region it allows, and in that region what was measured.

    Args:
        axis: where to draw.
        eta: (n,) horizontal positions, increasing.
        bound: (n,) the bound at `eta`; what is below 0 says nothing and is cut off.
        measured: (n,) the measured fraction at `eta`.
        interval: (low, high), each (n,), the confidence interval of `measured`.
        name: what was measured, for the legend.

    Raises:
        ValueError: if the arrays have not one shape (n,).
    """
    eta = _curve("eta", eta)
    floor = _curve("bound", bound, eta).clip(min=0)
    axis.fill_between(eta, floor, 1, color=IN_DISTRIBUTION, alpha=0.13, linewidth=0, label="allowed")
    axis.plot(eta, floor, color=BOUND, linewidth=3, label="bound")
    if measured is not None:
        axis.plot(eta, _curve("measured", measured, eta), color=MEASURED, linestyle=(0, (5, 1.5)), label=name)
    if interval is not None:
        low, high = (_curve("interval", end, eta) for end in interval)
        axis.fill_between(eta, low, high, color=MEASURED, alpha=0.25, linewidth=0)
    axis.set(xlim=(eta.min(), eta.max()), ylim=(0, 1.02), xlabel="η", ylabel="fraction within η")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1.6, columnspacing=1.2)


def bracket(axis: Axes, lower: Mapping[str, float], upper: Mapping[str, float]) -> None:
    """One positive number: what bounds it from below and from above, and the room that leaves it.

    Args:
        axis: where to draw; its horizontal axis becomes logarithmic.
        lower: name -> a positive number that the unknown one reaches at least.
        upper: name -> a positive number that it does not exceed.

    Raises:
        ValueError: if lower or upper is empty, a number is not positive, or a lower one exceeds an upper.
    """
    if not lower or not upper:
        raise ValueError(f"lower and upper must each hold a number, got {len(lower)} and {len(upper)}")
    below = [check.positive(f"lower[{name!r}]", value) for name, value in lower.items()]
    above = [check.positive(f"upper[{name!r}]", value) for name, value in upper.items()]
    if max(below) > min(above):
        raise ValueError(f"lower must not exceed upper, got {max(below):g} and {min(above):g}")
    axis.axvspan(max(below), min(above), color=IN_DISTRIBUTION, alpha=0.13, linewidth=0)
    middle = math.sqrt(max(below) * min(above))
    axis.text(middle, -0.75, "the truth is here", color=INK, ha="center", va="center", fontsize=11)
    for row, value in enumerate([*below, *above]):
        marker, colour, away, side = (
            (">", MEASURED, -10, "right") if row < len(below) else ("<", BOUND, 10, "left")
        )
        axis.plot(value, row, marker=marker, color=colour, markersize=11)
        text = f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
        axis.annotate(text, (value, row), (away, 0), textcoords="offset points", ha=side, va="center")
    rows = len(below) + len(above)
    axis.set(xscale="log", xlim=(min(below) / 10, max(above) * 10), ylim=(rows - 0.5, -1.2))
    axis.set_yticks(range(rows), [*lower, *upper])
    axis.tick_params(axis="y", length=0)


def regions(axis: Axes, classifier, *, xlim: tuple[float, float], ylim: tuple[float, float]) -> None:
    """The two classes of a classifier of the plane as coloured regions, and the boundary between them.

    Args:
        axis: where to draw, with one scale for both directions.
        classifier: (n, 2) -> (n, 2) logits.
        xlim: (low, high), what to show horizontally.
        ylim: (low, high), what to show vertically.

    Raises:
        ValueError: if `classifier` does not return two logits.
    """
    x, y = torch.linspace(*xlim, 400, dtype=torch.float64), torch.linspace(*ylim, 400, dtype=torch.float64)
    points = torch.cartesian_prod(x, y)
    logits = check.classify(classifier, points).detach()
    if logits.shape[1] != 2:
        raise ValueError(f"classifier must return 2 logits, got {logits.shape[1]}")
    over = (logits[:, 1] - logits[:, 0]).reshape(400, 400).T
    axis.contourf(x, y, over, [-math.inf, 0, math.inf], colors=CLASSES, alpha=0.22)
    axis.contour(x, y, over, [0], colors=INK, linewidths=1.5)
    axis.set(xlim=xlim, ylim=ylim, aspect="equal")


def time_line(events: Mapping[str, tuple[float, str]], *, sides: tuple[str, str]) -> Figure:
    """Years from top to bottom, and what happened on either side of them.

    Args:
        events: text -> (year, side), the side one of `sides`; texts of one year and side are set below each other.
        sides: what stands on the left and on the right.

    Raises:
        ValueError: if there are no events, or one of another side.
    """
    if not events or any(side not in sides for _, side in events.values()):
        raise ValueError(f"events must each be (year, one of {sides}), got {dict(events)!r}")
    years = sorted({check.tensor("year", year).item() for year, _ in events.values()})
    rows, place = {}, 0
    for year in years:
        rows[year] = place
        place += max(sum(event == (year, side) for event in events.values()) for side in sides)
    figure, axis = pyplot.subplots(figsize=(STYLE["figure.figsize"][0], 0.62 * place + 0.5))
    axis.plot([0, 0], [-0.6, place - 0.4], color=MUTED, linewidth=2)
    used: dict[tuple[float, str], int] = {}
    for text, (year, side) in events.items():
        row = rows[year] + used.get((year, side), 0)
        used[year, side] = used.get((year, side), 0) + 1
        colour, sign = (CLASS_1, -1) if side == sides[0] else (CLASS_0, 1)
        axis.plot([0, 0.2 * sign], [row, row], color=colour)
        axis.text(0.24 * sign, row, text, ha="right" if sign < 0 else "left", va="center", fontsize=11)
    for year, row in rows.items():
        box = {"boxstyle": "round,pad=0.25", "facecolor": CARD, "edgecolor": MUTED}
        axis.text(0, row, f"{year:g}", ha="center", va="center", bbox=box, fontsize=11)
    for side, sign, colour in zip(sides, (-1, 1), (CLASS_1, CLASS_0), strict=True):
        axis.text(0.24 * sign, -0.9, side, ha="right" if sign < 0 else "left", color=colour, weight="bold")
    axis.set(xlim=(-1.5, 1.5), ylim=(place - 0.3, -1.2))
    axis.axis("off")
    return figure


def heat_maps(panels: Mapping[str, object], *, rows, columns, percent: bool = False, high: float = 1.0) -> Figure:
    """Tables of numbers in colour, one below the other: red where a number is 0, blue where it is `high` or more.

    Args:
        panels: title -> (R, C) non-negative numbers; infinite ones are written as ∞, NaN leaves a cell empty.
        rows: R names.
        columns: C names, written below the last table.
        percent: write shares as whole per cents.
        high: the number whose colour is the deepest blue; positive.

    Raises:
        ValueError: if there is no panel, or one has another shape.
    """
    rows, columns, high = [str(row) for row in rows], [str(name) for name in columns], check.positive("high", high)
    tables = {}
    for title, values in panels.items():
        table = np.asarray(torch.as_tensor(values).detach().cpu().to(torch.float64))
        if table.shape != (len(rows), len(columns)):
            raise ValueError(f"panels[{title!r}] must have shape {(len(rows), len(columns))}, got {table.shape}")
        tables[title] = table
    if not tables:
        raise ValueError("panels must hold at least one table, got none")
    height = len(tables) * (0.31 * len(rows) + 0.5) + 0.9
    size = (STYLE["figure.figsize"][0], height)
    figure, axes = pyplot.subplots(len(tables), 1, squeeze=False, figsize=size, sharex=True)
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("held", [CLASS_1, CARD, CLASS_0])
    for axis, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        axis.imshow(table.clip(0, high) / high, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            text = f"{100 * value:.0f}" if percent else f"{value:.1f}"
            text = {"nan": "", "inf": "∞"}.get(str(float(value)), text)
            dark = value / high < 0.2
            axis.text(column, row, text, ha="center", va="center", color=CARD if dark else INK, fontsize=11)
        axis.set_title(title, loc="left")
        axis.set_yticks(range(len(rows)), rows, fontsize=11)
        axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=11)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def attacked(original, adversarial: Mapping[str, object], *, labels=None) -> Figure:
    """One image, what attacks made of it, and below each the change, drawn as strongly as the figure allows.

    Ink was added where a pixel is blue and taken away where it is red; below stand the L2 length and the number of
    pixels changed.

    Args:
        original: one image, (H, W), (1, H, W) or (3, H, W).
        adversarial: name -> an image of the same shape.
        labels: texts for the original and then for each other image, written after the names.

    Raises:
        ValueError: for images of different shapes, or another number of labels.
    """
    names = ["original", *adversarial]
    images = [torch.as_tensor(image) for image in (original, *adversarial.values())]
    if not adversarial or any(image.shape != images[0].shape for image in images):
        shapes = [tuple(image.shape) for image in images]
        raise ValueError(f"adversarial must hold images of the shape of original, got {shapes}")
    pictures = _pictures("original", torch.stack(images))
    labels = _names("labels", labels, len(names))
    figure, axes = _cells(2, len(names), titled=True)
    figure.set_figheight(figure.get_figheight() + 0.4)
    for column, (name, picture, label) in enumerate(zip(names, pictures, labels, strict=True)):
        _show(axes[0, column], picture)
        axes[0, column].set_title("\n".join(filter(None, (name, label))), fontsize=11)
        change = picture - pictures[0]
        if not column:
            axes[1, column].set_visible(False)
            continue
        flat = change if change.ndim == 2 else change.mean(-1)
        strongest = max(np.abs(flat).max(), 1e-12)
        axes[1, column].imshow(flat, cmap="RdBu", vmin=-strongest, vmax=strongest)
        axes[1, column].set(xticks=[], yticks=[])
        count = int((change != 0).sum())
        axes[1, column].set_xlabel(f"{np.linalg.norm(change):.2f}\n{count} px", fontsize=11)
    return figure


def equation(original, noise, perturbed, *, factor: str, texts) -> Figure:
    """The sum that began it all: image + factor × noise = image, with a text under each.

    Args:
        original, noise, perturbed: images of one shape; the noise from -1 to 1.
        factor: what stands before the noise.
        texts: three texts to stand below.

    Raises:
        ValueError: for images of different shapes, or another number of texts.
    """
    first = _pictures("original", torch.as_tensor(original)[None])[0]
    last = _pictures("perturbed", torch.as_tensor(perturbed)[None])[0]
    middle = _pictures("noise", torch.as_tensor(noise)[None])[0] / 2 + 0.5
    if not first.shape == middle.shape == last.shape:
        raise ValueError(f"noise and perturbed must have the shape of original, {first.shape}")
    texts = _names("texts", texts, 3)
    size = (STYLE["figure.figsize"][0], 2.1)
    figure, axes = pyplot.subplots(1, 5, figsize=size, width_ratios=[4, 2, 4, 0.7, 4])
    for axis, picture, text in zip(axes[::2], (first, middle, last), texts, strict=True):
        _show(axis, picture)
        axis.set_xlabel(text, labelpad=5)
    for axis, sign in zip(axes[1::2], (f"+ {factor} ×", "="), strict=True):
        axis.text(0.5, 0.5, sign, ha="center", va="center", fontsize=14)
        axis.axis("off")
    return figure


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _nearest_end(classifier: HalfPlane, z: float) -> float:
    """The latent of the boundary point nearest to z: r_Z to one side or the other."""
    if not -2 <= z <= 2:
        raise ValueError(f"z must be one number from -2 to 2, got {z!r}")
    latent = float(exact_radii(classifier, [[z]])[0])
    if not math.isfinite(latent):
        raise ValueError(f"classifier must cut the circle, got {classifier!r}")
    normal = _normal(classifier)
    return min((z - latent, z + latent), key=lambda turn: abs(_on_circle(turn) @ normal - classifier.offset))


def _beside(axis: Axes, start: np.ndarray, end: np.ndarray, name: str, *, away: np.ndarray) -> None:
    """Write the name of the step from start to end beside its middle, on the side where the point `away` is not."""
    step = end - start
    across = np.array([-step[1], step[0]]) / max(1e-9, np.linalg.norm(step))
    across *= -1 if across @ (away - start) > 0 else 1
    # The text grows away from the step, whatever its direction.
    horizontal = "center" if abs(across[0]) < 0.5 else "left" if across[0] > 0 else "right"
    axis.text(*((start + end) / 2 + 0.12 * across), name, ha=horizontal, va="center", fontsize=13, zorder=5)


def _on_circle(turn: float) -> np.ndarray:
    return np.array([math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)])


def _curve(name: str, value, like: np.ndarray | None = None) -> np.ndarray:
    """`value` as (n,) numbers, as many as in `like`."""
    curve = check.tensor(name, value).detach().to("cpu", torch.float64).numpy()
    if curve.ndim != 1 or not curve.size or (like is not None and len(curve) != len(like)):
        length = "n >= 1" if like is None else f"n = {len(like)} as eta"
        raise ValueError(f"{name} must have shape (n,), {length}, got {curve.shape}")
    return curve


def _normal(classifier: HalfPlane) -> np.ndarray:
    if not isinstance(classifier, HalfPlane) or classifier.normal.numel() != 2:
        raise ValueError(f"classifier must be a HalfPlane of the plane, got {classifier!r}")
    return classifier.normal.numpy()


def _pictures(name: str, images) -> np.ndarray:
    """`images` as (n, H, W) or (n, H, W, 3)."""
    pictures = check.images(name, images).detach().to("cpu", torch.float64).numpy()
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3):
        pictures = pictures[:, 0] if pictures.shape[1] == 1 else pictures.transpose(0, 2, 3, 1)
    elif pictures.ndim != 3:
        raise ValueError(f"{name} must have shape (n, [1 or 3,] H, W), got {pictures.shape}")
    if not len(pictures):
        raise ValueError(f"{name} must hold at least one image, got none")
    return pictures


def _names(name: str, texts, count: int) -> list[str]:
    texts = [""] * count if texts is None else [str(text) for text in texts]
    if len(texts) != count:
        raise ValueError(f"{name} must hold {count} texts, one an image, got {len(texts)}")
    return texts


def _cells(rows: int, columns: int, *, titled: bool) -> tuple[Figure, np.ndarray]:
    """A figure of the style's width with square cells for images."""
    width = STYLE["figure.figsize"][0]
    cell = min(width / columns, 1.6)
    size = (width, rows * (cell + 0.3 * titled))
    figure, axes = pyplot.subplots(rows, columns, squeeze=False, figsize=size)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)
    return figure, axes


def _show(axis: Axes, picture: np.ndarray, *, frame: str | None = None) -> None:
    axis.imshow(picture.clip(0, 1), vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2)
