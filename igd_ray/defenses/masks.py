"""Class masks: the k most important neurons of each class are kept (Kulkarni & Weng, ECCV 2024, eq. 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from igd_ray.errors import InputError
from igd_ray.ranking.scores import NeuronScores


def class_masks(scores: NeuronScores | Tensor, k: int | Sequence[int] | Tensor) -> Tensor:
    """Return M, float32 [C, N]: M[c, i] = 1 if neuron i is among the k highest scores of class c, else 0.

    >>> class_masks(torch.tensor([[0.1, 0.9, 0.5]]), 2)
    tensor([[0., 1., 1.]])

    Args:
        scores: [C, N]; ties keep the lower index.
        k: how many neurons each class keeps, 1…N; one number, or a vector [C].

    Raises:
        InputError: if a k is outside 1…N, or there is not one for each class.
    """
    if isinstance(scores, Tensor):
        scores = NeuronScores(scores, method="given", layer="")
    classes, width = scores.scores.shape
    kept = torch.as_tensor(k).tolist()
    vector = [kept] * classes if isinstance(kept, int) else list(kept)
    if len(vector) != classes:
        raise InputError(f"k must be one number or one for each of {classes} classes, not {len(vector)} numbers")
    wrong = next((each for each in vector if not 1 <= each <= width), None)
    if wrong is not None:
        raise InputError(f"k must lie in 1…{width}, the neurons of layer {scores.layer or 'given'!r}, not {wrong}")
    # Position r of a class's order is kept where r < k.
    keep = (torch.arange(width) < torch.tensor(vector)[:, None]).to(torch.float32)
    return torch.zeros(classes, width).scatter_(1, scores.order().cpu(), keep).to(scores.scores.device)
