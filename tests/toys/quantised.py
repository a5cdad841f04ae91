"""A defense in one file that the package does not know: pixels are rounded to a few levels, with noise before."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from igd_ray.defenses.base import Defense, drawn
from igd_ray.defenses.registry import DefenseKind, DefensePasses, Parts, as_settings, register
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError


@dataclass(frozen=True)
class QuantisedArguments:
    """Settings: how many levels a pixel has."""

    levels: int = 4

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise InputError(f"levels must be at least 2, not {self.levels}")


class Quantised(Defense):
    """The base model on rounded pixels; rounding passes gradients straight through."""

    def __init__(self, model: nn.Module, *, levels: int, sigma: float, draws: int, generator: Generator) -> None:
        super().__init__(model)
        self.levels, self.sigma, self.draws, self.generator = levels, sigma, draws, generator

    @property
    def is_random(self) -> bool:
        return self.sigma > 0

    @property
    def forward_passes(self) -> int:
        return self.draws

    def forward(self, x: Tensor) -> Tensor:
        if self.sigma == 0:
            return self.model(self.rounded(x))
        noisy = [x + self.sigma * drawn(torch.randn, tuple(x.shape), x, self.generator) for _ in range(self.draws)]
        return torch.stack([self.model(self.rounded(each)) for each in noisy]).mean(dim=0)

    def rounded(self, x: Tensor) -> Tensor:
        return x + (((x * (self.levels - 1)).round() / (self.levels - 1)) - x).detach()


@register
class QuantisedKind(DefenseKind):
    """`quantised`."""

    name = "quantised"
    arguments = QuantisedArguments
    takes_noise = True

    def passes(self, spec: DefenseSpec) -> DefensePasses:
        draws = spec.draws if spec.sigma and spec.draws else 1
        return DefensePasses(draws, 0, draws)

    def build(self, spec: DefenseSpec, parts: Parts) -> Quantised:
        settings = as_settings(dict(spec.arguments))
        return Quantised(
            parts.model, sigma=spec.sigma or 0, draws=spec.draws or 1, generator=parts.generator, **settings
        )
