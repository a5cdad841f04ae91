"""RayS: a search over the signs of a ray, which asks for the target's class only (Chen & Gu, KDD 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from igd_ray.attacks.apgd import require_positive
from igd_ray.attacks.base import QUERY, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import register
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel, predicted_classes

# The binary search along a ray stops at this length, in the 2-norm, as in the authors' code.
TOLERANCE = 1e-3


@dataclass(frozen=True, repr=False)
class RayS(Attack):
    """RayS on the images that the target gets right, until a point within epsilon is misclassified.

    A point beyond epsilon does not count: the image is then not broken. The search draws nothing at random.

    Args:
        queries: how many queries per image at most, the look at the clean image included.
    """

    name: ClassVar[str] = "rays"

    queries: int = 10_000

    def __post_init__(self) -> None:
        require_positive(queries=self.queries)

    @property
    def ways(self) -> frozenset[str]:
        """It asks for classes only."""
        return frozenset({QUERY})

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes, then `queries` queries."""
        return self.queries + 1, 0

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that the ball is one of the infinity norm, which is the length that RayS shortens."""
        if norm is not Norm.LINF:
            raise InputError(f"RayS searches balls of the norm linf only, not {norm}; leave out rays or use norm linf")

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Ask one query for every image that is neither broken nor out of budget, again and again."""
        before = target.queries, target.forwards, target.backwards
        queries = torch.ones_like(labels)
        rows = (predicted_classes(target, images) == labels).nonzero().flatten()
        adversarial = images.clone()
        found = torch.zeros_like(labels, dtype=torch.bool)
        rays = RaySearch(images[rows])
        for _ in range(self.queries - 1):
            if len(rows) == 0:
                break
            points = rays.ask()
            wrong = predicted_classes(target, points) != labels[rows]
            queries[rows] += 1
            rays.tell(wrong)
            success = wrong & (threat.norm.distance(points, rays.images) <= threat.epsilon)
            if success.any():
                adversarial[rows[success]] = points[success]
                found[rows[success]] = True
                rows = rows[~success]
                rays.keep(~success)
        # Every query costs the same, so that the passes are exact for each image, too.
        asked = target.queries - before[0]
        return Points(
            adversarial,
            ["rays" if row else None for row in found.tolist()],
            found,
            queries,
            queries * ((target.forwards - before[1]) // asked),
            queries * ((target.backwards - before[2]) // asked),
        )


register("rays", RayS, budget="queries")


class RaySearch:
    """The searches of several images side by side: each asks one query at a time and is told the answer.

    A ray leaves the image in a direction of ±1 in every pixel and is clipped to [0, 1]. Blocks of pixels, all at
    first, then halves, quarters, …, change sign one after another. A changed ray that is still misclassified at the
    shortest length so far is shortened by binary search, and takes the old one's place if that makes it shorter. An
    image never waits for another one, so that what it asks does not depend on the batch.

    Attributes:
        images: float32 [n, C, H, W] in [0, 1].
        radius: float32 [n], in pixel units: the length of the shortest ray found to be misclassified at its end;
            infinite before the first.
    """

    def __init__(self, images: Tensor) -> None:
        def each(value: float) -> Tensor:
            return torch.full((len(images),), value, dtype=images.dtype, device=images.device)

        self.images = images
        self.radius = each(torch.inf)
        self._pixels = images[0].numel() if len(images) else 1
        self._tolerance = TOLERANCE / math.sqrt(self._pixels)
        self._position = torch.arange(self._pixels, device=images.device)
        self._signs = torch.ones_like(images).flatten(1)
        # The block that is tried: its first pixel and its size.
        self._start = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self._size = torch.full_like(self._start, self._pixels)
        # The bounds of the binary search: right below, misclassified above.
        self._searching = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._low, self._high = each(0), each(1)

    def ask(self) -> Tensor:
        """Return the next point to be asked for each image, [n, C, H, W] in [0, 1]."""
        ray = self._length()[:, None] * self._attempt()
        return (self.images.flatten(1) + ray).clamp(0, 1).reshape(self.images.shape)

    def tell(self, wrong: Tensor) -> None:
        """Take the answers to the last points: whether each was misclassified, bool [n]."""
        length = self._length()
        # A first query that is misclassified opens a binary search between 0 and its own length.
        self._low = torch.where(wrong, self._low, length)
        self._high = torch.where(wrong, length, self._high)
        opened = self._searching | wrong
        self._searching = opened & (self._high - self._low > self._tolerance)
        closed = ~self._searching
        shorter = opened & closed & (self._high < self.radius)
        self.radius = torch.where(shorter, self._high, self.radius)
        self._signs = torch.where(shorter[:, None], self._attempt(), self._signs)
        self._low = torch.where(closed, 0, self._low)
        self._next_block(closed)

    def keep(self, rows: Tensor) -> None:
        """Go on with the images of `rows`, bool [n], only."""
        for name in ("images", "radius", "_signs", "_start", "_size", "_searching", "_low", "_high"):
            setattr(self, name, getattr(self, name)[rows])

    def _length(self) -> Tensor:
        """Return the length of each image's next ray: a length of 1 reaches every corner of [0, 1]."""
        return torch.where(self._searching, (self._low + self._high) / 2, self.radius.clamp(max=1))

    def _attempt(self) -> Tensor:
        """Return the signs with the block changed, [n, pixels]."""
        distance = self._position - self._start[:, None]
        return torch.where((distance >= 0) & (distance < self._size[:, None]), -self._signs, self._signs)

    def _next_block(self, closed: Tensor) -> None:
        start = self._start + torch.where(closed, self._size, 0)
        through = start >= self._pixels
        self._start = torch.where(through, 0, start)
        self._size = torch.where(through, (self._size + 1) // 2, self._size)
