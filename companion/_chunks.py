"""Work on a few rows at a time: memory is bounded, progress is shown, and an interruption loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from companion import _validation as check
from companion._calls import out_of_memory

# Rows at a time at most; fewer where these bytes do not hold them.
_ROWS, _CPU_BYTES, _GPU_SHARE = 512, 2**28, 1 / 8


class Interrupted(KeyboardInterrupt):
    """A call was interrupted. `result` is what it would have returned, with radii NaN in the rows not reached.

    The witnesses of those rows are the points themselves.
    """

    def __init__(self, result: Any) -> None:
        super().__init__("interrupted; what was finished is in the attribute result of this exception")
        self.result = result


def size(chunk_size: int | None, row_bytes: int, device: torch.device) -> int:
    """`chunk_size` as given, or by default as many rows of `row_bytes` as fit; it does not depend on the data."""
    if chunk_size is not None:
        return check.integer("chunk_size", chunk_size, minimum=1)
    free = _GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _CPU_BYTES
    return int(min(max(free // max(row_bytes, 1), 1), _ROWS))


def radius_alone(columns: Iterable[Tensor]) -> Tensor:
    """The first of the columns, of a caller who did not ask for the witnesses."""
    return next(iter(columns))


def in_chunks(
    search: Callable[[Tensor], tuple[Tensor, ...]],
    unfinished: tuple[Tensor, ...],
    chunk: int,
    progress: bool,
    name: str,
    make: Callable[[Iterable[Tensor]], Any] = tuple,
) -> Any:
    """`make` of the columns that `search` returns for the row numbers 0 … n − 1, `chunk` at a time.

    Where memory runs out the chunk is halved and tried again; what was found before is kept.

    Args:
        search: row numbers (k,) -> columns of k rows.
        unfinished: the columns of n rows as they are before anything is found.
        chunk: rows at a time.
        progress: show a bar.
        name: its name.
        make: makes the result of a list of columns.

    Raises:
        Interrupted: on Ctrl-C, with the finished rows.
    """
    found: list[tuple[Tensor, ...]] = []
    count, done = len(unfinished[0]), 0
    numbers = torch.arange(count, device=unfinished[0].device)

    def result() -> Any:
        rest = tuple(column[done:] for column in unfinished)
        parts = [*found, rest] if done < count or not found else found
        columns = zip(*parts, strict=True)
        return make(torch.cat([part.to(own) for part in column]) for own, column in zip(rest, columns, strict=True))

    with tqdm(total=count, desc=name, disable=not progress) as bar:
        while done < count:
            rows = numbers[done : done + chunk]
            try:
                found.append(search(rows))
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not out_of_memory(error):
                    raise
                chunk = len(rows) // 2
                continue
            except KeyboardInterrupt as stop:
                raise Interrupted(result()) from stop
            done += len(rows)
            bar.update(len(rows))
    return result()
