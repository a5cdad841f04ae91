"""Randomised smoothing of logits: the mean over passes with Gaussian noise (Cohen et al., ICML 2019, on logits).

z = (1/m) Σ_j f(x + σ·n_j),  n_j ~ N(0, I)          (the first pass of Kulkarni & Weng, ECCV 2024, eq. 6)
"""

import math

import torch
from torch import Tensor, nn

from igd_ray.defenses.base import Defense, drawn
from igd_ray.defenses.registry import DefenseKind, DefensePasses, Parts, register
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError


class Smoothed(Defense):
    """A defense with a noisy pass. Noise is added to pixels and not clipped.

    Args:
        model: the base model: [0, 1] images to logits [B, C].
        sigma: σ ≥ 0, the noise's standard deviation in [0, 1] pixel units.
        draws: m ≥ 1, noise draws averaged; 1 without noise.
        generator: where the noise of every call comes from; required with σ > 0, never the global one.

    Raises:
        InputError: if a value is out of range, or σ > 0 comes without a generator.
    """

    def __init__(self, model: nn.Module, *, sigma: float, draws: int, generator: torch.Generator | None) -> None:
        super().__init__(model)
        if not 0 <= sigma < math.inf:
            raise InputError(f"sigma must be at least 0 and finite, in [0, 1] pixel units, not {sigma:g}")
        if draws < 1:
            raise InputError(f"draws must be at least 1, not {draws}")
        if sigma > 0 and generator is None:
            raise InputError("sigma > 0 needs generator=torch.Generator(): noise never comes from the global generator")
        self.sigma = sigma
        self.draws = draws if sigma > 0 else 1
        self.generator = generator

    @property
    def is_random(self) -> bool:
        """Whether there is noise."""
        return self.sigma > 0

    def smoothed_logits(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Return the mean over the noise draws of the base model's logits, [B, C]; f(x) with σ = 0.

        Args:
            x: images [B, channels, H, W].
            noise: n_j, [draws, B, channels, H, W] or, with one draw, like `x`; drawn from the generator by default.

        Raises:
            InputError: if the noise has another shape.
        """
        if self.sigma == 0:
            return self.model(x)  # type: ignore[no-any-return]
        if noise is None:
            noise = self.draw_noise(x)
        elif noise.shape != (self.draws, *x.shape) and not (self.draws == 1 and noise.shape == x.shape):
            raise InputError(f"noise must be [draws, *x.shape] = {[self.draws, *x.shape]}, not {list(noise.shape)}")
        noisy = (x + self.sigma * noise.reshape(self.draws, *x.shape)).flatten(0, 1)
        logits: Tensor = self.model(noisy)
        return logits.view(self.draws, len(x), logits.shape[1]).mean(dim=0)

    def draw_noise(self, x: Tensor) -> Tensor:
        """Draw n_j, [draws, B, channels, H, W]."""
        return drawn(torch.randn, (self.draws, *x.shape), x, self.generator)


class SmoothingOnly(Smoothed):
    """One pass with noise and no masks ("one pass, RS" of Kulkarni & Weng, ECCV 2024, table 6).

    Args:
        model: the base model: [0, 1] images to logits [B, C].
        sigma: σ ≥ 0, the noise's standard deviation in [0, 1] pixel units; with 0 this is the base model.
        draws: m ≥ 1, noise draws whose logits are averaged; 1 without noise.
        generator: where the noise of every call comes from; required with σ > 0, never the global one.

    Raises:
        InputError: if a value is out of range, or σ > 0 comes without a generator.

    The pixels are the logits; the mean over two draws of noise, 1 and 0, times σ = 0.1:

    >>> defense = SmoothingOnly(nn.Flatten(), sigma=0.1, draws=2, generator=torch.Generator())
    >>> image = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2)
    >>> defense(image, noise=torch.stack([torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)]))
    tensor([[0.6500, 0.4500]])
    """

    def __init__(
        self, model: nn.Module, *, sigma: float, draws: int = 1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(model, sigma=sigma, draws=draws, generator=generator)

    @property
    def forward_passes(self) -> int:
        """One pass per draw."""
        return self.draws

    def forward(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Return the smoothed logits, see `smoothed_logits`."""
        return self.smoothed_logits(x, noise=noise)

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        return f"sigma={self.sigma:g}, draws={self.draws}"


@register
class SmoothingOnlyKind(DefenseKind):
    """`smoothing-only`."""

    name = "smoothing-only"
    takes_noise = True

    def passes(self, spec: DefenseSpec) -> DefensePasses:
        """Return one pass per draw."""
        draws = (spec.draws or 1) if spec.sigma else 1
        return DefensePasses(draws, 0, draws)

    def build(self, spec: DefenseSpec, parts: Parts) -> nn.Module:
        """Return the smoothed model."""
        assert spec.sigma is not None
        return SmoothingOnly(parts.model, sigma=spec.sigma, draws=spec.draws or 1, generator=parts.generator)
