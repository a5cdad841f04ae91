"""Anti-adversary: the input is moved to where the base model is surer of the class that it predicts anyway.

γ = γ − α · sign ∇ CE(f(x + γ), argmax f(x)), `steps` times from γ = 0;  prediction = f(x + γ)

Source: Alfarra et al., "Combating adversaries with anti-adversaries", AAAI 2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.defenses.base import Defense, require_steps


class AntiAdversaryDefense(Defense):
    """A base model whose input first takes sign-gradient steps towards its own prediction.

    The moved input x + γ is neither projected nor clipped. The gradient is exact: γ is constant almost everywhere,
    so it is the base model's gradient at x + γ.

    Args:
        model: the base model: [0, 1] images to logits [B, C].
        steps: how many steps; with 0 this is the base model.
        step_size: α ≥ 0, in [0, 1] pixel units; with 0 this is the base model.

    Raises:
        InputError: if a value is out of range.
    """

    def __init__(self, model: nn.Module, *, steps: int = 2, step_size: float = 0.15) -> None:
        super().__init__(model)
        require_steps(steps, step_size)
        self.steps = steps
        self.step_size = step_size

    @property
    def forward_passes(self) -> int:
        """One pass a step, the first of which also predicts the class, and the last."""
        return self.steps + 1

    @property
    def inner_backward_passes(self) -> int:
        """One pass a step."""
        return self.steps

    @property
    def backward_passes(self) -> int:
        """The last pass alone."""
        return 1

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
