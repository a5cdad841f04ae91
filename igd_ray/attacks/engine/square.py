"""Square in the pool (Andriushchenko et al., ECCV 2020), infinity norm: each image has squares of its own.

AutoAttack's code draws one square for all images of a batch; here each image draws its own, from the same distribution.
Schedule, start and the rule by which a square is kept are those of that code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.pool import Pool, Row, RowState, rows_on, wide
from igd_ray.attacks.engine.streams import image_keys, stream
from igd_ray.threat import ThreatModel, predicted_classes

# The share of the pixels that the first squares change, and the queries behind which that share halves.
FIRST_SHARE = 0.8
HALVINGS = 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000

# Queries whose random numbers a row draws at a time.
DRAWN_QUERIES = 250


def square_sides(queries: int, height: int, width: int) -> np.ndarray:
    """Return the side of the square of each query, in pixels: int64 [queries].

    >>> square_sides(52, 32, 32)[[0, 10, 11, 50, 51]].tolist()
    [29, 29, 20, 20, 14]
    """
    halvings = np.searchsorted(HALVINGS, np.arange(queries), side="left")
    sides = np.rint(np.sqrt(FIRST_SHARE / 2.0**halvings * height * width)).astype(np.int64)
    clipped: np.ndarray = sides.clip(1, min(height, width))
    return clipped


@dataclass
class Rows(RowState):
    """The state of the rows that run: points [rows, C, H, W], labels and margins [rows]."""

    images: Tensor
    labels: Tensor
    best: Tensor
    margin: Tensor


class _Draws:
    """The random numbers of the rows: [rows, DRAWN_QUERIES, 2 + C], some queries at a time."""

    def __init__(self, channels: int) -> None:
        self._numbers = np.zeros((0, DRAWN_QUERIES, 2 + channels), dtype=np.float32)
        self._streams: list[np.random.Generator] = []

    def add(self, streams: Sequence[np.random.Generator]) -> None:
        self._streams += streams
        self._numbers = np.concatenate(
            [self._numbers, np.zeros((len(streams), *self._numbers.shape[1:]), dtype=np.float32)]
        )

    def keep(self, positions: Sequence[int]) -> None:
        self._streams = [self._streams[position] for position in positions]
        self._numbers = self._numbers[list(positions)]

    def of_query(self, asked: np.ndarray) -> np.ndarray:
        """Return the numbers of each row's query, the number of which stands in `asked`: [rows, 2 + C]."""
        place = asked % DRAWN_QUERIES
        for position in np.flatnonzero(place == 0):
            self._streams[position].random(out=self._numbers[position], dtype=np.float32)
        numbers: np.ndarray = self._numbers[np.arange(len(asked)), place]
        return numbers


