"""Counts what an attack asks of its target, whatever code the attack is."""

from typing import Any

import torch
from torch import Tensor, nn


class CountedTarget(nn.Module):
    """A target's logits, with counts of the images that went forward and came back as gradients.

    It also hands the attack contiguous tensors: some attacks call `.view` on images and gradients, which fails on
    channels-last memory.

    Attributes:
        queries: images for which the target was asked for logits.
        forwards, backwards: passes of one image through the base model. A defense that runs its base model several
            times a call says so: `forward_passes` and `inner_backward_passes`, what a query costs with or without a
            gradient (1 and 0 by default), and `backward_passes`, what a gradient of the logits costs on top
            (`forward_passes` by default).
    """

    def __init__(self, target: nn.Module) -> None:
        super().__init__()
        # Not registered as a submodule: the counter is a view on the target, not its owner.
        self.__dict__["target"] = target
        self._forwards_per_query = int(getattr(target, "forward_passes", 1))
        self._backwards_per_query = int(getattr(target, "inner_backward_passes", 0))
        self._backwards_per_gradient = int(getattr(target, "backward_passes", self._forwards_per_query))
        self.queries = 0
        self._gradient_queries = 0
        self._num_classes: int | None = None

    @property
    def forwards(self) -> int:
        """Forward passes of the base model so far."""
        return self.queries * self._forwards_per_query

    @property
    def backwards(self) -> int:
        """Backward passes of the base model so far."""
        return self.queries * self._backwards_per_query + self._gradient_queries * self._backwards_per_gradient

    def num_classes(self, images: Tensor) -> int:
        """Return the number of classes, from the last logits seen or, counted, those of the first of `images`."""
        if self._num_classes is None:
            with torch.no_grad():
                self(images[:1])
        assert self._num_classes is not None
        return self._num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Return the target's logits [B, C] for `images` [B, channels, H, W]."""
        self.queries += len(images)
        if images.requires_grad:
            images = _ContiguousGradient.apply(images)  # type: ignore[no-untyped-call]
        logits: Tensor = self.__dict__["target"](images.contiguous())
        self._num_classes = logits.shape[1]
        if logits.requires_grad:
            logits.register_hook(self._count_gradient)  # type: ignore[no-untyped-call]
        return logits

    def _count_gradient(self, gradient: Tensor) -> None:
        self._gradient_queries += len(gradient)


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose gradient is contiguous."""

    @staticmethod
    def forward(_context: Any, images: Tensor) -> Tensor:
        # Unlike a view, this keeps the strides as they are, and with them the rounding of what follows.
        return images.detach()

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()
