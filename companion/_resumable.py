"""Long measurements in chunks: each is written when it is done; a run given again goes on with those missing."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import companion
from companion import _files


@dataclass(frozen=True)
class Chunks:
    """A folder of chunks.

    Attributes:
        folder: where they are, one file each.
        plan: what their numbers depend on, in plain values; chunks of another plan are refused.
        origin: the `origin()` of those that are written now. Each keeps the one that it was measured with.
    """

    folder: Path
    plan: dict[str, Any]
    origin: dict[str, Any]

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def read(self, index: int, rows: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Columns and origin of a chunk that has been measured, all its rows; None where it has not.

        Raises:
            ValueError: it is of another plan.
            companion._files.Damaged: it is not as it was written.
        """
        path = self.path(index)
        if not path.is_file():
            return None
        remedy = "delete it and give the same command again: it is measured anew"
        columns, about = _files.read_tensors(path, remedy)
        try:
            found, origin, complete = json.loads(about["plan"]), json.loads(about["origin"]), int(about["rows"]) == rows
        except (KeyError, RecursionError, ValueError) as error:
            raise _files.Damaged(f"{path} is no chunk: {error!r}; {remedy}") from error
        if found != self.plan:
            raise ValueError(
                f"out must not hold chunks of another plan: {path} is of {found}, asked for {self.plan}; "
                "delete them or choose another folder"
            )
        return (columns, origin) if complete else None

    def write(self, index: int, rows: int, columns: dict[str, Tensor]) -> None:
        about = {"plan": self.plan, "origin": self.origin, "rows": rows}
        text = {key: json.dumps(value, sort_keys=True) for key, value in about.items()}
        _files.write_tensors(self.path(index), columns, text)


def origin() -> dict[str, str]:
    """Version and commit of this package, and the Python that runs it."""
    return {"version": companion.__version__, "commit": _commit(), "python": platform.python_version()}


def origins(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    """One `origin` for many chunks: where they differ, it names all, in the order of the chunks."""
    found = list(found)
    return {key: ", ".join(dict.fromkeys(each[key] for each in found)) for key in found[0]}


def _commit() -> str:
    """The commit this package is at, "+changes" if there are any; "unknown" outside of a repository."""
    folder = Path(companion.__file__).parent
    if not (folder.parent / ".git").exists():
        return "unknown"
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "--", str(folder)])
    try:
        commit, changes = (
            subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")
