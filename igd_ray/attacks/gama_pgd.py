"""GAMA-PGD: PGD on the probability margin, guided at first by the distance from the clean prediction.

Sriramanan et al., "Guided adversarial attack for evaluating and enhancing adversarial defenses", NeurIPS 2020.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from igd_ray.attacks.apgd import require_positive
from igd_ray.attacks.base import Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pgd import project, random_points, steepest
from igd_ray.attacks.pyautoattack import moved_points
from igd_ray.attacks.registry import register
from igd_ray.errors import InputError
from igd_ray.threat import ThreatModel, predicted_classes

# The step is 2 · eps, divided by ten at these shares of all steps: at steps 60 and 85 of 100.
FIRST_STEP = 2.0
SHORTER_AT = (0.6, 0.85)

# The weight of the guide, and after which share of all steps it has decayed to nothing: after 25 of 100.
GUIDE_WEIGHT, GUIDED = 50.0, 0.25


@dataclass(frozen=True, repr=False)
class GAMAPGD(Attack):
    """GAMA-PGD on the images that the target gets right; it returns the last iterate, misclassified or not.

    Args:
        steps: gradient steps.
        guide_weight: λ, what the squared distance between the predicted probabilities weighs at the first step.
    """

    name: ClassVar[str] = "gama-pgd"

    steps: int = 100
    _: KW_ONLY
    guide_weight: float = GUIDE_WEIGHT

    def __post_init__(self) -> None:
        require_positive(steps=self.steps)
        if not 0 <= self.guide_weight < float("inf"):
            raise InputError(f"guide_weight must be 0 or more, not {self.guide_weight:g}")

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes, at the image and at its probabilities, then the steps."""
        return self.steps + 3, self.steps

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Climb from a random point of the ball."""
        before = target.queries, target.forwards, target.backwards
        adversarial = images.clone()
        rows = (predicted_classes(target, images) == labels).nonzero().flatten()
        if len(rows):
            start = random_points(images[rows], threat, Generator().manual_seed(seed))
            adversarial[rows] = self._climb(target, images[rows], labels[rows], start, threat)
        return moved_points(adversarial, self.name, target, before, images)

    def _climb(
        self, target: CountedTarget, images: Tensor, labels: Tensor, points: Tensor, threat: ThreatModel
    ) -> Tensor:
        with torch.no_grad():
            clean = target(images).softmax(dim=1)
        for step in range(self.steps):
            points = points.detach().requires_grad_()
            probabilities = target(points).softmax(dim=1)
            weight = self.guide_weight * max(0.0, 1 - step / (GUIDED * self.steps))
            loss = probability_margin(probabilities, labels) + weight * (probabilities - clean).square().sum(dim=1)
            (gradient,) = torch.autograd.grad(loss.sum(), [points])
            size = FIRST_STEP / 10 ** sum(step >= share * self.steps for share in SHORTER_AT)
            points = project(points.detach() + size * threat.epsilon * steepest(gradient, threat.norm), images, threat)
        return points


def probability_margin(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the highest probability of another class minus that of the label, [n].

    >>> probability_margin(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0])).tolist()
    [-0.25]

    Args:
        probabilities: [n, C].
        labels: int64 [n].
    """
    true = one_hot(labels, probabilities.shape[1]).bool()
    return probabilities.masked_fill(true, 0).amax(dim=1) - probabilities[true]


register("gama-pgd", GAMAPGD, budget="steps")
