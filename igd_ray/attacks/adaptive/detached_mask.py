"""APGD with the mask taken out of the backward pass (BPDA)."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.objective import Task, TwoPassAttack, image_losses
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.errors import InputError, did_you_mean

CONSTANT, IDENTITY = "constant", "identity"


@dataclass(frozen=True, repr=False)
class DetachedMaskAPGD(TwoPassAttack):
    """APGD whose forward pass is the defense and whose backward pass ignores how the mask came about.

    Idea: an almost one-hot pseudo-label has gradients that are zero or explode; the attack replaces them in the
    backward pass by something that behaves (BPDA; Athalye et al., ICML 2018). With "constant" the mask is a constant:
    gradients flow through the neurons it keeps. With "identity" the masking counts as the identity: the gradient at
    the defense's logits is pulled back through the first pass, with all neurons.

    Args:
        loss, steps, eot: as in `ObjectiveAPGD`.
        backward: "constant" or "identity".
    """

    name: ClassVar[str] = "apgd-detached-mask"
    cost: ClassVar[tuple[int, int]] = (2, 1)

    backward: str = field(default=CONSTANT, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (CONSTANT, IDENTITY)
        if self.backward not in known:
            raise InputError(
                f"backward must be one of {', '.join(known)}, not {self.backward!r}{did_you_mean(self.backward, known)}"
            )

    def objective(self, task: Task, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the defense's logits, with the replaced gradient, and their losses."""
        logits = self.logits(task.target, points)
        return logits, image_losses(self.loss, logits, task.labels)

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


register(
    "audit-detached-mask",
    partial(DetachedMaskAPGD, "cw", eot=AUDIT_EOT, backward=CONSTANT),
    budget="steps",
    idea="APGD that takes the mask for a constant in the backward pass (BPDA), because the gradients of an almost "
    "one-hot pseudo-label vanish or explode.",
)
register(
    "audit-identity-mask",
    partial(DetachedMaskAPGD, "cw", eot=AUDIT_EOT, backward=IDENTITY),
    budget="steps",
    idea="APGD that takes the masking for the identity in the backward pass (BPDA), so that gradients flow through the "
    "neurons that the mask removes, too.",
)
