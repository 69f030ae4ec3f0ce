"""From measured radii to the printed table: quantiles, bounds, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from companion.scale import quantile
from companion.smoothness import Lipschitz
from companion.vulnerability import least_favourable, measured_robustness_quantile, robustness_quantile

QUANTILE, CONFIDENCE = 0.25, 0.95
# Latent radii of the measured modulus, fixed beforehand; (4) exceeds the quantile from 0.158 on, for ten equal classes.
REACHES = (0.18, 0.22, 0.28, 0.36, 0.5)
# Latents that are only classified, to count the classes, for each one whose radii are measured.
COUNTED = 10


def summarise(
    raw: dict[str, Tensor], kinds: Iterable[str], errors: dict[str, float], lipschitz: Lipschitz
) -> list[dict]:
    """The rows of the table.

    Radii are 25 % quantiles, those of Z over the mean norm of the latents, the others over that of the images.

    Args:
        raw: the columns of `measure`, all chunks together.
        kinds: names of the classifiers.
        errors: kind -> error rate on real test images.
        lipschitz: a modulus of the generator that holds everywhere.
    Returns:
        One dict a row. Its keys are "row", the row's name; "bound", the bound for equally likely classes or None; and
        every kind, for that classifier's number.
    """
    kinds = list(kinds)
    latent_norm, image_norm = raw["latent_norm"].double().mean().item(), raw["image_norm"].double().mean().item()
    counts = {kind: raw[f"{kind}/counts"].sum(0).double() for kind in kinds}
    shares = {kind: count / count.sum() for kind, count in counts.items()}
    classes = {kind: least_favourable(count, confidence=CONFIDENCE) for kind, count in counts.items()}
    equal = torch.full_like(counts[kinds[0]], 1 / len(counts[kinds[0]]))
    rows: list[dict] = []

    def add(row: str, value, bound=None) -> None:
        rows.append({"row": row, "bound": bound} | {kind: value(kind) for kind in kinds})

    def measured(key: str, norm: float, level: float = QUANTILE):
        return lambda kind: quantile(raw[f"{kind}/{key}"], level) / norm

    def z_space(p: Tensor) -> float:
        return _robustness_quantile(p, Lipschitz(1.0)) / latent_norm

    def by_measured_modulus(**classes: Tensor) -> float:
        options = dict(classes, confidence=CONFIDENCE)
        return measured_robustness_quantile(QUANTILE, list(REACHES), raw["local_moduli"], **options).item() / image_norm

    def by_lipschitz(p: Tensor) -> float:
        return _robustness_quantile(p, lipschitz) / image_norm

    add("error rate", errors.get)
    add("Z-space", measured("latent", latent_norm), z_space(equal))
    add("in-distribution", measured("in_distribution", image_norm), by_measured_modulus(class_probabilities=equal))
    add("unconstrained", measured("unconstrained", image_norm), by_measured_modulus(class_probabilities=equal))
    add("Z-space: bound for the classifier's own class probabilities", lambda kind: z_space(classes[kind]))
    own = "in-distribution: bound for its own class probabilities"
    add(own, lambda kind: by_measured_modulus(class_counts=counts[kind]))
    certified = "in-distribution: the same bound from a certified Lipschitz constant"
    add(certified, lambda kind: by_lipschitz(classes[kind]), by_lipschitz(equal))
    add("in-distribution, where the Z-space witness lies", measured("image_distance_at_latent_witness", image_norm))
    add("in-distribution, median", measured("in_distribution", image_norm, 0.5))
    add("unconstrained, median", measured("unconstrained", image_norm, 0.5))
    add("largest class probability", lambda kind: shares[kind].max().item())
    add("smallest class probability", lambda kind: shares[kind].min().item())
    witness = measured("in_distribution_witness_norm", latent_norm, 0.5)
    add("norm of the in-distribution witness in Z, median", witness)
    for key in ("latent", "in_distribution", "unconstrained"):
        found = {kind: raw[f"{kind}/{key}"].isfinite().double().mean().item() for kind in kinds}
        add(f"images with a witness, {key.replace('_', '-')}", found.get)
    return rows


def as_csv(rows: list[dict], kinds: dict[str, str]) -> str:
    """The rows as comma-separated values, numbers to ten digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", "bound", *kinds.values()])
    for row in rows:
        values = [row["bound"], *(row[kind] for kind in kinds)]
        writer.writerow([row["row"], *("" if value is None else f"{value:.10g}" for value in values)])
    return text.getvalue()


def as_markdown(rows: list[dict], kinds: dict[str, str], provenance: dict) -> str:
    """The rows as a Markdown table, and below it how to read it."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    text = line(["", "bound", *kinds.values()]) + line(["---", *["---:"] * (1 + len(kinds))])
    for row in rows:
        values = [row["bound"], *(row[kind] for kind in kinds)]
        text += line([row["row"], *("–" if value is None else f"{value:.3g}" for value in values)])
    weights = ", ".join(f"{name} {digest[:12]}" for name, digest in provenance["weights"].items())
    notes = f"""
Radii are {QUANTILE:.0%} quantiles over {provenance["samples"]} generated images; Z-space radii are divided by the mean
norm of the latents, the others by that of the images. Every radius was found by an attack, so the true one may be
smaller.

The column "bound" is for classes that are equally likely: its Z-space bound is a theorem. A classifier's own class
probabilities were counted on {1 + COUNTED} times as many latents; with {CONFIDENCE:.0%} confidence each bound for them
holds, the error of the counts included. For the in-distribution bounds the error of sampling the local moduli is
included as well, jointly; but each modulus was found by ascent, from below, so these bounds are estimates. In the row
from a certified Lipschitz constant nothing is estimated but the class probabilities.

Version {provenance["version"]}, commit {provenance["commit"]}, torch {provenance["torch"]}, device
{provenance["device"]}, seed {provenance["seed"]}, {provenance["steps"]} attack steps and
{provenance["metric_steps"]} metric steps. SHA-256 of the weights: {weights}.
"""
    return text + notes


def _robustness_quantile(p: Tensor, modulus) -> float:
    """The bound on the quantile; `inf` where there is only one class, which nothing bounds."""
    return robustness_quantile(QUANTILE, p, modulus).item() if (p > 0).sum() > 1 else math.inf
