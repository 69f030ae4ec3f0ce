"""Coverage-guided fuzzing of everything that reads a file: `make fuzz`, or `python -m tools.fuzz svhn --seconds 300`.

Whatever the bytes are, a reader succeeds or says what is wrong by one of the errors that its documentation names.
Anything else stops the run: libFuzzer (through atheris) then prints the traceback and keeps the bytes. The readers
compare SHA-256 sums before they parse; here the sums are made right first, so that what lies behind is reached too.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["companion", "scipy.io"]):
    import torch
    from safetensors.torch import save
    from scipy.io import savemat
    from torch import nn

    from companion import _files, _jobs, _registry, data, models
    from companion._store import Store
    from companion.training.run import Run

SUM, SPLIT = b"SHA-256 OF THE WEIGHTS", b"\0WEIGHTS\0"
DOCUMENTED = (ValueError, FileNotFoundError, _files.Damaged)


def registry(content: bytes, folder: Path) -> None:
    """A registry and the weights that it describes: names, cards, networks."""
    text, _, weights = content.partition(SPLIT)
    (folder / "w.safetensors").write_bytes(weights)
    (folder / _registry.NAME).write_bytes(text.replace(SUM, hashlib.sha256(weights).hexdigest().encode()))
    _registry._read.cache_clear()
    for name in models.names(folder=folder):
        models.load(name, folder=folder)


def tensors(content: bytes, folder: Path) -> Path:
    """A file of tensors, its digest made right if it has a place for one."""
    path = folder / "00000.safetensors"
    try:
        header, rest = _files._split(content)
        header["__metadata__"].pop("digest", None)
        header["__metadata__"]["digest"] = _files._digest(header, rest)
        text = _files.json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + bytes(rest)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        pass  # as it is, then
    path.write_bytes(content)
    return path


def chunk(content: bytes, folder: Path) -> None:
    """A chunk of a measurement that is gone on with."""
    job = a_job(folder)
    job.store.write(job.file(0), tensors(content, folder).read_bytes())
    job.read(0)


def a_job(folder: Path) -> _jobs.Job:
    return _jobs.Job("a", lambda job, index: {"r": torch.ones(2)}, {"seed": 0}, 2, 2, Store(folder / "store"))


@dataclass(frozen=True)
class Steps:
    checkpoint_every: int = 1


def checkpoint(content: bytes, folder: Path) -> None:
    """A checkpoint of a training run that is gone on with."""
    a_run(folder, tensors(content, folder))


def a_run(folder: Path, path: Path) -> None:
    run = Run(folder, "a", 0, Steps(), False)
    run.checkpoint = path
    layer = nn.Linear(2, 1)
    adam = torch.optim.Adam(layer.parameters())

    def step(_: int) -> dict[str, float]:
        adam.zero_grad()
        layer(torch.ones(1, 2)).sum().backward()
        adam.step()
        return {"loss": 0.0}

    run.loop(step, 1, {"layer": layer}, {"adam": adam})


def cifar10(content: bytes, folder: Path) -> None:
    """The six files of CIFAR-10, of two photographs each."""
    data.CIFAR10_RECORDS = 2
    size = max(1, len(content) // 6)
    for place, name in enumerate(data.CIFAR10_FILES):
        (folder / name).write_bytes(content[place * size : (place + 1) * size])
    data.cifar10(root=folder)


def svhn(content: bytes, folder: Path) -> None:
    """The two MATLAB files of SVHN."""
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (folder / name).write_bytes(content)
    data.svhn(root=folder)


READERS: dict[str, Callable[[bytes, Path], None]] = {
    read.__name__: read for read in (registry, chunk, checkpoint, cifar10, svhn)
}


def seeds(name: str, folder: Path) -> list[bytes]:
    """Good files to begin with."""
    if name == "registry":
        weights = models.WEIGHTS / models.card("digits/linear")["file"]
        entry = models.card("digits/linear") | {"file": "w.safetensors", "sha256": SUM.decode()}
        return [_files.json.dumps({"digits/linear": entry}).encode() + SPLIT + weights.read_bytes()]
    if name == "chunk":
        job = a_job(folder)
        job.work(0)
        return [job.store.read(job.file(0)), save({"r": torch.ones(2)}, {"digest": ""})]
    if name == "checkpoint":
        a_run(folder, folder / "00000.safetensors")
    elif name == "cifar10":
        return [bytes(6 * 2 * 3073)]
    else:
        found = []
        for packed in (False, True):
            file = io.BytesIO()
            pixels = torch.zeros(32, 32, 3, 2, dtype=torch.uint8).numpy()
            savemat(file, {"X": pixels, "y": [[1], [10]]}, do_compression=packed)
            found.append(file.getvalue())
        return found
    return [(folder / "00000.safetensors").read_bytes(), save({"r": torch.ones(2)}, {"digest": ""})]


def fuzz(name: str, seconds: float) -> None:
    """Read changed files for so long, then say how many; does not return."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(name, folder)):
        (corpus / str(number)).write_bytes(seed)
    read, refused, done, size = READERS[name], 0, 0, 0
    end = time.monotonic() + seconds

    def one(content: bytes) -> None:
        nonlocal refused, done, size
        if time.monotonic() > end:
            print(
                f"{name}: {done} files of {size} bytes in all; {refused} refused, {done - refused} read; "
                f"{time.process_time():.0f} s of a processor",
                flush=True,
            )
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
            os._exit(0)
        done, size = done + 1, size + len(content)
        try:
            read(content, folder)
        except DOCUMENTED:
            refused += 1

    options = ["-max_len=65536", "-timeout=30", "-rss_limit_mb=3000", "-seed=1", "-artifact_prefix=fuzz-"]
    atheris.Setup([sys.argv[0], str(corpus), *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", choices=[[], *READERS], help=f"which: {', '.join(READERS)} (all)")
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    asked = parser.parse_args()
    if len(asked.readers) == 1:
        fuzz(asked.readers[0], asked.seconds)
    # A process each: libFuzzer does not come back.
    for name in asked.readers or READERS:
        subprocess.run([sys.executable, "-m", "tools.fuzz", name, "--seconds", str(asked.seconds)], check=True)
