"""Attacks whose points are computed on the base model and evaluated on a defense.

They run on all images, also those that the base model gets wrong: a defense tends to lose images near the boundary
(Croce et al., ICML 2022). Two points an image are kept, and a defense is broken if either breaks it: the one of
highest loss, which is what Croce et al.'s code returns, and the last misclassified one, if there was any.
"""

from collections.abc import Mapping

import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor

from igd_ray.attacks.apgd import APGD
from igd_ray.attacks.base import Points, even_shares
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import NORM_NAMES, SILENT, forked_generators
from igd_ray.threat import ThreatModel

HIGHEST_LOSS = "highest-loss"
LAST_MISCLASSIFIED = "last-misclassified"


class TransferAPGD(APGD):
    """One run of APGD on every image, from a uniform random start in the ball, that keeps both points."""

    point_name = HIGHEST_LOSS

    def __init__(self, loss: str = "ce", *, steps: int = 100) -> None:
        super().__init__(loss, steps=steps)

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {**super().settings, "keeps": [HIGHEST_LOSS, LAST_MISCLASSIFIED]}

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's APGD once and keep the two points."""
        attack = APGDAttack(
            target,
            n_iter=self.steps,
            norm=NORM_NAMES[threat.norm],
            eps=threat.epsilon,
            seed=seed,
            loss=self.loss,
            rho=0.75,
            device=images.device,
            logger=SILENT,
        )
        before = target.queries, target.forwards, target.backwards
        with forked_generators(images.device):
            torch.random.manual_seed(seed)
            attack.init_hyperparam(images)
            highest_loss, still_correct, _, misclassified = attack.attack_single_run(images.clone(), labels)
        queries, forwards, backwards = even_shares(target, before, len(images), images.device)
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        fooled = ~still_correct.bool()
        stages: list[str | None] = [f"apgd-{self.loss}"] * len(images)
        return Points(
            highest_loss.detach(),
            stages,
            everywhere,
            queries,
            forwards,
            backwards,
            alternatives={LAST_MISCLASSIFIED: (misclassified.detach(), fooled)},
        )
