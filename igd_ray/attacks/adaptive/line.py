"""APGD over the straight line between two points, such as a transfer point and a white-box point."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.objective import Task, mean_margins
from igd_ray.attacks.adaptive.warm_start import TRANSFER, WHITE_BOX, WarmStartedAttack
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel

# Points of the line, evenly spaced with both ends, that are asked for before the climb.
LOOKS = 5


@dataclass(frozen=True, repr=False)
class LineAPGD(WarmStartedAttack):
    """APGD on the one number t in [0, 1] of x(t) = (1 − t)·x₀ + t·x₁, between the points of two sources.

    Idea: the transfer point fools the first pass, the white-box point the second; where neither breaks the defense, a
    point between them may, and a ball is convex, so that every such point is allowed. Five points of the line, both
    ends among them, are asked for; the climb starts at the one of highest margin. The clean image stands in for an
    end that does not exist; an image without either is left alone. Source: none published that is
    known; the ends are those of Croce et al., ICML 2022 (transfer), and Croce & Hein, ICML 2020 (APGD).

    Args:
        loss, steps, eot: as in `ObjectiveAPGD`.
        sources: the names of x₀ and x₁.
    """

    name: ClassVar[str] = "apgd-line"
    # Its white-box end comes from an attack on the two passes.
    needs_two_passes: ClassVar[bool] = True

    steps: int = field(default=20, kw_only=True)
    sources: Sequence[str] = field(default=(TRANSFER, WHITE_BOX), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) != 2:
            raise InputError(f"a line has two ends: sources must be two names, not {list(self.sources)}")

    @property
    def looks(self) -> int:
        """At the evenly spaced points, `eot` times."""
        return LOOKS * self.eot

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Look at the line, then climb along it."""
        ends = [self.start(source, task.rows) for source in self.sources]
        lined = ends[0][1] | ends[1][1]
        first, last = (torch.where(exists[:, None, None, None], points, task.images)[lined] for points, exists in ends)
        adversarial, fooled = task.images.clone(), torch.zeros_like(lined)
        if len(first) == 0:
            return adversarial, fooled
        labels = task.labels[lined]

        def between(position: Tensor) -> Tensor:
            return torch.lerp(first, last, position.expand_as(first)).clamp(0, 1)

        # The numbers t are images of one pixel, in the ball of radius 1/2 around 1/2.
        middle = torch.full((len(first), 1, 1, 1), 0.5, device=first.device)
        places = torch.linspace(0, 1, LOOKS, device=first.device)
        margins = torch.stack(
            [
                mean_margins(task.target, between(torch.full_like(middle, place)), labels, self.eot)
                for place in places.tolist()
            ]
        )
        on_line = replace(task, images=middle, labels=labels, threat=ThreatModel(Norm.LINF, 0.5))
        position, broken = self.climb(
            lambda position: self.objective(on_line, between(position)),
            on_line,
            start=places[margins.argmax(dim=0)].view_as(middle),
        )
        adversarial[lined], fooled[lined] = between(position), broken
        return adversarial, fooled


register(
    "audit-line",
    partial(LineAPGD, "cw", eot=AUDIT_EOT),
    budget="steps",
    idea="APGD along the straight line between a transferred point, which fools the first pass, and a white-box point, "
    "which fools the second.",
)
