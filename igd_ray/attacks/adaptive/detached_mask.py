"""APGD with the mask taken out of the backward pass (BPDA)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.objective import TwoPassAttack, image_losses
from igd_ray.attacks.counting import CountedTarget
from igd_ray.errors import InputError, did_you_mean
from igd_ray.threat import ThreatModel

CONSTANT, IDENTITY = "constant", "identity"


class DetachedMaskAPGD(TwoPassAttack):
    """APGD whose forward pass is the defense and whose backward pass ignores how the mask came about.

    Idea: an almost one-hot pseudo-label has gradients that are zero or explode; the attack replaces them in the
    backward pass by something that behaves (BPDA; Athalye et al., ICML 2018). With "constant" the mask is a constant:
    gradients flow through the neurons it keeps. With "identity" the masking counts as the identity: the gradient at
    the defense's logits is pulled back through the first pass, with all neurons.

    Args:
        loss, steps, eot: as in `ClimbingAttack`.
        backward: "constant" or "identity".
    """

    stage = "apgd-detached-mask"
    cost = (2, 1)

    def __init__(self, loss: str = "ce", *, steps: int = 100, eot: int = 1, backward: str = CONSTANT) -> None:
        super().__init__(loss, steps=steps, eot=eot)
        known = (CONSTANT, IDENTITY)
        if backward not in known:
            raise InputError(
                f"backward must be one of {', '.join(known)}, not {backward!r}{did_you_mean(backward, known)}"
            )
        self.backward = backward

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {**super().settings, "backward": self.backward}

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
        """Climb the loss of the defense's logits along the replaced gradient."""

        def objective(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(target, points)
            return logits, image_losses(self.loss, logits, labels)

        return self.climb(objective, images, labels, threat, seed)

    def logits(self, target: CountedTarget, points: Tensor) -> Tensor:
        """Return the defense's logits [n, C] at `points`, with the replaced gradient."""
        passes = target.two_pass()
        if self.backward == CONSTANT:
            with torch.no_grad():
                weights = passes.pseudo_labels(passes.first_logits(points))
            return passes.masked_logits(points, weights)
        first = passes.first_logits(points)
        with torch.no_grad():
            final = passes.masked_logits(points, passes.pseudo_labels(first))
        # x − x is exactly zero, so that the sum has the value of `final`.
        return final + (first - first.detach())
