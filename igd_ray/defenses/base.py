"""What every defense is: a base model, unchanged, with something done around it at test time."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from igd_ray.defenses.registry import DefenseKind, DefensePasses
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError


class Defense(nn.Module):
    """Images [B, channels, H, W] in [0, 1] to logits [B, C], with gradients, around a base model.

    A defense is never trained: it and its base model stay in eval mode, and `train()` has no effect. Its
    randomness comes from a generator that it is given, never from the global one.

    Args:
        model: the base model: [0, 1] images to logits [B, C].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: batch statistics would make a prediction depend on the batch, and change the model."""
        return super().train(False)

    @property
    def is_random(self) -> bool:
        """Whether two calls on the same images may differ."""
        return False

    @property
    def forward_passes(self) -> int:
        """Forward passes of the base model that one image costs, with or without a gradient."""
        return 1

    @property
    def inner_backward_passes(self) -> int:
        """Backward passes of the base model that the defense itself makes for one image, even without gradients."""
        return 0

    @property
    def backward_passes(self) -> int:
        """Backward passes of the base model that a gradient of one image's logits costs, besides the inner ones."""
        return self.forward_passes


class SteppingDefense(Defense):
    """A base model whose input first moves by sign-gradient steps; the gradient of the logits is taken at its end.

    Attributes:
        steps: how many, at least 0.
        step_size: at least 0 and finite, in [0, 1] pixel units.
    """

    steps: int
    step_size: float

    @property
    def forward_passes(self) -> int:
        """One pass per step, and the last pass."""
        return self.steps + 1

    @property
    def inner_backward_passes(self) -> int:
        """One pass per step."""
        return self.steps

    @property
    def backward_passes(self) -> int:
        """The last pass alone."""
        return 1


class SteppingKind(DefenseKind):
    """A kind whose defenses are `SteppingDefense`s, with the argument `steps`."""

    def passes(self, spec: DefenseSpec) -> DefensePasses:
        """Return a forward and a backward pass per step, and one of each for the logits at its end."""
        steps = int(dict(spec.arguments)["steps"])
        return DefensePasses(steps + 1, steps, 1)


def drawn(
    sample: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Return `sample` (`torch.randn` or `torch.rand`) of `shape`, with the device and dtype of `like`.

    It is drawn in float32 on the generator's device, so that a seed means the same anywhere.
    """
    assert generator is not None
    return sample(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)


def require_steps(steps: int, step_size: float) -> None:
    """Check the settings of a defense that moves its input by sign-gradient steps.

    Raises:
        InputError: if there are fewer than 0 steps, or their size is negative or not finite.
    """
    if steps < 0:
        raise InputError(f"steps must be at least 0, not {steps}")
    if not 0 <= step_size < math.inf:
        raise InputError(f"step_size must be at least 0 and finite, in [0, 1] pixel units, not {step_size:g}")
