"""What a defense may offer to adaptive attacks: its two passes one by one.

A defense of two passes lets a first prediction choose how the second one is computed; attacks on such a defense aim
at either pass (Tramèr et al., NeurIPS 2020: attack every part of a defense, not only its end).
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class TwoPass(Protocol):
    """A target whose logits are `masked_logits(x, pseudo_labels(first_logits(x)))`, for images x [B, channels, H, W].

    Attributes:
        draws: forward passes of the base model per image that `first_logits` costs; `masked_logits` costs one.
    """

    draws: int

    def first_logits(self, x: Tensor) -> Tensor:
        """Return the first pass's logits, [B, C]."""
        ...

    def pseudo_labels(self, first_logits: Tensor) -> Tensor:
        """Return the class weights [B, C], ≥ 0 and of sum 1, that the second pass is computed with."""
        ...

    def masked_logits(self, x: Tensor, class_weights: Tensor) -> Tensor:
        """Return the second pass's logits, [B, C], for the given class weights."""
        ...