def search_squares(
    target: CountedTarget,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
    *,
    queries: int,
    restarts: int,
    attacked: Sequence[int],
    capacity: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run Square for the images at the positions `attacked`; return the points [N, C, H, W] and where there is one [N].

    Args:
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        threat: of the infinity norm.
        queries: per restart, besides the start and the look at a point that is wrong.
        capacity: rows at a time, by default what suits the device.
    """
    return _Squares(target, images, labels, threat, seed, queries).run(attacked, restarts, capacity)


class _Squares:
    def __init__(
        self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int, queries: int
    ) -> None:
        self._target, self._images, self._labels, self._epsilon = target, images, labels, threat.epsilon
        self._seed, self._queries, self._keys = seed, queries, image_keys(images)
        self._sides = square_sides(queries, *images.shape[2:])
        self._draws = _Draws(images.shape[1])
        self._points, self._found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
        self._place = [math.inf] * len(images)
        # How many squares each row has asked for.
        self._asked = np.zeros(0, dtype=np.int64)

    @torch.no_grad()
    def run(self, attacked: Sequence[int], restarts: int, capacity: int | None) -> tuple[Tensor, Tensor]:
        """Search until no row runs and none waits."""
        pool = Pool(attacked, restarts, capacity or rows_on(self._images.device))
        rows = self._enter(None, pool)
        while rows is not None and pool.running:
            rows = self._leave(rows, pool)
            if pool.running:
                self._ask(rows)
            rows = self._enter(rows, pool)
        return self._points, self._found

    def _enter(self, rows: Rows | None, pool: Pool) -> Rows | None:
        entering = pool.enter()
        if not entering:
            return rows
        positions = torch.tensor([row.image for row in entering], device=self._images.device)
        images, labels = self._images[positions], self._labels[positions]
        streams = [stream(self._seed, self._keys[row.image], "square", row.place) for row in entering]
        channels, width = images.shape[1], images.shape[3]
        stripes = np.stack([each.random((channels, 1, width), dtype=np.float32) for each in streams])
        best = (images + self._epsilon * _signs(stripes).to(images)).clamp_(0, 1)
        more = Rows(images, labels, best, self._margins(best, labels))
        self._draws.add(streams)
        self._asked = np.concatenate([self._asked, np.zeros(len(entering), dtype=np.int64)])
        return more if rows is None else rows.with_more(more)

    def _ask(self, rows: Rows) -> None:
        """Try a square in each row, and keep it where it lowers the margin or the target is wrong."""
        numbers = self._draws.of_query(self._asked)
        sides = self._sides[self._asked]
        height, width = rows.images.shape[2:]
        tops = (numbers[:, 0] * (height - sides)).astype(np.int64)
        lefts = (numbers[:, 1] * (width - sides)).astype(np.int64)
        inside = _between(tops, sides, height)[:, :, None] & _between(lefts, sides, width)[:, None, :]
        changes = 2 * self._epsilon * _signs(numbers[:, 2:, None, None])
        steps = (torch.from_numpy(inside)[:, None] * changes).to(rows.images)
        low, high = rows.images - self._epsilon, rows.images + self._epsilon
        tried = steps.add_(rows.best).clamp_(low, high).clamp_(0, 1)
        margins = self._margins(tried, rows.labels)
        kept = (margins < rows.margin) | (margins <= 0)
        rows.best = torch.where(wide(kept), tried, rows.best)
        rows.margin = torch.where(kept, margins, rows.margin)
        self._asked += 1

    def _margins(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return z_y − max_{j≠y} z_j, not positive where the target is wrong."""
        logits = self._target(points)
        true = logits.gather(1, labels[:, None])
        margins: Tensor = true[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return margins

    def _leave(self, rows: Rows, pool: Pool) -> Rows:
        """Let go of the rows that are wrong, after a second look, or have asked for all of their squares."""
        wrong = (rows.margin <= 0).cpu().numpy()
        ending = np.flatnonzero(wrong | (self._asked == self._queries)).tolist()
        if not ending:
            return rows
        running: list[Row] = list(pool.running)
        looked = [position for position in ending if wrong[position]]
        if looked:
            # A random target may have been wrong by chance, and equal logits are nobody's.
            confirmed = predicted_classes(self._target, rows.best[looked]) != rows.labels[looked]
            for position, breaks in zip(looked, confirmed.tolist(), strict=True):
                row = running[position]
                if breaks and row.place < self._place[row.image]:
                    pool.breaks(row)
                    self._place[row.image] = row.place
                    self._points[row.image], self._found[row.image] = rows.best[position], True
        staying = pool.leave(running[position] for position in ending)
        self._asked = self._asked[staying]
        self._draws.keep(staying)
        return rows.chosen(torch.tensor(staying, dtype=torch.int64, device=rows.images.device))


def _between(first: np.ndarray, sides: np.ndarray, length: int) -> np.ndarray:
    """Return which of so many pixels lie within the sides that begin at `first`: bool [rows, length]."""
    pixels = np.arange(length)
    between: np.ndarray = (pixels >= first[:, None]) & (pixels < (first + sides)[:, None])
    return between


def _signs(numbers: np.ndarray) -> Tensor:
    """Return −1 or 1 for uniform numbers in [0, 1)."""
    return torch.from_numpy(np.where(numbers < 0.5, -1.0, 1.0).astype(np.float32))
