"""Attacks that start where other attacks ended.

A gradient attack on a defense may be blind where it starts at random; an attack on the base model leads it past that
region (Tramèr et al., NeurIPS 2020).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from igd_ray.attacks.adaptive.objective import ObjectiveAPGD, Task
from igd_ray.attacks.base import GivenPoints
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pgd import random_points
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.errors import InputError
from igd_ray.threat import ThreatModel, check_given

# Points that a planner always has: of a transfer, and of an attack on both passes of the defense.
TRANSFER, WHITE_BOX = "transfer", "white-box"


@dataclass(frozen=True, repr=False)
class WarmStartedAttack(ObjectiveAPGD):
    """An attack that needs points of others: `attack.starting_from(points)` before it runs.

    Args:
        loss, steps, eot: as in `ObjectiveAPGD`.
        sources: the names of the points that it starts from. They belong to its settings, the points do not: they
            are results of other attacks, by whose identity a caller tells them apart.
    """

    sources: Sequence[str] = field(default=(TRANSFER,), kw_only=True)
    _starts: GivenPoints | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise InputError(f"sources must be different names of points, at least one, not {list(self.sources)}")
        object.__setattr__(self, "sources", tuple(self.sources))

    def with_sources(self, sources: Iterable[str]) -> Self:
        """Return this attack, starting from points of other names."""
        return self._with(sources=tuple(sources))

    def from_points_of(self, names: Iterable[str]) -> Self:
        """Return this attack with the sources that it takes, where the points called `names` can be had: its own."""
        return self

    def given(self, points: GivenPoints) -> Self:
        """Return this attack, `starting_from` the points."""
        return self.starting_from(points)

    def starting_from(self, points: GivenPoints) -> Self:
        """Return this attack with its starts, such as the `points` of an `AttackResult`.

        Args:
            points: for each of `sources`, float32 [N, C, H, W] aligned with the images to be attacked, and a bool
                [N] that says where they exist.

        Raises:
            InputError: if other points are given than those of `sources`.
        """
        if set(points) != set(self.sources):
            raise InputError(
                f"{self.name} starts from the points {', '.join(self.sources)}, but was given "
                f"{', '.join(points) or 'none'}; name those in sources="
            )
        return self._with(_starts=dict(points))

    def prepare(self, target: CountedTarget, images: Tensor, threat: ThreatModel) -> None:
        """Check that there are starts, that they belong to the images and that they lie in the balls."""
        if self._starts is None:
            raise InputError(
                f"{self.name} needs the points {', '.join(self.sources)} of other attacks; "
                "give them with starting_from(points)"
            )
        for name, (points, exists) in self._starts.items():
            check_given(points, exists, images, threat, f"{name!r} starts")

    def start(self, source: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of `source` for the images in `rows`, and whether they exist."""
        assert self._starts is not None
        points, exists = self._starts[source]
        return points.to(rows.device)[rows], exists.to(rows.device)[rows]

    def climb_from(self, points: Tensor, exists: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Climb the objective from `points`, from random ones where none exists."""
        instead = random_points(task.images, task.threat, Generator().manual_seed(task.seed))
        start = torch.where(exists[:, None, None, None], points, instead)
        return self.climb(partial(self.objective, task), task, start=start)


@dataclass(frozen=True, repr=False)
class WarmStartedAPGD(WarmStartedAttack):
    """APGD on the target started from other attacks' points, one run for each of `sources`.

    Idea: points that break the base model lie near the boundary that it shares with the defense, so that the
    defense's own gradients, where masks hide them elsewhere, need to lead only a little further. Where an image has
    no such point, its run starts at random in the ball. Source: Croce et al., ICML 2022 (transfer attacks on test-time
    defenses); Tramèr et al., NeurIPS 2020 (adaptive attacks).
    """

    name: ClassVar[str] = "apgd-started"

    @property
    def runs(self) -> int:
        """One for each source."""
        return len(self.sources)

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Climb from the points of one source."""
        return self.climb_from(*self.start(self.sources[task.number], task.rows), task)


register(
    "audit-transfer-start",
    partial(WarmStartedAPGD, "cw", eot=AUDIT_EOT),
    budget="steps",
    idea="APGD on the defense itself, from the points that attacks on the base model ended at: they lie beyond the "
    "region in which the defense hides its gradients.",
)
