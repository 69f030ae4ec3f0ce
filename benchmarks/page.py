"""results.json as people read it: a table of everything in CSV, short tables in Markdown, and a plot."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from matplotlib import pyplot

from benchmarks import measure
from companion import figures

HERE = Path(__file__).parent
FIELDS = (
    "classifier images budget library attack n success median mean near forward backward milliseconds".split()
)  # fmt: skip


def table(results: dict) -> list[dict]:
    """One row for each attack, budget and case; `near` counts distances within 2 % of the best of all attacks."""
    best: dict[tuple, torch.Tensor] = {}
    found = []
    for key, rows in results["attacks"].items():
        classifier, images, budget = key.split("|")
        for row in rows:
            distance = torch.tensor([math.inf if d is None else d for d in row["distances"]], dtype=torch.float64)
            case = (classifier, images)
            if case not in best or len(best[case]) < len(distance):
                best[case] = torch.full_like(distance, torch.inf)
            n = len(distance)
            best[case][:n] = torch.minimum(best[case][:n], distance)
            found.append((case, budget, row, distance))
    return [
        dict(classifier=case[0], images=case[1], budget=budget if budget != "None" else "", n=len(distance))
        | {name: row[name] for name in ("library", "attack", "forward", "backward", "milliseconds")}
        | measure.summary(distance, best[case][: len(distance)])
        for case, budget, row, distance in found
    ]


def best_peer(rows: list[dict], classifier: str, images: str, budget: str) -> tuple[dict, dict, dict]:
    """Ours, the other library's attack with the smallest median, and the one with the smallest mean, at one budget."""
    here = [r for r in rows if (r["classifier"], r["images"], r["budget"]) == (classifier, images, budget)]
    mine = next(r for r in here if r["library"] == "this book")
    others = [r for r in here if r["library"] != "this book"]
    return mine, min(others, key=lambda r: r["median"]), min(others, key=lambda r: r["mean"])


def write(results: dict) -> None:
    """results.csv, results.md and frontier.png beside results.json."""
    rows = table(results)
    with (HERE / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows({name: _short(row[name]) for name in FIELDS} for row in rows)
    (HERE / "results.md").write_text(markdown(results, rows), encoding="utf-8")
    plot(rows)


def markdown(results: dict, rows: list[dict]) -> str:
    """What the book's page shows."""
    about = results["about"]
    lines = [f"{_measured(about['attacks'])} {about['attacks']['images']} images of each kind.", ""]
    lines += ["## Equal budgets", ""]
    lines += ["| classifier | images | gradients | ours: median | best peer | ours: mean | best peer |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    for key in results["attacks"]:
        classifier, images, budget = key.split("|")
        if budget == "None":
            continue
        mine, median, mean = best_peer(rows, classifier, images, budget)
        lines.append(
            f"| {classifier} | {images} | {budget} "
            f"| {mine['median']:.4f} | {median['median']:.4f} ({median['attack']}) "
            f"| {mine['mean']:.4f} | {_distance(mean['mean'])} ({mean['attack']}) |"
        )
    classifier, images = "digits/cnn", "real"
    lines += ["", f"## Every attack on `{classifier}`, {images} images", ""]
    lines += ["| library | attack | budget | success | median | mean | within 2 % | forward | backward | ms an image |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for r in rows:
        if (r["classifier"], r["images"]) == (classifier, images) and r["budget"] in ("10", "100", "1000", ""):
            name = r["attack"] + (f" (first {r['n']} images)" if r["n"] < max(row["n"] for row in rows) else "")
            lines.append(
                f"| {r['library']} | {name} | {r['budget'] or '–'} "
                f"| {r['success']:.0%} | {_distance(r['median'])} | {_distance(r['mean'])} "
                f"| {r['near']:.0%} | {r['forward']:.0f} | {r['backward']:.0f} | {r['milliseconds']:.2f} |"
            )
    if results["radius"]:
        lines += ["", "## The in-distribution radius on the digits generator", ""]
        lines += [f"{_measured(about['radius'])} {about['radius']['images']} images.", ""]
        lines += ["| classifier | metric steps | median $r_{in}$ | below paper style by | inside the ball | by |"]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        for name, entries in results["radius"].items():
            paper = entries[0]["median"]
            lines.append(f"| {name} | paper style | {paper:.3f} | | | |")
            for free, inside in zip(entries[1::2], entries[2::2], strict=True):
                gains = [1 - entry["median"] / paper for entry in (free, inside)]
                lines.append(
                    f"| {name} | {free['metric_steps']} | {free['median']:.3f} | {gains[0]:.0%} "
                    f"| {inside['median']:.3f} | {gains[1]:.0%} |"
                )
    if results["jacobian"]:
        lines += ["", "## The top singular value of a DCGAN's Jacobian, 64 latents", ""]
        lines += [_measured(about["jacobian"]), ""]
        lines += ["| method | seconds | largest relative error |", "|---|--:|--:|"]
        for row in results["jacobian"]["rows"]:
            lines.append(f"| {row['method']} | {row['seconds']:.2f} | {row['error']:.0e} |")
        lines += ["", f"Here $\\sigma_2 / \\sigma_1$ is {results['jacobian']['ratio']:.2f} in the median."]
    return "\n".join(lines) + "\n"


def _measured(about: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"Measured on {about['date']}, on {about['machine']}, with {versions}."


def plot(rows: list[dict], classifier: str = "digits/cnn", images: str = "real") -> None:
    """Mean distance against gradients per image, for the attacks that succeed everywhere, and against time."""
    figures.use()
    fig, axes = pyplot.subplots(2, 1, figsize=(5.6, 7.5), sharey=True)
    shown = [r for r in rows if (r["classifier"], r["images"]) == (classifier, images) and r["budget"]]
    floor = min(r["mean"] for r in shown)
    names = sorted({(r["library"], r["attack"]) for r in shown if r["mean"] < 1.25 * floor})
    names.sort(key=lambda name: name[0] == "this book")
    markers = dict(zip(names, "osv^D<>pP*", strict=False))
    colours = [figures.CLASS_0, figures.CLASS_1, figures.IN_DISTRIBUTION, figures.LATENT, figures.UNCONSTRAINED]
    colours = {name: colours[i % len(colours)] for i, name in enumerate(names)}
    for axis, cost in zip(axes, ("backward", "milliseconds"), strict=True):
        for name in names:
            line = [r for r in shown if (r["library"], r["attack"]) == name and math.isfinite(r["mean"])]
            mine = name[0] == "this book"
            axis.plot(
                [r[cost] for r in line],
                [r["mean"] for r in line],
                marker=markers.get(name, "."),
                color=figures.MEASURED if mine else colours[name],
                lw=2.5 if mine else 1,
                label=" ".join(name) if not mine else "minimal_l2",
            )
        axis.set_xscale("log")
    axes[0].set(ylim=(0.98 * floor, 1.25 * floor), xlabel="gradients per image", ylabel="mean L2 distance")
    axes[1].set(xlabel="milliseconds per image", ylabel="mean L2 distance")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncol=2, fontsize=11)
    fig.savefig(HERE / "frontier.png", dpi=100)
    pyplot.close(fig)


def _distance(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else value
