"""What there is to compare with: the paper's own numbers, and our table that comes with the package."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

import companion
from companion import _files
from companion.experiments.table import TABLES

RESULTS = Path(companion.__file__).parent / "results"


def _row(data: str, bound: float | None, *values: float) -> dict[str, float | None]:
    return {"bound": bound} | dict(zip(TABLES[data], values, strict=True))


DECK = {
    "svhn": {
        "error rate": _row("svhn", None, 0.11, 0.048, 0.042),
        "Z-space": _row("svhn", 16e-3, 6.1e-3, 6.1e-3, 6.6e-3),
        "in-distribution": _row("svhn", 36e-2, 3.3e-2, 3.1e-2, 3.1e-2),
        "unconstrained": _row("svhn", 36e-2, 0.39e-2, 1.1e-2, 1.4e-2),
    },
    "cifar10": {
        "error rate": _row("cifar10", None, 0.055, 0.039, 0.16),
        "Z-space": _row("cifar10", 0.016, 2.5e-3, 3.0e-3, 3.6e-3),
        "in-distribution": _row("cifar10", 0.10, 4.8e-3, 5.9e-3, 8.3e-3),
        "unconstrained": _row("cifar10", 0.10, 0.23e-3, 0.20e-3, 2.0e-3),
    },
}
"""The paper's two tables, as the slides print them: data set -> row -> column ("bound" or a classifier) -> number."""


class Stored(NamedTuple):
    """A measured table.

    Attributes:
        rows: row -> column -> number, as in `table.csv`; columns are "bound" and the classifiers, absent ones None.
        radii: what was measured of every generated image, the columns of `radii.safetensors`.
        provenance: how this came about, and how long it took.
    """

    rows: dict[str, dict[str, float | None]]
    radii: dict[str, Tensor]
    provenance: dict


def stored(data: str, *, folder: Path | str | None = None) -> Stored:
    """A table that `python -m companion table` has written.

    Args:
        data: "cifar10" or "svhn".
        folder: where it was written (default: the one that comes with the package).
    Raises:
        ValueError: unknown `data`.
        FileNotFoundError: there is no such table; the message says how to make it.
        RuntimeError: a file of it is not as it was written.
    """
    if data not in TABLES:
        raise ValueError(f"data must be one of {', '.join(TABLES)}, got {data!r}")
    folder = RESULTS / data if folder is None else Path(folder)
    names = {title: kind for kind, title in TABLES[data].items()}
    missing = [name for name in ("table.csv", "radii.safetensors", "provenance.json") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no table of {data} in {str(folder)!r}: {', '.join(missing)} missing; it is made by: "
            f"python -m companion train {data} --out DIR, then table {data} --weights DIR --out {folder}"
        )
    remedy = "reinstall the package; in a folder of your own give the table command again, which writes it anew"
    path = folder / "provenance.json"
    provenance = _files.unseal(_files.read_json(path, remedy), path, remedy)
    hashes = provenance.pop("sha256")
    text = (folder / "table.csv").read_bytes()
    if hashlib.sha256(text).hexdigest() != hashes["table.csv"]:
        raise _files.Damaged(f"{folder / 'table.csv'} is damaged: {path} states another SHA-256; {remedy}")
    rows = {}
    for line in csv.DictReader(io.StringIO(text.decode(), newline="")):
        row = line.pop("")
        rows[row] = {names.get(column, column): float(cell) if cell else None for column, cell in line.items()}
    radii = folder / "radii.safetensors"
    return Stored(rows, _files.read(radii, hashes[radii.name], what="the radii", remedy=remedy), provenance)
