"""Folders of tensors with a `registry.json`: name -> entry, which says of a file its SHA-256 and how it came about.

Every entry that is written here carries a digest of itself. One written by hand may have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from companion import _files

NAME = "registry.json"


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The whole registry, without digests; not yours to change.

    Raises:
        FileNotFoundError: there is none.
        companion._files.Damaged: it cannot be read, or an entry is not as it was written.
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"no registry of models at {path}; reinstall the package, or train into this folder")
    stamp = path.stat()
    return _read(path, (stamp.st_mtime_ns, stamp.st_ino, stamp.st_size))


def trained(folder: Path) -> dict[str, dict[str, Any]]:
    """What has been trained into a folder so far; nothing before the first network is finished."""
    return entries(folder) if (folder / NAME).is_file() else {}


def tensors(folder: Path, name: str, what: str) -> dict[str, Tensor]:
    """The tensors of an entry, its SHA-256 compared before anything is parsed.

    Raises:
        FileNotFoundError: the file is missing.
        companion._files.Damaged: it is not the one the registry describes, or lies in another folder.
    """
    entry = entries(folder)[name]
    remedy = f"reinstall the package, or re-create it: {entry['recipe']}"
    path = folder / entry["file"]
    # Some installers link all files of a package, registry and all, to a store, where they lie side by side too.
    homes = (folder.resolve(), (folder / NAME).resolve().parent)
    if Path(entry["file"]).name != entry["file"] or path.resolve().parent not in homes:
        raise _files.Damaged(f"{folder / NAME}: the file of {name!r} must lie in its folder, got {path}; {remedy}")
    return _files.read(path, entry["sha256"], what=what, remedy=remedy)


def add(folder: Path, name: str, file: str, weights: Mapping[str, Tensor], entry: dict[str, Any]) -> dict[str, Any]:
    """Write the tensors to `file` and add the entry, while no other process does; return the whole registry."""
    content = save({key: value.cpu().contiguous() for key, value in weights.items()})
    entry = {"file": file, "sha256": hashlib.sha256(content).hexdigest()} | entry
    _files.ready(folder)
    with _files.locked(folder):
        known = dict(sorted((trained(folder) | {name: entry}).items()))
        _files.write(folder / file, content)
        sealed = {key: _files.seal(value) for key, value in known.items()}
        _files.write_json(folder / NAME, sealed, indent=2)
    return known


@cache
def _read(path: Path, _stamp: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    remedy = "reinstall the package; in a folder of your own delete it and train again: what is trained is kept"
    found = _files.read_json(path, remedy)
    for name, entry in found.items():
        texts = [entry.get(key) for key in ("file", "sha256", "recipe")] if isinstance(entry, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise _files.Damaged(f"{path} is damaged: {name!r} states no file, SHA-256 and recipe; {remedy}")
    return {name: _files.unseal(entry, path, remedy) if "digest" in entry else entry for name, entry in found.items()}
