"""Points that others computed, judged as one more attack: how adaptive attacks are published."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from igd_ray.attacks.base import Attack, GivenPoints, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.errors import InputError
from igd_ray.threat import ThreatModel

# The name by which `given` takes the points.
PUBLISHED = "published"


@dataclass(frozen=True, repr=False)
class PublishedPoints(Attack):
    """Returns the points that it is given; a point that is the clean image counts as none.

    Args:
        digest: the hash of the points of all images.
        image_set: the set of images, aligned with those evaluated, that workers find the points in.
    """

    name: ClassVar[str] = "published"
    leaves_misclassified: ClassVar[bool] = False

    digest: str
    _image_set: str
    _points: Tensor | None = field(default=None, init=False, compare=False)

    @property
    def image_set(self) -> str:
        """The set of images that holds its points."""
        return self._image_set

    @property
    def ways(self) -> frozenset[str]:
        """It learns nothing of its target."""
        return frozenset()

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes."""
        return 1, 0

    def given(self, points: GivenPoints) -> Self:
        """Return this attack with the points called `PUBLISHED`."""
        return self._with(_points=points[PUBLISHED][0])

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Return the points given."""
        if self._points is None:
            raise InputError(f"{self!r} needs its points; give them with given()")
        points = self._points.to(images)
        moved = (points != images).flatten(1).any(dim=1)
        none = torch.zeros_like(labels)
        stages = [self.name if row else None for row in moved.tolist()]
        return Points(points, stages, moved, none, none, none)
