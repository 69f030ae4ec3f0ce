"""Long measurements in chunks. A chunk is a pure function of a plan and its number; a finished one is kept.

A chunk is kept under the SHA-256 of its plan, which names all that its numbers depend on: networks by the hashes of
their weights, options, seed, and versions of this package and of torch. So runs and machines can share a store, a run
that was killed goes on where it ended, and one that asks for more rows begins with those that are there.

Which device and how many threads measured a chunk is no part of the plan, though their rounding differs. It is written
down with each chunk.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

import companion
from companion import _files, _registry
from companion._store import Store

if TYPE_CHECKING:
    from distributed import Client

PLAN = "plan.json"


class Chunk(NamedTuple):
    """A measured chunk: its number, its columns, and how it came about (`origin`)."""

    number: int
    columns: dict[str, Tensor]
    origin: dict[str, str]


@dataclass(frozen=True)
class Job:
    """A measurement of many rows in chunks.

    Attributes:
        name: what it is called in progress bars and on a cluster.
        measure: (job, index) -> columns of chunk `index`, a function that other processes can import.
        plan: what the numbers depend on, in plain values; versions are added to it.
        samples: rows in all.
        chunk: rows a chunk; the last one may have fewer.
        store: where chunks are kept; None to keep nothing.
        device: where to measure; None for a GPU wherever the process that measures has one, else the processor.
        weights: the folder that has the networks of `plan["weights"]`, name -> SHA-256, or None.
        given: what `measure` needs beside and the plan cannot hold, such as networks.
    """

    name: str
    measure: Callable[[Job, int], dict[str, Tensor]]
    plan: dict[str, Any]
    samples: int
    chunk: int
    store: Store | None = None
    device: str | None = None
    weights: Path | None = None
    given: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        plan = json.loads(json.dumps(self.plan | {"chunk": self.chunk} | versions()))  # as it is read again
        object.__setattr__(self, "plan", plan)

    def extended(self, plan: dict[str, Any]) -> Job:
        """The same job, whose numbers depend on this, too."""
        return replace(self, plan=self.plan | plan)

    @cached_property
    def address(self) -> str:
        """The SHA-256 of the plan."""
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.samples // self.chunk)

    def rows(self, index: int) -> int:
        """How many rows chunk `index` has."""
        return min(self.chunk, self.samples - index * self.chunk)

    def place(self) -> torch.device:
        """The device of the process that asks."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def file(self, index: int) -> str:
        return f"{self.address}/{index:08d}-{self.rows(index)}.safetensors"

    def begin(self) -> set[int]:
        """Which chunks the store has already; unless it has all, it is made ready for the others.

        Raises:
            OSError: chunks are missing, and it cannot be written to.
        """
        if self.store is None:
            return set()
        names = self.store.names(self.address)
        there = {index for index in range(self.count) if self.file(index).rsplit("/", 1)[-1] in names}
        if len(there) < self.count:
            self.store.ready(self.address)
            self.store.write(f"{self.address}/{PLAN}", json.dumps(self.plan, indent=1, sort_keys=True).encode())
        return there

    def work(self, index: int) -> Chunk:
        """Chunk `index`: from the store, or else measured and written there."""
        found = self.read(index)
        if found is None:
            columns = {key: value.detach().cpu().contiguous() for key, value in self.measure(self, index).items()}
            found = Chunk(index, columns, origin(self.place()))
            self._write(found)
        return found

    def read(self, index: int) -> Chunk | None:
        """A chunk of the store; None where it has not been measured.

        Raises:
            companion._files.Damaged: it is not as it was written.
        """
        if self.store is None:
            return None
        content, name = self.store.read(self.file(index)), self.store.where(self.file(index))
        if content is None:
            return None
        remedy = "delete it and give the same command again: it is measured anew"
        columns, about = _files.unpack_tensors(content, name, remedy)
        try:
            plan, made, file = json.loads(about["plan"]), json.loads(about["origin"]), about["file"]
        except (KeyError, RecursionError, ValueError) as error:
            raise _files.Damaged(f"{name} is no chunk: {error!r}; {remedy}") from error
        if plan != self.plan or file != self.file(index) or not isinstance(made, dict):
            raise _files.Damaged(f"{name} is another chunk, or one of another plan; {remedy}")
        return Chunk(index, columns, made)

    def _write(self, chunk: Chunk) -> None:
        if self.store is not None:
            about = {"plan": self.plan, "origin": chunk.origin}
            text = {key: json.dumps(value, sort_keys=True) for key, value in about.items()}
            file = self.file(chunk.number)
            self.store.write(file, _files.pack_tensors(chunk.columns, text | {"file": file}))

    def check_weights(self) -> None:
        """Whether this process finds the networks that the plan means.

        Raises:
            ValueError: they are others, or missing; the message names the first one.
        """
        if self.weights is None:
            return
        there = _registry.trained(self.weights)
        for name, digest in self.plan["weights"].items():
            found = there[name]["sha256"] if name in there else None
            if found != digest:
                raise ValueError(
                    f"weights must hold {name} with SHA-256 {digest[:12]}…, got "
                    f"{'none' if found is None else found[:12] + '…'} in {str(self.weights)!r}"
                )


def run(job: Job, *, client: Client | None = None, progress: bool = False) -> Iterator[Chunk]:
    """All chunks of the job, each when it is ready: those of the store, then the others, measured here or by `client`.

    They are measured in an order of chance, so that two runs which share a store seldom take the same one.

    Args:
        job: what to measure.
        client: a Dask client, whose workers measure; by default this process does.
        progress: show a bar that counts rows.

    Raises:
        OSError: chunks are missing from the store, and it cannot be written to.
        companion._files.Damaged: a chunk in it is not as it was written.
        ConnectionError: the scheduler was lost. ChildProcessError: workers ended again and again over one chunk.
        ValueError: a worker has other versions or weights, or does not see the store.
    """
    there = job.begin()
    missing = [index for index in range(job.count) if index not in there]
    random.SystemRandom().shuffle(missing)
    with tqdm(total=job.samples, desc=job.name, unit="row", disable=not progress) as bar:

        def counted(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
            for chunk in chunks:
                bar.update(job.rows(chunk.number))
                yield chunk

        yield from counted(map(job.work, sorted(there)))
        if client is None:
            yield from counted(map(job.work, missing))
        elif missing:
            from companion._cluster import spread

            yield from counted(spread(replace(job, given=None), missing, job.given, client))


def columns(chunks: Iterable[Chunk]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The columns of all chunks in the order of their rows, and one `origin` for all; those of seconds are summed."""
    ordered = sorted(chunks, key=lambda chunk: chunk.number)
    whole = {key: torch.cat([chunk.columns[key] for chunk in ordered]) for key in ordered[0].columns}
    whole |= {key: value.sum() for key, value in whole.items() if key.endswith("seconds")}
    return whole, origins(chunk.origin for chunk in ordered)


def versions() -> dict[str, str]:
    """What a chunk's numbers depend on beside its plan. The build of torch, such as +cpu, goes with the device."""
    return {"version": companion.__version__, "torch": torch.__version__.split("+")[0]}


def origin(device: torch.device) -> dict[str, str]:
    """How a chunk that is measured now comes about."""
    name = f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    return {
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }


def origins(found: Iterable[dict[str, str]]) -> dict[str, str]:
    """One `origin` for many chunks: where they differ, it names all, in the order of the chunks."""
    found = list(found)
    return {key: ", ".join(dict.fromkeys(each[key] for each in found)) for key in found[0]}


@cache
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
