"""Where finished chunks are kept: a folder, or any address that fsspec knows, such as s3://bucket/radii."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from companion import _files


class Store:
    """Files in folders, each written whole or not at all.

    In a folder of this machine or of a network drive `companion._files` sees to that; an object store does so itself.
    Whether a file is as it was written is for the reader to check.
    """

    def __init__(self, address: Path | str) -> None:
        """`address`: a folder, or an address of fsspec. Nothing is looked up or made yet."""
        self.address = str(address)
        if self.address.startswith(("file://", "local://")):
            self.address = self._system()[1]
        if "://" not in self.address:
            self.address = str(Path(self.address).expanduser().absolute())

    def ready(self, folder: str) -> None:
        """Make a folder of the store and find out now whether it can be written to.

        Raises:
            OSError: it cannot.
            ValueError: no address that fsspec knows, or the folder in the store is a link.
            ImportError: fsspec knows the address and lacks a library for it; the message says which.
        """
        local = self._local()
        if local is not None:
            _files.ready(local, folder)
            _files.forget_the_killed(local / folder)
            return
        self._put(f"{folder}/.ready", b"")

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; none where there is no such folder."""
        local = self._local()
        try:
            if local is not None:
                return {path.name for path in (local / folder).iterdir()}
            system, root = self._system()
            system.invalidate_cache()  # other machines write here, too
            return {name.rsplit("/", 1)[-1] for name in system.ls(f"{root}/{folder}", detail=False)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def read(self, name: str) -> bytes | None:
        """The content of "folder/file", or None where there is no such file."""
        local = self._local()
        try:
            if local is not None:
                return (local / name).read_bytes()
            system, root = self._system()
            content: bytes = system.cat_file(f"{root}/{name}")
            return content
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write all of "folder/file" or nothing.

        Raises:
            OSError: it could not be written.
        """
        local = self._local()
        if local is not None:
            _files.write(local / name, content, tidy=False)
        else:
            self._put(name, content)

    def where(self, name: str) -> str:
        """The whole address of "folder/file", for messages."""
        return f"{self.address.rstrip('/')}/{name}"

    def _put(self, name: str, content: bytes) -> None:
        system, root = self._system()
        try:
            system.makedirs(f"{root}/{name}".rsplit("/", 1)[0], exist_ok=True)
            system.pipe_file(f"{root}/{name}", content)
        except Exception as error:  # every library has exceptions of its own
            raise OSError(errno.EIO, f"could not write {self.where(name)}: {error!r}") from error

    def _local(self) -> Path | None:
        return None if "://" in self.address else Path(self.address)

    def _system(self) -> tuple[Any, str]:
        """The file system of fsspec, and where the store is in it."""
        from fsspec.core import url_to_fs

        try:
            system, root = url_to_fs(self.address)
        except ValueError as error:
            raise ValueError(f"store must be a folder or an address of fsspec, got {self.address!r}: {error}") from None
        return system, str(root).rstrip("/")
