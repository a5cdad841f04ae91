"""Class masks: the k most important neurons of each class are kept (Kulkarni & Weng, ECCV 2024, eq. 3)."""

import torch
from torch import Tensor

from igd_ray.errors import InputError
from igd_ray.ranking.scores import NeuronScores


def class_masks(scores: NeuronScores | Tensor, k: int) -> Tensor:
    """Return M, float32 [C, N]: M[c, i] = 1 if neuron i is among the k highest scores of class c, else 0.

    >>> class_masks(torch.tensor([[0.1, 0.9, 0.5]]), 2)
    tensor([[0., 1., 1.]])

    Args:
        scores: [C, N]; ties keep the lower index.
        k: how many neurons each class keeps, 1…N.

    Raises:
        InputError: if k is outside 1…N.
    """
    if isinstance(scores, Tensor):
        scores = NeuronScores(scores, method="given", layer="")
    width = scores.scores.shape[1]
    if not 1 <= k <= width:
        raise InputError(f"k must lie in 1…{width}, the neurons of layer {scores.layer or 'given'!r}, not {k}")
    keep = scores.order()[:, :k]
    return torch.zeros_like(scores.scores, dtype=torch.float32).scatter_(1, keep, 1.0)
