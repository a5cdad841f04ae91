"""Hedge defense: the input is moved to where no class is certain, which undoes attacks more than it harms clean images.

x' = Π(x' + α · sign ∇ Σ_c CE(f(x'), c)), `steps` times;  prediction = f(x')
Π projects onto the ∞-norm ball of radius ε around x, and onto [0, 1].

Source: Wu et al., "Attacking adversarial attacks as a defense", 2021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.defenses.base import SteppingDefense, SteppingKind, drawn, require_steps
from igd_ray.defenses.registry import Arguments, Parts, Run, as_settings, register
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.threat import Norm


@dataclass(frozen=True)
class HedgeArguments:
    """Settings of the hedge, by default its authors'.

    Attributes:
        steps: how many steps; 0 without a random start is the base model.
        step_size: α ≥ 0, in [0, 1] pixel units.
        random_start: whether x' starts uniformly in the ball, and not at x.

    Raises:
        InputError: if a value is out of range.
    """

    steps: int = 20
    step_size: float = 4 / 255
    random_start: bool = False

    def __post_init__(self) -> None:
        require_steps(self.steps, self.step_size)


class HedgeDefense(SteppingDefense):
    """A base model whose input first takes sign-gradient steps that raise the cross-entropy to all classes at once.

    Its gradient is the base model's at x': a step's sign is constant almost everywhere. The projection onto [0, 1] is
    passed straight through (backward pass differentiable approximation, Athalye et al., 2018), as in Croce et al.,
    "Evaluating the adversarial robustness of adaptive test-time defenses", 2022: pixels that it holds at 0 or 1 would
    else have no gradient, and attacks would find less than there is.

    Args:
        model: the base model: [0, 1] images to logits [B, C].
        epsilon: ε in (0, 1], how far a pixel may move.
        steps: how many steps; 0 without a random start is the base model.
        step_size: α ≥ 0, in [0, 1] pixel units.
        random_start: whether x' starts uniformly in the ball, and not at x.
        generator: where random starts come from; required for them, never the global one.

    Raises:
        InputError: if a value is out of range, or a random start comes without a generator.

    The first pixel is the logit of class 0, the second that of class 1; one step moves them apart:

    >>> image = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2)
    >>> HedgeDefense(nn.Flatten(), epsilon=0.1, steps=1, step_size=0.05, random_start=False)(image)
    tensor([[0.6500, 0.3500]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        epsilon: float,
        steps: int = HedgeArguments.steps,
        step_size: float = HedgeArguments.step_size,
        random_start: bool = HedgeArguments.random_start,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model)
        if not 0 < epsilon <= 1:
            raise InputError(f"epsilon must lie in (0, 1], in [0, 1] pixel units, not {epsilon:g}")
        HedgeArguments(steps, step_size, random_start)
        if random_start and generator is None:
            raise InputError(
                "random_start needs generator=torch.Generator(): starts never come from the global generator"
            )
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = step_size
        self.random_start = random_start
        self.generator = generator

    @property
    def is_random(self) -> bool:
        """Whether starts are random."""
        return self.random_start

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, C] of images [B, channels, H, W] in [0, 1], moved first."""
        return self.model(self.moved(x))  # type: ignore[no-any-return]

    def moved(self, x: Tensor) -> Tensor:
        """Return x', like `x`, with its gradient."""
        with torch.no_grad():
            low, high = x - self.epsilon, x + self.epsilon
            start = x
            if self.random_start:
                start = low + 2 * self.epsilon * drawn(torch.rand, tuple(x.shape), x, self.generator)
            moved = start.clamp(0, 1)
            for _ in range(self.steps):
                stepped = moved + self.step_size * self._gradient(moved).sign()
                moved = stepped.clamp(low, high).clamp(0, 1)
        # x − x is 0 and carries the gradient: the loop's own graph would hold every step's images.
        return moved + (x - x.detach())

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        settings = f"epsilon={self.epsilon:g}, steps={self.steps}, step_size={self.step_size:g}"
        return f"{settings}, random_start={self.random_start}"

    def _gradient(self, point: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            to_all_classes = -functional.log_softmax(self.model(leaf), dim=1).sum()
            return torch.autograd.grad(to_all_classes, [leaf])[0]


@register
class HedgeKind(SteppingKind):
    """`hedge`."""

    name = "hedge"
    arguments = HedgeArguments

    def settle(self, arguments: Arguments, run: Run) -> Arguments:
        """Return the arguments with ε, that of the threat model."""
        norm, epsilon = run.threat.norm, run.threat.epsilon
        if norm is not Norm.LINF:
            raise InputError(f"hedge moves within an infinity-norm ball of eps; with --norm {norm.value} leave it out")
        return {**arguments, "epsilon": epsilon}

    def is_random(self, spec: DefenseSpec) -> bool:
        """Return whether starts are random."""
        return bool(dict(spec.arguments)["random_start"])

    def still(self, arguments: Arguments) -> Arguments:
        """Return the arguments without random starts."""
        return {**arguments, "random_start": False}

    def build(self, spec: DefenseSpec, parts: Parts) -> HedgeDefense:
        """Return the hedged model."""
        return HedgeDefense(parts.model, generator=parts.generator, **as_settings(dict(spec.arguments)))
