"""An attack in one file that the package does not know: random corners of the ball, directly and adaptively."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from igd_ray.attacks import Attack
from igd_ray.attacks.base import QUERY, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import moved_points
from igd_ray.attacks.registry import register
from igd_ray.threat import ThreatModel, predicted_classes


@dataclass(frozen=True, repr=False)
class RandomCorners(Attack):
    """Adds plus or minus epsilon to each pixel at random, until the target is wrong; asks for classes only."""

    name: ClassVar[str] = "random-corners"

    queries: int = 20

    @property
    def ways(self) -> frozenset[str]:
        return frozenset({QUERY})

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        return 2 + self.queries, 0

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        before = target.queries, target.forwards, target.backwards
        generator = torch.Generator().manual_seed(seed)
        points, right = images.clone(), predicted_classes(target, images) == labels
        for _ in range(self.queries):
            rows = right.nonzero().flatten()
            if len(rows) == 0:
                break
            signs = torch.randint(2, images[rows].shape, generator=generator) * 2 - 1
            points[rows] = (images[rows] + threat.epsilon * signs).clamp(0, 1)
            right[rows] = predicted_classes(target, points[rows]) == labels[rows]
        return moved_points(points, self.name, target, before, images)


register("random-corners", RandomCorners, budget="queries")
register(
    "audit-random-corners",
    partial(RandomCorners, queries=10),
    budget="queries",
    idea="Random corners of the ball, of which no gradient tells.",
)
