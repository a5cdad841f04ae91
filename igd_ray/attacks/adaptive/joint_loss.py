"""APGD on a joint loss over a defense's first-pass and final logits."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from igd_ray.attacks.adaptive.objective import TwoPassAttack, image_losses
from igd_ray.attacks.adaptive.warm_start import WHITE_BOX
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.threat import ThreatModel


@dataclass(frozen=True, repr=False)
class JointLossAPGD(TwoPassAttack):
    """APGD on L(z⁽¹⁾, y) + L(z, y), z⁽¹⁾ the first pass's logits and z the final ones.

    Idea: the final logits' gradient hardly reaches the first pass, whose pseudo-label is almost one-hot (τ = 0.01),
    so that it is driven wrong by a term of its own, and with it the mask; the other term drives the answer wrong
    under whatever mask there is. Gradients flow through both passes. Source: the sum of a classifier's and a
    detector's loss in Carlini & Wagner, AISec 2017; Tramèr et al., NeurIPS 2020.
    """

    name: ClassVar[str] = "apgd-joint"
    cost: ClassVar[tuple[int, int]] = (2, 2)

    def run(
        self,
        number: int,
        target: CountedTarget,
        images: Tensor,
        labels: Tensor,
        rows: Tensor,
        threat: ThreatModel,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Climb the joint loss."""
        passes = target.two_pass()

        def objective(points: Tensor) -> tuple[Tensor, Tensor]:
            first = passes.first_logits(points)
            final = passes.masked_logits(points, passes.pseudo_labels(first))
            return final, image_losses(self.loss, first, labels) + image_losses(self.loss, final, labels)

        return self.climb(objective, images, labels, threat, seed)


# It follows gradients through both passes: its points are the white-box ends of others' lines.
register(
    "audit-joint-loss",
    partial(JointLossAPGD, "dlr", eot=AUDIT_EOT),
    budget="steps",
    idea="APGD on the sum of the first pass's loss and the final one, so that the pseudo-label, and with it the mask, "
    "is driven wrong by a term of its own.",
    gives=WHITE_BOX,
)
