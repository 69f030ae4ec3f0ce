"""Trained networks that come with the package, each checked against its SHA-256 before it is read.

`weights/registry.json` says of every network how to build it, its file and hash, and the recipe, seed,
library version and measured results (`companion.training` wrote it). Weights are safetensors, fp16 on disk; beside
them are the logs of training, CSV.
"""

from __future__ import annotations

import copy
import csv
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from companion import _files, _registry
from companion.models import architectures

__all__ = ["architectures", "card", "load", "log", "names"]

WEIGHTS = Path(__file__).parent / "weights"


def names(*, folder: Path | str = WEIGHTS) -> tuple[str, ...]:
    """The names that `load` knows, in alphabetical order."""
    return tuple(sorted(_registry.entries(Path(folder))))


def card(name: str, *, folder: Path | str = WEIGHTS) -> dict[str, Any]:
    """What is known about a network: architecture, file, SHA-256, recipe, seed, provenance, measured results.

    Args:
        name: one of `names()`.
        folder: where `registry.json` is (default: the shipped one).
    Returns:
        A dict of plain Python values, yours to change.
    Raises:
        ValueError: unknown name.
    """
    registry = _registry.entries(Path(folder))
    if name not in registry:
        raise ValueError(f"name must be one of {', '.join(sorted(registry))}, got {name!r}")
    return copy.deepcopy(registry[name])


def load(name: str, *, folder: Path | str = WEIGHTS) -> nn.Sequential:
    """A trained network, float32, on the CPU, in evaluation mode, its parameters frozen.

    Generators map (n, latent_dim) to (n, *image) and carry `.latent_dim`; classifiers map (n, *image) to
    logits (n, K).

    Args:
        name: one of `names()`, e.g. "digits/generator".
        folder: where `registry.json` and the weights are (default: the shipped ones).
    Raises:
        ValueError: unknown name.
        FileNotFoundError: the weights file is missing.
        RuntimeError: the file is not the one the registry describes (checked before anything is parsed), or lies
            outside of its folder; or the registry itself is damaged.
    """
    entry = card(name, folder=folder)
    stored = _registry.tensors(Path(folder), name, f"the weights of {name!r}")
    weights = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    path = Path(folder) / _registry.NAME
    try:
        with torch.device("meta"):  # no memory and no random numbers spent on weights that are replaced at once
            network = build(entry["architecture"])
    except (ArithmeticError, KeyError, RuntimeError, TypeError) as error:
        raise _files.Damaged(f"{path}: {name!r} has no architecture that can be built: {error!r}") from error
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise _files.Damaged(f"{path}: the architecture of {name!r} does not fit its weights: {error}") from error
    return network.eval().requires_grad_(False)


def log(name: str, *, folder: Path | str = WEIGHTS) -> dict[str, Tensor]:
    """How the training of a network went.

    Args:
        name: one of `names()`, e.g. "cifar10/vgg".
        folder: where `registry.json` and the logs are (default: the shipped ones).
    Returns:
        Column -> (n,), one number a line of the log: "step", and what the recipe writes down, such as "loss".
    Raises:
        ValueError: unknown name, or a network whose log was not kept.
        FileNotFoundError: the log is missing.
        RuntimeError: it is not the one the registry describes.
    """
    entry = card(name, folder=folder)
    if "log" not in entry:
        raise ValueError(f"name must be a network whose log was kept, got {name!r}")
    path = Path(folder) / Path(entry["log"]["file"]).name
    remedy = f"reinstall the package, or re-create it: {entry['recipe']}"
    if not path.is_file():
        raise FileNotFoundError(f"the log of {name!r} is missing: {path}; {remedy}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["log"]["sha256"]:
        raise _files.Damaged(f"{path} is damaged: {folder} states another SHA-256; {remedy}")
    header, *lines = csv.reader(content.decode().splitlines())
    values = torch.tensor([[float(cell) for cell in line] for line in lines], dtype=torch.float64)
    return dict(zip(header, values.T, strict=True))


def build(architecture: dict[str, Any]) -> nn.Sequential:
    """A new, untrained network from a registry's `{"builder": ..., **keywords}`."""
    keywords = dict(architecture)
    name = keywords.pop("builder", None)
    builder = getattr(architectures, str(name), None)
    # Only what is defined there: a registry from elsewhere shall call nothing that is imported.
    if builder is None or getattr(builder, "__module__", None) != architectures.__name__ or name.startswith("_"):
        raise ValueError(f"architecture must name a builder of companion.models.architectures, got {name!r}")
    return builder(**keywords)
