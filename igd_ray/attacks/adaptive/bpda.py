"""BPDA: gradients of a stand-in for a target whose own gradients mislead or vanish."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from igd_ray.attacks.adaptive.objective import ObjectiveAPGD, Task, image_losses
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.threat import ThreatModel


@dataclass(frozen=True, repr=False)
class BpdaAPGD(ObjectiveAPGD):
    """APGD on the target's own logits, with the gradient of a stand-in (backward pass differentiable approximation).

    Idea: a defense that quantises, compresses or purifies an image leaves it almost as it was, so that the gradient
    behind that step, at the image that it gave to the base model, is one that the defense hides from other attacks.
    Where the target is random, gradients are averaged over its draws. Source: Athalye, Carlini & Wagner, ICML 2018.

    Args:
        loss, steps, eot: as in `ObjectiveAPGD`.
    """

    name: ClassVar[str] = "apgd-bpda"
    needs_surrogate: ClassVar[bool] = True
    # The target's answer, and the stand-in's.
    cost: ClassVar[tuple[int, int]] = (2, 1)

    def prepare(self, target: CountedTarget, images: Tensor, threat: ThreatModel) -> None:
        """Check that the target offers a stand-in."""
        target.surrogate()

    def objective(self, task: Task, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stand-in's logits, which are the target's, and their losses."""
        logits = task.target.surrogate()(points)
        return logits, image_losses(self.loss, logits, task.labels)


register(
    "audit-bpda",
    partial(BpdaAPGD, "cw", eot=AUDIT_EOT),
    budget="steps",
    idea="APGD with the identity in place of the gradient of what the defense does to an image (BPDA), because that "
    "step passes no gradients on.",
)
