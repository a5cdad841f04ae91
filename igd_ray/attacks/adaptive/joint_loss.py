"""APGD on a joint loss over a defense's first-pass and final logits."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from igd_ray.attacks.adaptive.objective import Task, TwoPassAttack, image_losses
from igd_ray.attacks.adaptive.warm_start import WHITE_BOX
from igd_ray.attacks.registry import AUDIT_EOT, register


@dataclass(frozen=True, repr=False)
class JointLossAPGD(TwoPassAttack):
    """APGD on L(z⁽¹⁾, y) + L(z, y), z⁽¹⁾ the first pass's logits and z the final ones.

    Idea: the pseudo-label is almost one-hot (τ = 0.01), so that the gradient of the final logits hardly reaches the
    first pass. The first term drives the pseudo-label wrong, and with it the mask. The second term drives the answer
    wrong under any mask. Gradients flow through both passes. Source: the sum of a classifier's and a
    detector's loss in Carlini & Wagner, AISec 2017; Tramèr et al., NeurIPS 2020.
    """

    name: ClassVar[str] = "apgd-joint"
    cost: ClassVar[tuple[int, int]] = (2, 2)

    def objective(self, task: Task, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the final logits and the joint losses."""
        passes = task.target.two_pass()
        first = passes.first_logits(points)
        final = passes.masked_logits(points, passes.pseudo_labels(first))
        return final, image_losses(self.loss, first, task.labels) + image_losses(self.loss, final, task.labels)


# It follows gradients through both passes: its points are the white-box ends of others' lines.
register(
    "audit-joint-loss",
    partial(JointLossAPGD, "dlr", eot=AUDIT_EOT),
    budget="steps",
    idea="APGD on the sum of the first pass's loss and the final one, so that the pseudo-label, and with it the mask, "
    "is driven wrong by a term of its own.",
    gives=WHITE_BOX,
)
