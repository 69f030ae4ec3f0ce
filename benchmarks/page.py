"""results.json as people read it: a table of everything in CSV, short tables in Markdown, and a plot."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from matplotlib import pyplot

from benchmarks import attacks, compare
from companion import figures

HERE = Path(__file__).parent
FIELDS = (
    "classifier images budget library attack n success median mean near1 near2 optimality forward backward passes "
    "milliseconds date machine"
).split()
LEVELS = (60, 200, 600, 2000)
# Shown in full, and drawn.
SHOWN = {"digits/cnn": "frontier.png", "cifar10/wide-resnet": "frontier-cifar10.png"}


def write(results: dict) -> None:
    """results.csv, results.md and the plots beside results.json."""
    rows = compare.table(results)
    with (HERE / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows({name: _short(row[name]) for name in FIELDS} for row in rows)
    (HERE / "results.md").write_text(markdown(results, rows), encoding="utf-8")
    for name, file in SHOWN.items():
        here = compare.of(rows, (name, "real"))
        if here:
            plot(here, HERE / file)


def markdown(results: dict, rows: list[dict]) -> str:
    """What the book's page shows."""
    about = results["about"]
    dates, machines = (sorted({row[name] for row in rows}) for name in ("date", "machine"))
    lines = [_measured(about["attacks"] | {"machine": " and ".join(machines)}, dates), "", _images(rows)]
    if "photographs" in results:
        lines.append(f"The SHA-256 of their copy's `test_batch.bin` begins with {results['photographs'][:12]}.")
    networks = results.get("networks", {})
    old = [f"`{name}`" for name in networks if networks[name] != attacks.shipped(name)]
    if old:
        lines += ["", f"Measured were other networks than those that ship now under these names: {', '.join(old)}."]
    lines += [*equal_passes(rows), *pooled(rows)]
    for name in SHOWN:
        here = compare.of(rows, (name, "real"))
        if here:
            lines += every_attack(name, here)
    if results["radius"]:
        lines += radius(results["radius"], about["radius"])
    if results["jacobian"]:
        lines += jacobian(results["jacobian"], about["jacobian"])
    return "\n".join(lines) + "\n"


