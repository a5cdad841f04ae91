"""APGD once more, for each image from the best of the points that other attacks ended at."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.objective import Task, mean_margins
from igd_ray.attacks.adaptive.warm_start import TRANSFER, WarmStartedAttack
from igd_ray.attacks.registry import AUDIT_EOT, register


@dataclass(frozen=True, repr=False)
class BestStartAPGD(WarmStartedAttack):
    """APGD on the target, started for each image from that point of `sources` which the target likes least.

    Idea: attacks fail for different reasons, so that the best point of all is a start none of them had. Best is the
    one of highest margin max_{j≠y} z_j − z_y on the target, the mean over `eot` answers; the first of equals. Source:
    the image-wise worst case of Croce et al., ICML 2022, fed back as a start.
    """

    name: ClassVar[str] = "apgd-best-start"

    def from_points_of(self, names: Iterable[str]) -> Self:
        """Return this attack, starting from all of the points."""
        return self.with_sources(names)

    @property
    def looks(self) -> int:
        """At each source's point, `eot` times."""
        return len(self.sources) * self.eot

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Choose the starts, then climb."""
        best = task.images.clone()
        highest = torch.full((len(best),), -torch.inf, device=best.device)
        exists = torch.zeros(len(best), dtype=torch.bool, device=best.device)
        for source in self.sources:
            points, there = self.start(source, task.rows)
            if not there.any():
                continue
            margins = torch.full_like(highest, -torch.inf)
            margins[there] = mean_margins(task.target, points[there], task.labels[there], self.eot).to(margins)
            better = margins > highest
            best[better], highest[better] = points[better], margins[better]
            exists |= better
        return self.climb_from(best, exists, task)


register(
    "audit-best-start",
    partial(BestStartAPGD, "cw", eot=AUDIT_EOT, sources=[TRANSFER]),
    budget="steps",
    idea="APGD once more, from the point that the defense likes least of those that all other attacks left.",
)
