"""Which rows are searched at a time: each row is one run for one image, and a row that leaves makes room for another.

The rows of an image come in the published order: its first target class and restart, then the next. A row that breaks
its image ends the rows behind it at once; those before it, if some are still running, count first and run on. So which
row breaks an image depends neither on the size of the pool nor on the other images.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

# Rows at a time: many enough that a pass costs little beside its arithmetic.
CPU_ROWS, GPU_ROWS = 64, 256


def rows_on(device: torch.device) -> int:
    """Return how many rows run at a time on `device` by default."""
    return GPU_ROWS if device.type == "cuda" else CPU_ROWS


def wide(numbers: Tensor) -> Tensor:
    """Return numbers [rows] to go with points, [rows, 1, 1, 1]."""
    return numbers[:, None, None, None]


class Row(NamedTuple):
    """One run for one image: the image's position in the batch, and the place of the run among those of the image."""

    image: int
    place: int


class Pool:
    """The rows of a batch of images, `capacity` of which run at a time."""

    def __init__(self, images: Iterable[int], rows: int, capacity: int) -> None:
        """Put the first of so many `rows` of each of the `images` in line."""
        self._waiting = deque(Row(image, 0) for image in images)
        self._rows, self._capacity = rows, capacity
        self._broken: dict[int, int] = {}
        self.running: list[Row] = []

    def enter(self) -> list[Row]:
        """Return the rows that start now, behind those that run; first rows first, in the order of the images."""
        entering: list[Row] = []
        while self._waiting and len(self.running) + len(entering) < self._capacity:
            row = self._waiting.popleft()
            if row.image in self._broken:
                continue
            entering.append(row)
            if row.place + 1 < self._rows:
                self._waiting.append(Row(row.image, row.place + 1))
        self.running += entering
        return entering

    def breaks(self, row: Row) -> None:
        """Note that `row` has broken its image."""
        self._broken[row.image] = min(row.place, self._broken.get(row.image, row.place))

    def leave(self, ended: Iterable[Row]) -> list[int]:
        """Let go of the rows that `ended` and of those that no longer count; return the positions of the others."""
        ended = set(ended)
        staying = [
            position
            for position, row in enumerate(self.running)
            if row not in ended and row.place <= self._broken.get(row.image, self._rows)
        ]
        self.running = [self.running[position] for position in staying]
        return staying


@dataclass
class RowState:
    """What is known of the rows that run, in the order of `Pool.running`; each field of a subclass is [rows, …]."""

    def chosen(self, positions: Tensor) -> Self:
        """Return some of the rows."""
        return replace(self, **{each.name: getattr(self, each.name)[positions] for each in fields(self)})

    def with_more(self, others: Self) -> Self:
        """Return these rows and `others` behind them."""
        both = ((each.name, [getattr(rows, each.name) for rows in (self, others)]) for each in fields(self))
        return replace(self, **{name: torch.cat(values) for name, values in both})