def equal_passes(rows: list[dict]) -> list[str]:
    """Ours beside the best single peer in no more passes, and who is ahead where."""
    lines = ["", "## No more passes", ""]
    lines += ["| classifier | images | passes up to | ours: mean | best peer | ours: median | best peer |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    for case in compare.cases(rows):
        here = compare.of(rows, case)
        for passes in LEVELS:
            cells = []
            for statistic in ("mean", "median"):
                mine, other = (compare.within(here, passes, statistic, who) for who in (compare.ours, compare.peer))
                cells += [_distance(mine[statistic]) if mine else "–"]
                cells += [f"{_distance(other[statistic])} ({other['attack']})" if other else "–"]
            lines.append(f"| {case[0]} | {case[1]} | {passes} | {' | '.join(cells)} |")
    lines += ["", "Who is ahead, at any number of passes:", ""]
    for case in compare.cases(rows):
        here = compare.of(rows, case)
        said = " ".join(compare.sentence(here, statistic) for statistic in ("mean", "median"))
        lines.append(f"- {case[0]}, {case[1]} images: {said}")
    return lines


def pooled(rows: list[dict], gradients: int = 1000) -> list[str]:
    """Ours at so many gradients beside the best of all peers, image by image."""
    lines = ["", f"## {gradients:,} gradients against all peers together", ""]
    lines += ["| classifier | images | ours: mean | peers pooled | ours: median | peers pooled | our passes | theirs |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    said = ["", "In words:", ""]
    for case in compare.cases(rows):
        here = compare.of(rows, case)
        mine, others = compare.at(here, gradients), compare.pool(here, gradients, "pool of all peers", compare.peer)
        if mine is None or others is None:
            continue
        numbers = (row[statistic] for statistic in ("mean", "median") for row in (mine, others))
        lines.append(
            f"| {case[0]} | {case[1]} | {' | '.join(map(_distance, numbers))} "
            f"| {mine['passes']:.0f} | {others['passes']:.0f} |"
        )
        said.append(f"- {case[0]}, {case[1]} images: {compare.pooled_sentence(mine, others)}")
    return lines + said


def every_attack(name: str, rows: list[dict]) -> list[str]:
    """The plot and the whole table of one classifier, real images."""
    lines = ["", f"## Every attack on `{name}`, {max(row['n'] for row in rows)} real images", ""]
    lines += [f"```{{image}} ../benchmarks/{SHOWN[name]}", f":alt: {alternative(rows)}", "```", ""]
    lines += [
        "| library | attack | budget | success | median | mean | within 1 % | within 2 % | optimality "
        "| forward | backward | ms an image |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for budget in ("30", "100", "1000", ""):
        shown = [row for row in rows if row["budget"] == budget]
        if shown and budget:
            shown += [compare.pool(rows, int(budget), "pool of all peers", compare.peer)]
            shown += [compare.pool(rows, int(budget), "best of all")]
        for r in filter(None, shown):
            title = r["attack"] + ("" if r["whole"] else f" (first {r['n']} images)")
            lines.append(
                f"| {r['library']} | {title} | {r['budget'] or '–'} | {r['success']:.0%} | {_distance(r['median'])} "
                f"| {_distance(r['mean'])} | {r['near1']:.0%} | {r['near2']:.0%} | {r['optimality']:.3f} "
                f"| {r['forward']:.0f} | {r['backward']:.0f} | {r['milliseconds']:.2f} |"
            )
    return lines


def radius(entries: dict, about: dict) -> list[str]:
    """The in-distribution radius for growing numbers of metric steps."""
    lines = ["", "## The in-distribution radius on the digits generator", ""]
    lines += [f"{_measured(about, [about['date']])} {about['images']} images.", ""]
    lines += ["| classifier | metric steps | median $r_{in}$ | below paper style by | inside the ball | by |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for name, found in entries.items():
        paper = found[0]["median"]
        lines.append(f"| {name} | paper style | {paper:.3f} | | | |")
        for free, inside in zip(found[1::2], found[2::2], strict=True):
            gains = [1 - entry["median"] / paper for entry in (free, inside)]
            lines.append(
                f"| {name} | {free['metric_steps']} | {free['median']:.3f} | {gains[0]:.0%} "
                f"| {inside['median']:.3f} | {gains[1]:.0%} |"
            )
    return lines


def jacobian(found: dict, about: dict) -> list[str]:
    """Three ways to the top singular value."""
    lines = ["", "## The top singular value of a DCGAN's Jacobian, 64 latents", ""]
    lines += [_measured(about, [about["date"]]), ""]
    lines += ["| method | seconds | largest relative error |", "|---|--:|--:|"]
    for row in found["rows"]:
        lines.append(f"| {row['method']} | {row['seconds']:.2f} | {row['error']:.0e} |")
    lines += ["", f"Here $\\sigma_2 / \\sigma_1$ is {found['ratio']:.2f} in the median."]
    return lines


def _measured(about: dict, dates: list[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    when = f"on {dates[0]}" if dates[0] == dates[-1] else f"from {dates[0]} to {dates[-1]}"
    return f"Measured {when}, on {about['machine']}, with {versions}."


def _images(rows: list[dict]) -> str:
    counts = {}
    for row in rows:
        family = row["classifier"].split("/")[0]
        counts[family] = max(counts.get(family, 0), row["n"])
    said = {"digits": "digits of each kind", "cifar10": "test photographs"}
    shown = " and ".join(f"{n} {said[family]}" for family, n in counts.items())
    return f"Each network gets {shown}: of real images the first that it classifies rightly."


def drawn(rows: list[dict]) -> list[tuple[str, str]]:
    """The attacks that come within a quarter of the smallest mean, ours last."""
    floor = min(row["mean"] for row in rows)
    names = sorted({(r["library"], r["attack"]) for r in rows if r["whole"] and r["mean"] < 1.25 * floor})
    return sorted(names, key=lambda name: name == compare.OURS)


def alternative(rows: list[dict]) -> str:
    """What one sees in the plot."""
    labels = "; ".join(" ".join(name) for name in drawn(rows) if name != compare.OURS)
    said = compare.sentence(rows, "mean").replace("`", "").replace("*", "")
    return (
        "Two panels with mean L2 distance upward: above against forward and backward passes per image, below against "
        f"milliseconds per image. A thick line is minimal_l2; thin ones are {labels}. {said}"
    )


def plot(rows: list[dict], file: Path) -> None:
    """Mean distance against passes per image, and against time, for the attacks that succeed everywhere."""
    figures.use()
    fig, axes = pyplot.subplots(2, 1, figsize=(5.6, 7.5), sharey=True)
    floor = min(row["mean"] for row in rows)
    markers = "osv^D<>pPX*hdH"
    colours = [figures.CLASS_0, figures.CLASS_1, figures.IN_DISTRIBUTION, figures.LATENT, figures.UNCONSTRAINED]
    for axis, cost in zip(axes, ("passes", "milliseconds"), strict=True):
        for i, name in enumerate(drawn(rows)):
            line = [r for r in rows if (r["library"], r["attack"]) == name and math.isfinite(r["mean"])]
            line.sort(key=lambda r: r[cost])
            mine = name == compare.OURS
            axis.plot(
                [r[cost] for r in line],
                [r["mean"] for r in line],
                marker="." if mine else markers[i % len(markers)],
                color=figures.MEASURED if mine else colours[i % len(colours)],
                lw=2.5 if mine else 1,
                label=name[1] if mine else " ".join(name),
            )
        axis.set_xscale("log")
    axes[0].set(ylim=(0.98 * floor, 1.25 * floor), xlabel="passes per image, forward and backward")
    axes[1].set(xlabel="milliseconds per image")
    for axis in axes:
        axis.set_ylabel("mean L2 distance")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncol=2, fontsize=9)
    fig.savefig(file, dpi=100)
    pyplot.close(fig)


def _distance(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else value
