"""Scores of a layer's neurons for every class, and the ranking they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from igd_ray.errors import InputError


@dataclass(frozen=True)
class NeuronScores:
    """How important each neuron is to each class, by one method.

    Attributes:
        scores: float64 [C, N], finite; higher is more important. Comparable only within one method and probe set.
        method: the method's name, such as "loir".
        layer: the layer's name.
        details: what else the scores depend on (probe set, options), for people and for the identity.

    Raises:
        InputError: if `scores` is not a finite [C, N] tensor.
    """

    scores: Tensor
    method: str
    layer: str
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.scores.numel() == 0:
            raise InputError(f"scores must be [classes, neurons], not {list(self.scores.shape)}")
        if not torch.isfinite(self.scores).all():
            count = int((~torch.isfinite(self.scores)).sum())
            raise InputError(f"scores must be finite, but {count} of {self.scores.numel()} are NaN or infinite")

    def order(self) -> Tensor:
        """Return int64 [C, N]: each class's neurons from most to least important; ties keep the lower index first.

        >>> NeuronScores(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.4]]), method="loir", layer="layer4").order()
        tensor([[1, 2, 0],
                [2, 0, 1]])
        """
        return torch.argsort(self.scores, dim=1, descending=True, stable=True)

    def ranks(self) -> Tensor:
        """Return int64 [C, N]: each neuron's 0-based place in its class's order.

        >>> NeuronScores(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.4]]), method="loir", layer="layer4").ranks()
        tensor([[2, 0, 1],
                [1, 2, 0]])
        """
        order = self.order()
        return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
