"""Pictures and weights as short texts, for pages without a kernel; `packed.js` reads them again."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion import _files
from companion.arms_race import RESULTS

_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def packed(values: Tensor) -> str:
    """Bytes, or half-precision floats, in base64."""
    return base64.b64encode(values.numpy().tobytes()).decode("ascii")


def bits(positive: Tensor) -> str:
    """Booleans, eight to a byte, in base64."""
    return base64.b64encode(np.packbits(positive.flatten().numpy()).tobytes()).decode("ascii")


def letters(values: Tensor, most: int) -> str:
    """Numbers from 0 to 1, rounded to multiples of 1 / most, a letter each; `most` is 63 or less."""
    return "".join(_LETTERS[(most * values.flatten()).round().int().numpy()])


def unpacked(text: str) -> Tensor:
    """The bytes that `packed` wrote."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def signs(text: str) -> Tensor:
    """+1 where `bits` was given true, else −1."""
    return torch.from_numpy(np.unpackbits(unpacked(text).numpy())).short() * 2 - 1


def levels(text: str, most: int) -> Tensor:
    """The numbers that `letters` wrote, in float64."""
    places = {letter: place for place, letter in enumerate(_LETTERS.tolist())}
    return torch.tensor([places[letter] for letter in text], dtype=torch.float64) / most


def stored(name: str) -> dict[str, Any]:
    """What `python tools/pictures.py NAME` has written.

    Raises:
        FileNotFoundError: nothing has been written.
        RuntimeError: it is not as it was written.
    """
    path, remedy = RESULTS / f"pictures-{name}.json", f"make it again: python tools/pictures.py {name}"
    return _files.unseal(_files.read_json(path, remedy), path, remedy)


def png(picture: Tensor) -> str:
    """An image (3, H, W) of bytes as the address of a PNG, uncompressed: the same text with every zlib."""
    _, height, width = picture.shape
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), picture.permute(1, 2, 0).reshape(height, -1)], 1)

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = part(b"IHDR", header), part(b"IDAT", zlib.compress(rows.numpy().tobytes(), 0)), part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode("ascii")
