"""A ranking without information: the control that a method's gain must beat (Kulkarni & Weng, table 6)."""

import torch

from igd_ray.ranking.scores import NeuronScores


def random_scores(num_classes: int, width: int, *, seed: int, layer: str) -> NeuronScores:
    """Return scores drawn uniformly from [0, 1), float64 [num_classes, width], independently for every class."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_classes, width, generator=generator, dtype=torch.float64)
    return NeuronScores(scores, method="random", layer=layer, details={"seed": seed})
