"""APGD in the pool: the step rule of Croce & Hein (ICML 2020), each row at a step of its own.

Budgets, checkpoints, step sizes, starts and the order of target classes are those of AutoAttack's code. What differs:
random numbers belong to the image, and on a target known to be deterministic a row ends at its first misclassified
point, where AutoAttack walks on and keeps the last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.losses import TINY, Loss
from igd_ray.attacks.engine.pool import Pool, Row, RowState, rows_on, wide
from igd_ray.attacks.engine.streams import image_keys, normal, stream, uniform
from igd_ray.threat import Norm, ThreatModel

# Share of the window's steps that have to raise the loss, or the step size is halved.
RHO = 0.75

# Share of a step in the direction of the gradient; the rest goes on as the last step went.
FORWARD = 0.75

# How many steps a row on a GPU may walk on after it has broken its image: asking whether it has stops the device.
GPU_STEPS_BETWEEN_LOOKS = 8

# Starting points [rows, C, H, W] for some rows.
Starts = Callable[[Sequence[Row]], Tensor]


@dataclass(frozen=True)
class Walk:
    """What every row does.

    Attributes:
        loss: what it climbs.
        steps: how many steps it takes.
        eot: gradients averaged a step, of as many passes.
        rows: how many rows each image has.
        ends_when_broken: whether a row ends at its first misclassified point; otherwise it walks to its end and the
            last one counts, as it has to where the target is random and may have been wrong by chance.
        capacity: rows at a time, by default what suits the device.
    """

    loss: Loss
    steps: int
    eot: int = 1
    rows: int = 1
    ends_when_broken: bool = False
    capacity: int | None = None


def checkpoint_windows(steps: int) -> np.ndarray:
    """Return for each step how many steps it looks back on if it is a checkpoint, otherwise 0: int64 [steps].

    The first window is 22 % of the steps, each later one 3 % of the steps shorter, 6 % at least (Croce & Hein, 2020).

    >>> windows = checkpoint_windows(100)
    >>> windows.nonzero()[0][:5].tolist(), windows[windows > 0][:5].tolist()
    ([21, 40, 56, 69, 79], [22, 19, 16, 13, 10])
    """
    windows = np.zeros(steps, dtype=np.int64)
    window, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    step = window - 1
    while step < steps:
        windows[step] = window
        window = max(window - shorter, least)
        step += window
    return windows


@dataclass
class Rows(RowState):
    """The state of the rows that run: points [rows, C, H, W], and numbers [rows]."""

    images: Tensor
    lowest: Tensor
    highest: Tensor
    labels: Tensor
    targets: Tensor
    points: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    kept: Tensor
    broken: Tensor
    step_size: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor

    @classmethod
    def starting(cls, images: Tensor, labels: Tensor, targets: Tensor, points: Tensor, epsilon: float) -> Self:
        """Return rows before their first step, of size 2 epsilon."""
        number = images.new_zeros(len(images))
        return cls(
            images=images,
            lowest=(images - epsilon).clamp_(0, 1),
            highest=(images + epsilon).clamp_(0, 1),
            labels=labels,
            targets=targets,
            points=points,
            before=points.clone(),
            gradient=torch.zeros_like(points),
            best=points.clone(),
            best_gradient=torch.zeros_like(points),
            kept=images.clone(),
            broken=torch.zeros_like(labels, dtype=torch.bool),
            # In single precision as AutoAttack's, whatever the points are.
            step_size=torch.full_like(number.float(), 2 * epsilon),
            best_loss=torch.full_like(number, -torch.inf),
            # AutoAttack's first comparison of losses is with 0.
            last_loss=number.float(),
            rises=number.clone(),
            checked_loss=number.clone(),
            halved=torch.ones_like(labels, dtype=torch.bool),
        )


def random_starts(images: Tensor, threat: ThreatModel, seed: int, stage: str) -> Starts:
    """Return what gives random points on the ball's surface, each row's from a stream of its image.

    A uniform point of the cube, or a normal one, is stretched to length epsilon and clipped to [0, 1].

    Args:
        images: float32 [N, C, H, W].
        stage: whose rows they are: stages with different names have different starts.
    """
    keys = image_keys(images)

    def starts(rows: Sequence[Row]) -> Tensor:
        streams = [stream(seed, keys[row.image], stage, row.place) for row in rows]
        if threat.norm is Norm.LINF:
            offsets = 2 * uniform(streams, images.shape[1:]) - 1
            lengths = offsets.flatten(1).abs().amax(dim=1)
        else:
            offsets = normal(streams, images.shape[1:])
            lengths = torch.linalg.vector_norm(offsets.flatten(1), dim=1)
        offsets = threat.epsilon * offsets / (wide(lengths) + TINY)
        return (images[[row.image for row in rows]] + offsets.to(images.device)).clamp_(0, 1)

    return starts


def climb(
    target: CountedTarget,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    walk: Walk,
    *,
    starts: Starts,
    attacked: Sequence[int],
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run APGD for the images at the positions `attacked`; return the points [N, C, H, W] and where there is one [N].

    Args:
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        starts: gives the starting points of rows, inside the ball.
        targets: the target class of each row of each image, int64 [N, rows]; None for an untargeted loss.
    """
    return _Climb(target, images, labels, threat, walk, starts, targets).run(attacked)


