"""APGD on a joint loss over a defense's first-pass and final logits."""

from torch import Tensor

from igd_ray.attacks.adaptive.objective import TwoPassAttack, image_losses
from igd_ray.attacks.counting import CountedTarget
from igd_ray.threat import ThreatModel


class JointLossAPGD(TwoPassAttack):
    """APGD on L(z⁽¹⁾, y) + L(z, y), z⁽¹⁾ the first pass's logits and z the final ones.

    Idea: the final logits' gradient hardly reaches the first pass, whose pseudo-label is almost one-hot (τ = 0.01),
    so that it is driven wrong by a term of its own, and with it the mask; the other term drives the answer wrong
    under whatever mask there is. Gradients flow through both passes. Source: the sum of a classifier's and a
    detector's loss in Carlini & Wagner, AISec 2017; Tramèr et al., NeurIPS 2020.
    """

    stage = "apgd-joint"
    cost = (2, 2)

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
