"""What a model was asked for, counted where it happens and knowing nothing of the counters under test."""

from typing import Any, Self

from torch import Tensor, nn


class PassCounter:
    """Counts the images that enter `first_layer` and the image gradients that come back to it, until it is closed.

    Every pass of a base model runs its first layer once, whatever a defense does around it.
    """

    def __init__(self, first_layer: nn.Module) -> None:
        self.forwards = self.backwards = 0
        self._handle = first_layer.register_forward_hook(self._count_forward)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._handle.remove()

    def _count_forward(self, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.forwards += len(inputs[0])
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def hooks_of(model: nn.Module) -> int:
    """The number of hooks on the modules of a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