class _Climb:
    def __init__(
        self,
        target: CountedTarget,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        walk: Walk,
        starts: Starts,
        targets: Tensor | None,
    ) -> None:
        self._target, self._images, self._labels, self._threat, self._walk = target, images, labels, threat, walk
        self._starts = starts
        self._targets = labels[:, None].expand(-1, walk.rows) if targets is None else targets
        self._windows = checkpoint_windows(walk.steps)
        self._points, self._found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
        self._place = [walk.rows] * len(images)
        # How many steps each row has taken; known here without asking the device.
        self._taken = np.zeros(0, dtype=np.int64)

    def run(self, attacked: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Search until no row runs and none waits."""
        device, walk = self._images.device, self._walk
        pool = Pool(attacked, walk.rows, walk.capacity or rows_on(device))
        passes = 0
        rows = self._enter(None, pool)
        while rows is not None and pool.running:
            self._note(rows, self._ask(rows))
            passes += 1
            if device.type == "cpu" or passes % GPU_STEPS_BETWEEN_LOOKS == 0 or (self._taken == walk.steps).any():
                rows = self._leave(rows, pool)
            self._move(rows)
            self._taken += 1
            rows = self._enter(rows, pool)
        return self._points, self._found

    def _enter(self, rows: Rows | None, pool: Pool) -> Rows | None:
        entering = pool.enter()
        if not entering:
            return rows
        device = self._images.device
        positions = torch.tensor([row.image for row in entering], device=device)
        places = torch.tensor([row.place for row in entering], device=device)
        more = Rows.starting(
            self._images[positions],
            self._labels[positions],
            self._targets[positions, places],
            self._starts(entering),
            self._threat.epsilon,
        )
        self._taken = np.concatenate([self._taken, np.zeros(len(entering), dtype=np.int64)])
        return more if rows is None else rows.with_more(more)

    def _ask(self, rows: Rows) -> Tensor:
        """Set the rows' losses and gradients at their points; return where the target is wrong."""
        eot, count = self._walk.eot, len(rows.points)
        together = max(1, (self._walk.capacity or rows_on(rows.points.device)) // count)
        points = rows.points.detach().requires_grad_()
        gradient: Tensor | None = None
        for first in range(0, eot, together):
            draws = min(together, eot - first)
            with torch.enable_grad():
                # Draws in one pass: their gradients add up at the points.
                logits = self._target(points if draws == 1 else points.repeat(draws, 1, 1, 1))
                losses = self._walk.loss(logits, rows.labels.repeat(draws), rows.targets.repeat(draws))
            (of_these,) = torch.autograd.grad(losses.sum(), [points])
            gradient = of_these if gradient is None else gradient + of_these
        assert gradient is not None
        # The sign is all that the infinity norm needs; the 2-norm needs the direction.
        rows.gradient = gradient.sign_() if self._threat.norm is Norm.LINF else gradient / eot
        # The loss and the class that count are those of the last draw, as in AutoAttack.
        self._losses = losses.detach()[-count:].to(rows.best_loss.dtype)
        wrong: Tensor = logits.detach()[-count:].argmax(dim=1) != rows.labels
        return wrong

    def _note(self, rows: Rows, wrong: Tensor) -> None:
        """Note what is best, what is wrong, and at a checkpoint halve steps that no longer pay."""
        losses, starting = self._losses, self._taken == 0
        newly = wrong & ~rows.broken if self._walk.ends_when_broken else wrong
        rows.kept = torch.where(wide(newly), rows.points, rows.kept)
        rows.broken |= wrong
        better = losses > rows.best_loss
        rows.best = torch.where(wide(better), rows.points, rows.best)
        rows.best_gradient = torch.where(wide(better), rows.gradient, rows.best_gradient)
        rows.best_loss = torch.where(better, losses, rows.best_loss)
        # AutoAttack remembers losses in single precision, so that it sees no smaller rises.
        loss = losses.float()
        risen = loss > rows.last_loss
        if starting.any():
            starts = torch.from_numpy(starting).to(losses.device)
            rows.checked_loss = torch.where(starts, losses, rows.checked_loss)
            risen, loss = risen & ~starts, torch.where(starts, rows.last_loss, loss)
        rows.last_loss = loss
        rows.rises += risen
        windows = np.where(starting, 0, self._windows[self._taken - 1])
        if windows.any():
            self._check(rows, torch.from_numpy(windows).to(losses.device))

    def _check(self, rows: Rows, windows: Tensor) -> None:
        """At the checkpoint of the rows with a window: halve the step of those that oscillate, back at their best."""
        here = windows > 0
        oscillates = rows.rises <= windows * RHO
        stands = ~rows.halved & (rows.checked_loss >= rows.best_loss)
        halving = here & (oscillates | stands)
        rows.halved = torch.where(here, halving, rows.halved)
        rows.checked_loss = torch.where(here, rows.best_loss, rows.checked_loss)
        rows.rises = torch.where(here, 0.0, rows.rises)
        rows.step_size = torch.where(halving, rows.step_size / 2, rows.step_size)
        rows.points = torch.where(wide(halving), rows.best, rows.points)
        rows.gradient = torch.where(wide(halving), rows.best_gradient, rows.gradient)

    def _move(self, rows: Rows) -> None:
        """Take a step: along the gradient, with some of the last step's momentum, inside the ball and [0, 1]."""
        forward = torch.from_numpy(np.where(self._taken > 0, FORWARD, 1.0))
        share = wide(forward.to(rows.points))
        momentum = rows.points - rows.before
        rows.before = rows.points
        step = torch.addcmul(rows.points, wide(rows.step_size.to(rows.points)), self._directions(rows))
        step = self._projected(step, rows)
        step = torch.lerp(rows.points, step, share).addcmul_(momentum, 1 - share)
        rows.points = self._projected(step, rows)

    def _directions(self, rows: Rows) -> Tensor:
        if self._threat.norm is Norm.LINF:
            return rows.gradient
        return rows.gradient / (_lengths(rows.gradient) + TINY)

    def _projected(self, points: Tensor, rows: Rows) -> Tensor:
        """Return the rows' next `points`, which may be overwritten, inside the ball and [0, 1]."""
        if self._threat.norm is Norm.LINF:
            return points.clamp_(rows.lowest, rows.highest)
        difference = points - rows.images
        lengths = _lengths(difference)
        inside = difference / (lengths + TINY) * lengths.clamp(max=self._threat.epsilon)
        return inside.add_(rows.images).clamp_(0, 1)

    def _leave(self, rows: Rows, pool: Pool) -> Rows:
        """Take the points of rows that have ended, let them go, and return the others."""
        broken = rows.broken.tolist()
        ended = self._taken == self._walk.steps
        ending = [
            position
            for position in range(len(broken))
            if ended[position] or (broken[position] and self._walk.ends_when_broken)
        ]
        if not ending:
            return rows
        running = list(pool.running)
        for position in ending:
            row = running[position]
            if broken[position]:
                pool.breaks(row)
                if row.place < self._place[row.image]:
                    self._place[row.image] = row.place
                    self._points[row.image] = rows.kept[position]
                    self._found[row.image] = True
        staying = pool.leave(running[position] for position in ending)
        self._taken = self._taken[staying]
        return rows.chosen(torch.tensor(staying, dtype=torch.int64, device=rows.points.device))


def _lengths(differences: Tensor) -> Tensor:
    return wide(torch.linalg.vector_norm(differences.flatten(1), dim=1))
