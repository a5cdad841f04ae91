"""A ranking without information: the control that a method's gain must beat (Kulkarni & Weng, table 6)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from igd_ray.ranking.base import Input, Ranking, State, Statistic, register
from igd_ray.ranking.scores import NeuronScores


@register("random")
@dataclass(frozen=True)
class RandomRanking(Ranking):
    """Scores drawn uniformly from [0, 1), independently for every class."""

    reads: ClassVar[frozenset[Input]] = frozenset()
    uses_seed: ClassVar[bool] = True

    def statistics(self) -> tuple[Statistic, ...]:
        """Return nothing."""
        return ()

    def compute(self, state: State) -> Tensor:
        """Draw the scores."""
        layer = self.layer
        return random_scores(len(self.class_names), layer.width, seed=self.seed, layer=layer.name).scores


def random_scores(num_classes: int, width: int, *, seed: int, layer: str) -> NeuronScores:
    """Return scores drawn uniformly from [0, 1), float64 [num_classes, width], independently for every class.

    >>> random_scores(2, 3, seed=0, layer="penultimate").ranks()
    tensor([[0, 1, 2],
            [0, 2, 1]])
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_classes, width, generator=generator, dtype=torch.float64)
    return NeuronScores(scores, method="random", layer=layer, details={"seed": seed})
