"""Anti-adversary: the input is moved to where the base model is surer of the class that it predicts anyway.

γ = γ − α · sign ∇ CE(f(x + γ), argmax f(x)), `steps` times from γ = 0;  prediction = f(x + γ)

Source: Alfarra et al., "Combating adversaries with anti-adversaries", AAAI 2022.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.defenses.base import SteppingDefense, SteppingKind, require_steps
from igd_ray.defenses.registry import Parts, as_settings, register
from igd_ray.defenses.specs import DefenseSpec


@dataclass(frozen=True)
class AntiAdversaryArguments:
    """Settings of the anti-adversary, by default its authors'.

    Attributes:
        steps: how many steps; with 0 this is the base model.
        step_size: α ≥ 0, in [0, 1] pixel units; with 0 this is the base model.

    Raises:
        InputError: if a value is out of range.
    """

    steps: int = 2
    step_size: float = 0.15

    def __post_init__(self) -> None:
        require_steps(self.steps, self.step_size)


class AntiAdversaryDefense(SteppingDefense):
    """A base model whose input first takes sign-gradient steps towards its own prediction.

    The moved input x + γ is neither projected nor clipped. The gradient is exact: γ is constant almost everywhere,
    so it is the base model's gradient at x + γ.

    Args:
        model: the base model: [0, 1] images to logits [B, C].
        steps: how many steps; with 0 this is the base model.
        step_size: α ≥ 0, in [0, 1] pixel units; with 0 this is the base model.

    Raises:
        InputError: if a value is out of range.

    The first pixel is the logit of class 0, the second that of class 1; two steps of 0.15 support class 0:

    >>> image = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2)
    >>> AntiAdversaryDefense(nn.Flatten())(image)
    tensor([[0.9000, 0.1000]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int = AntiAdversaryArguments.steps,
        step_size: float = AntiAdversaryArguments.step_size,
    ) -> None:
        super().__init__(model)
        AntiAdversaryArguments(steps, step_size)
        self.steps = steps
        self.step_size = step_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, C] of images [B, channels, H, W] in [0, 1], moved first."""
        return self.model(x + self.anti_adversary(x))  # type: ignore[no-any-return]

    def anti_adversary(self, x: Tensor) -> Tensor:
        """Return γ, like `x`, without a gradient."""
        shift = torch.zeros_like(x)
        predicted: Tensor | None = None
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = (x.detach() + shift).requires_grad_()
                logits = self.model(leaf)
                if predicted is None:
                    predicted = logits.argmax(dim=1)
                # A sum, so that no image's gradient depends on how many others there are.
                loss = functional.cross_entropy(logits, predicted, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, [leaf])
            shift = shift - self.step_size * gradient.sign()
        return shift

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        return f"steps={self.steps}, step_size={self.step_size:g}"


@register
class AntiAdversaryKind(SteppingKind):
    """`anti-adversary`."""

    name = "anti-adversary"
    arguments = AntiAdversaryArguments

    def build(self, spec: DefenseSpec, parts: Parts) -> AntiAdversaryDefense:
        """Return the model behind its anti-adversary."""
        return AntiAdversaryDefense(parts.model, **as_settings(dict(spec.arguments)))
