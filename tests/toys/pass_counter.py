"""Counts passes through a base model where they happen, knowing nothing of the counter under test."""

from typing import Any, Self

from torch import Tensor, nn


class PassCounter:
    """While open, counts the images that enter `first_layer` and the image gradients that come back to it.

    Every pass of a base model runs its first layer once, whatever a defense does around it.
    """

    def __init__(self, first_layer: nn.Module) -> None:
        self._first_layer = first_layer
        self.forwards = 0
        self.backwards = 0

    def __enter__(self) -> Self:
        self._handle = self._first_layer.register_forward_hook(self._count_forward)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._handle.remove()

    def _count_forward(self, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.forwards += len(inputs[0])
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
