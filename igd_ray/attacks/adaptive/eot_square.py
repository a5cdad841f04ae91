"""Square on a randomised target: every query is asked several times and the margins are averaged."""

from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from igd_ray.attacks.apgd import require_positive
from igd_ray.attacks.base import QUERY, UNSTATED, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import NORM_NAMES, forked_generators, moved_points
from igd_ray.attacks.registry import AUDIT_EOT, register
from igd_ray.threat import ThreatModel, predicted_classes


@dataclass(frozen=True, repr=False)
class EoTSquare(Attack):
    """Square attack on the mean margin over `eot` answers, of the images that the target gets right.

    Idea: noise makes single answers of a defense poor guides; a random search keeps steps that were luck. The mean
    over several answers estimates the expected margin, of which no gradient is needed. The point is the one of lowest
    mean margin, also where that is not negative. Source: Square (Andriushchenko et al., ECCV 2020) with expectation
    over transformation (Athalye et al., ICML 2018).

    Args:
        queries: how many points per image are tried at most, besides the start; each costs `eot` queries.
        eot: answers averaged per point.
    """

    name: ClassVar[str] = "square-eot"

    queries: int = 5000
    _: KW_ONLY
    eot: int = 20
    collapsed_eot: int = field(default=1, init=False, metadata=UNSTATED)

    def __post_init__(self) -> None:
        require_positive(queries=self.queries, eot=self.eot)

    @property
    def ways(self) -> frozenset[str]:
        """It asks for logits only."""
        return frozenset({QUERY})

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then `eot` answers for the start and for each point."""
        return (self.queries + 1) * self.eot + 2 + self.guard_passes, 0

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's Square on the mean margins."""
        before = target.queries, target.forwards, target.backwards
        adversarial = images.clone()
        rows = (predicted_classes(target, images) == labels).nonzero().flatten()
        if len(rows):
            attack = _MeanMarginSquare(
                target,
                norm=NORM_NAMES[threat.norm],
                n_queries=self.queries,
                eps=threat.epsilon,
                p_init=0.8,
                seed=seed,
                device=images.device,
                resc_schedule=False,
            )
            attack.eot, attack.equal = self.eot, self.collapsed_eot
            with forked_generators(images.device):
                torch.random.manual_seed(seed)
                attack.init_hyperparam(images)
                _, points = attack.attack_single_run(images[rows], labels[rows])
            adversarial[rows] = points
        return moved_points(adversarial, self.name, target, before, images)


# Fewer queries than the published 5000: each costs as many answers as are averaged.
register(
    "audit-square-eot",
    partial(EoTSquare, queries=1000, eot=AUDIT_EOT),
    budget="queries",
    idea="Square, which needs no gradients, on the mean margin over several answers to each query, so that it keeps no "
    "step that was luck of the noise.",
)


class _MeanMarginSquare(SquareAttack):  # type: ignore[misc]
    """Square on the mean of the margin over `eot` answers.

    Attributes:
        eot: at least 1.
        equal: how many equal answers each of them stands for, at least 1.
    """

    eot: int
    equal: int

    def margin_and_loss(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean margin of `points`, [n], as the margin and as the loss."""
        margins = [super(_MeanMarginSquare, self).margin_and_loss(points, labels)[0] for _ in range(self.eot)]
        # Repeated, so that the mean is rounded as that of so many answers is.
        mean = torch.stack(margins * self.equal).mean(dim=0)
        return mean, mean.clone()
