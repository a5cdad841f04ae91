"""The verdict on a point: a fresh evaluation of the target, with noise that the attack has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.models.anatomy.prediction import predicted_classes


@dataclass(frozen=True)
class Verdict:
    """Predictions of fresh evaluations.

    Attributes:
        predictions: int64 [draws, n]: the predicted class at each evaluation of each point.

    >>> Verdict(torch.tensor([[3, 5], [3, 1]])).broken(torch.tensor([3, 5]))
    tensor([[False, False],
            [False,  True]])
    """

    predictions: Tensor

    def broken(self, labels: Tensor) -> Tensor:
        """Return bool [draws, n]: which evaluations predict another class than `labels`, int64 [n]."""
        return self.predictions != labels


def judge(target: nn.Module, points: Tensor, generator: torch.Generator, *, seed: int, draws: int = 1) -> Verdict:
    """Evaluate `points` [n, C, H, W] in [0, 1] afresh, `draws` times.

    Args:
        target: the defended model, which draws its noise from `generator`.
        generator: is seeded with `seed` before the first evaluation.
        seed: derives from the unit's key, so that the verdict can be repeated.
        draws: number of evaluations.

    Raises:
        IgdError: if the target gives NaN or infinite logits for a point.
    """
    generator.manual_seed(seed)
    return Verdict(torch.stack([predicted_classes(target, points) for _ in range(draws)]))
