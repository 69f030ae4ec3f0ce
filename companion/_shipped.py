"""Tensors that come with the package: a file is read only if it is the one that was shipped."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load as parse
from torch import Tensor


def read(path: Path, sha256: str, *, what: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, its SHA-256 compared before anything is parsed.

    Raises:
        FileNotFoundError: the file is missing.
        RuntimeError: it has another SHA-256. Both messages begin with `what` (a plural) and end with `remedy`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} are missing: {path}; {remedy}")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise RuntimeError(
            f"{what} are damaged or were replaced: {path} has SHA-256 {found}, the registry says {sha256}; {remedy}"
        )
    return parse(content)
