"""The numeric arrays of a MATLAB 5 file. SciPy's reader is not used: a damaged file can make it kill the whole process.

Such a file is a header of 128 bytes and elements; an element is a type, a size and so many bytes. Arrays are elements
of four parts (flags, dimensions, name, numbers), deflated or not.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Types of elements.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ARRAY, _DEFLATED = 14, 15
# No array is larger than this, whatever a few deflated bytes say.
_BYTES = 2**31


def arrays(content: bytes) -> dict[str, NDArray[np.generic]]:
    """name -> array, for each array of numbers in the file; anything else in it is left out.

    Raises:
        ValueError: it is not such a file, or damaged.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("no MATLAB 5 file")
    found = {}
    for kind, part in _elements(memoryview(content)[128:], order):
        if kind == _DEFLATED:
            ((kind, part),) = _elements(memoryview(_inflated(part)), order)
        if kind == _ARRAY:
            found.update(_array(part, order))
    return found


def _inflated(part: memoryview) -> bytes:
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(part, _BYTES)
    except zlib.error as error:
        raise ValueError(f"deflated part: {error}") from error
    if not stream.eof:
        raise ValueError("a deflated part does not end")
    return content


def _elements(rest: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    while len(rest):
        if len(rest) < 8:
            raise ValueError("the last element has no size")
        kind, size = struct.unpack(order + "II", rest[:8])
        start, end = 8, 8 + size
        if kind >> 16:  # at most four bytes of content take the place of the size
            kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, 8
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        if end > len(rest):
            raise ValueError("an element ends behind the file")
        yield kind, rest[start : start + size]
        rest = rest[end if kind == _DEFLATED else -(-end // 8) * 8 :]


def _array(part: memoryview, order: str) -> dict[str, NDArray[np.generic]]:
    elements = list(_elements(part, order))
    if [kind for kind, _ in elements[:3]] != [6, 5, 1] or len(elements) != 4 or elements[3][0] not in _NUMBERS:
        return {}  # a structure, a cell, complex numbers
    (_, shape), (_, name), (kind, numbers) = elements[1:]
    sizes = np.frombuffer(shape, order + "i4").tolist()
    values = np.frombuffer(numbers, order + _NUMBERS[kind])
    # Columns first; reshape refuses what does not fit, and takes a single −1 for "what is left".
    if min(sizes, default=-1) < 0:
        raise ValueError(f"an array of dimensions {sizes}")
    return {bytes(name).decode("latin-1"): values.reshape(sizes, order="F").astype(values.dtype.newbyteorder("="))}
