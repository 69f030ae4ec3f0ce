"""Multipliers that come with the package, each file checked against its SHA-256 before it is read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from companion import _registry

FOLDER = Path(__file__).parent / "multipliers"


def load_multipliers(name: str, *, folder: Path | str = FOLDER) -> list[Tensor]:
    """Multipliers for the network `models.load(name)`, to be given to `certified_lipschitz`, which checks them.

    Args:
        name: a network whose multipliers are shipped, "digits/generator".
        folder: where `registry.json` and the files are (default: the shipped ones).

    Returns:
        One float64 tensor (n_k,) for each activation between two affine maps.

    Raises:
        ValueError: unknown name.
        FileNotFoundError: the file is missing.
        RuntimeError: the file is not the one the registry describes, or lies outside of its folder.
    """
    registry = _registry.entries(Path(folder))
    if name not in registry:
        raise ValueError(f"name must be one of {', '.join(sorted(registry))}, got {name!r}")
    stored = _registry.tensors(Path(folder), name, f"multipliers of {name}")
    return [stored[key] for key in sorted(stored)]
