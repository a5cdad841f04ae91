"""What a target with useless gradients may offer to adaptive attacks: the gradients of a stand-in.

Where a step passes no gradients on, an attack replaces it in the backward pass by one that does (backward pass
differentiable approximation: Athalye, Carlini & Wagner, ICML 2018).
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Surrogate(Protocol):
    """A target with a stand-in for its gradient.

    Attributes:
        surrogate_passes: of one image through the base model: forwards and backwards that `surrogate_logits` costs,
            and backwards of its gradient on top.
    """

    surrogate_passes: tuple[int, int, int]

    def surrogate_logits(self, x: Tensor) -> Tensor:
        """Return the target's logits, [B, C], at images [B, channels, H, W]; their gradient is the stand-in's."""
        ...
