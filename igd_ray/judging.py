"""The verdict on a point: the target is asked afresh, with noise of its own, never the attack's."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.models.anatomy.prediction import predicted_classes


@dataclass(frozen=True)
class Verdict:
    """What fresh evaluations of some points said.

    Attributes:
        predictions: int64 [draws, n]: the class given at each evaluation.
    """

    predictions: Tensor

    def broken(self, labels: Tensor) -> Tensor:
        """Return bool [draws, n]: which evaluation gives another class than the label."""
        return self.predictions != labels


def judge(target: nn.Module, points: Tensor, generator: torch.Generator, *, seed: int, draws: int = 1) -> Verdict:
    """Evaluate `points` [n, C, H, W] afresh.

    Args:
        target: the defended model; `generator` is where it takes its noise from.
        generator: seeded with `seed` before the first evaluation.
        seed: derived from the unit's key, so that anyone can repeat the verdict.
        draws: how many evaluations.

    Raises:
        IgdError: if the target gives NaN logits for a point.
    """
    generator.manual_seed(seed)
    return Verdict(torch.stack([predicted_classes(target, points) for _ in range(draws)]))
