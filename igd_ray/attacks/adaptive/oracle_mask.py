"""APGD under a mask that an oracle chose and that is held fixed."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from igd_ray.attacks.adaptive.objective import Task, TwoPassAttack, image_losses
from igd_ray.attacks.pyautoattack import wrong_logits
from igd_ray.attacks.registry import register


@dataclass(frozen=True, repr=False)
class OracleMaskAPGD(TwoPassAttack):
    """APGD on the second pass alone, with the mask of the true class, then with that of the runner-up, held fixed.

    Idea: with one mask throughout, the defense is an ordinary network without noise and without a hard choice in it.
    The true class's mask is the one that a defended image is judged under as long as the pseudo-label holds; the
    runner-up's, that of the wrong class of highest logit on the clean image, is the one it meets once the label has
    flipped. An iterate counts as misclassified if the defense itself, asked afresh at each, answers wrongly.
    Source: Tramèr et al., NeurIPS 2020 (simplify the defense, attack that, judge on the whole).

    Args:
        loss, steps: as in `ObjectiveAPGD`.
    """

    name: ClassVar[str] = "apgd-oracle-mask"
    cost: ClassVar[tuple[int, int]] = (2, 1)

    eot: int = field(default=1, init=False)

    @property
    def runs(self) -> int:
        """One for each mask."""
        return 2

    @property
    def looks(self) -> int:
        """At the clean image, for the runner-up."""
        return 1

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Climb under the mask of the true class (run 0) or of the runner-up (run 1)."""
        target, classes = task.target, task.labels
        passes = target.two_pass()
        if task.number == 1:
            with torch.no_grad():
                classes = wrong_logits(target(task.images), task.labels).argmax(dim=1)
        weights = one_hot(classes, target.num_classes(task.images)).to(task.images)

        def objective(points: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                answer = target(points)
            return answer, image_losses(self.loss, passes.masked_logits(points, weights), task.labels)

        return self.climb(objective, task)


register(
    "audit-oracle-mask",
    partial(OracleMaskAPGD, "cw"),
    budget="steps",
    idea="APGD under one fixed mask, the true class's and then the runner-up's, where the defense is an ordinary "
    "network; the whole defense judges the point.",
)
