"""Files that survive kills, full disks, damage and company: written whole or not at all, checked when they are read.

A file is first written under a name of its own, then brought to the disk, then renamed: whoever is killed, or meets a
full disk, leaves the old file as it was, and two processes never share a half-written one. Links are not followed: a
link under the name that is written is replaced, and what it points to is left alone. What is read again later carries a
SHA-256.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor

HOUR = 3600


class Damaged(RuntimeError):
    """A file is not what was written or shipped; the message says which one, and what to do."""


def write(path: Path, content: bytes, *, tidy: bool = True) -> None:
    """Write all of it or nothing.

    Args:
        path: the file; its folder is made if missing.
        content: what it shall hold.
        tidy: look for what killed writers of this file left behind. In a folder of many files that takes long:
            `forget_the_killed` does it once for all.

    Raises:
        OSError: it could not be written; an old file is still there, whole.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tidy:
            forget_the_killed(path.parent, path.name)
        with open(unfinished, "xb") as file:  # x: never a file, or a link, that is there already
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def ready(folder: Path, *subfolders: str) -> None:
    """Make the folder and its subfolders, and find out now whether they can be written to.

    Raises:
        OSError: they cannot.
        ValueError: a subfolder is a link; its files would land somewhere else. `folder` itself may be one.
    """
    for place in (folder, *(folder / name for name in subfolders)):
        if place != folder and place.is_symlink():
            raise ValueError(f"{place} must be a folder, got a link to {os.readlink(place)}; delete it")
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise _unwritable(place, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process holds `folder`, then hold it. Whoever ends, or is killed, lets go."""
    if sys.platform == "win32":  # where a folder cannot be opened
        import msvcrt

        with open(folder / ".lock", "ab") as lock:
            msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
            yield
        return
    import fcntl

    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def read(path: Path, sha256: str, *, what: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, its SHA-256 compared before anything is parsed.

    Raises:
        FileNotFoundError: the file is missing.
        Damaged: it has another SHA-256, or no tensors. The messages begin with `what` (a plural) and end with `remedy`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} are missing: {path}; {remedy}")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise Damaged(
            f"{what} are damaged or were replaced: {path} has SHA-256 {found}, the registry says {sha256}; {remedy}"
        )
    try:
        return parse(content)
    except SafetensorError as error:
        raise Damaged(f"{what} are no safetensors file: {path} ({error}); {remedy}") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write what `pack_tensors` makes."""
    write(path, pack_tensors(tensors, metadata))


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata that `write_tensors` wrote; raises as `unpack_tensors`."""
    return unpack_tensors(path.read_bytes(), str(path), remedy)


def pack_tensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose metadata holds, as "digest", the SHA-256 of all the rest."""
    header, data = _split(save(tensors, metadata))
    header["__metadata__"]["digest"] = _digest(header, data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants its numbers aligned
    return b"".join([len(text).to_bytes(8, "little"), text, data])


def unpack_tensors(content: bytes, name: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata that `pack_tensors` was given; `name` is what messages call the file.

    Raises:
        Damaged: the file is not as it was written; the message ends with `remedy`.
    """
    try:
        header, data = _split(content)
        metadata = header["__metadata__"]
        whole = metadata.pop("digest") == _digest(header, data)
        tensors = parse(content) if whole else {}
    except (AttributeError, KeyError, RecursionError, SafetensorError, TypeError, ValueError) as error:
        raise Damaged(f"{name} is damaged, it cannot be read ({error!r}); {remedy}") from error
    if not whole:
        raise Damaged(f"{name} is damaged: it is not as it was written, by its SHA-256; {remedy}")
    return tensors, metadata


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, and under "digest" the SHA-256 of them all, for a JSON file."""
    return fields | {"digest": _digest(fields)}


def unseal(fields: dict[str, Any], path: Path, remedy: str) -> dict[str, Any]:
    """The fields that `seal` was given.

    Raises:
        Damaged: they have changed since, or were never sealed.
    """
    rest = {name: value for name, value in fields.items() if name != "digest"}
    if fields.get("digest") != _digest(rest):
        raise Damaged(f"{path} is damaged or was edited: it is not as it was written, by its SHA-256; {remedy}")
    return rest


def write_json(path: Path, fields: dict[str, Any], **layout: Any) -> None:
    """Write the fields as they are; `layout` is for `json.dumps`."""
    write(path, (json.dumps(fields, **layout) + "\n").encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Damaged: it is none.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged, it cannot be read ({error}); {remedy}") from error
    if not isinstance(fields, dict):
        raise Damaged(f"{path} is damaged: it must hold a JSON object, got {type(fields).__name__}; {remedy}")
    return fields


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and data of a safetensors file: eight bytes say how long the header, in JSON, is."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), memoryview(content)[start:]


def _digest(fields: dict[str, Any], data: bytes | memoryview = b"") -> str:
    found = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    found.update(data)
    return found.hexdigest()


def forget_the_killed(folder: Path, name: str = "*") -> None:
    """Delete what killed writers of a file, or of any, left behind; a living one touched its own within the hour."""
    pattern = name if name == "*" else glob.escape(name)
    for left in folder.glob(f".{pattern}.*.unfinished"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > HOUR:
                left.unlink()


def _sync(folder: Path) -> None:
    """Bring a rename to the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unwritable(path: Path, error: OSError) -> OSError:
    reason = f"could not write {path}: {error.strerror or error}"
    return OSError(error.errno, f"{reason}; make room or name another folder, then give the same command again")
