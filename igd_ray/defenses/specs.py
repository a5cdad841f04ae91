"""Defense labels, and the settings that a label stands for together with σ, τ, draws and a layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash
from igd_ray.models.layers import Layer

NONE = "none"

# Masking defenses, by the ranking method whose masks they use.
MASKING: Mapping[str, str] = {"loir": "loir", "cdir": "cdir", "random": "random"}


@dataclass(frozen=True)
class DefenseLabel:
    """What a label asks for: no defense, or masks of the k best neurons by `method`."""

    label: str
    method: str | None
    k: int | None


def parse_defense(label: str) -> DefenseLabel:
    """Return what `label` asks for: `none`, `loir-K`, `cdir-K` or `random-K`.

    Raises:
        InputError: if there is no such defense, naming close matches.
    """
    if label == NONE:
        return DefenseLabel(label, None, None)
    name, _, number = label.rpartition("-")
    if name in MASKING and re.fullmatch(r"[1-9]\d*", number):
        return DefenseLabel(label, MASKING[name], int(number))
    forms = [NONE, *(f"{known}-K" for known in MASKING)]
    raise InputError(
        f"unknown defense {label!r}; known: {', '.join(forms)}, K neurons kept{did_you_mean(label, forms)}"
    )


@dataclass(frozen=True)
class DefenseSpec:
    """A defense with all of its settings.

    Attributes:
        label: for display.
        model_id: the base model's fingerprint.
        k, sigma, tau, draws, layer, ranking_id: None without a defense.
    """

    label: str
    model_id: str
    k: int | None = None
    sigma: float | None = None
    tau: float | None = None
    draws: int | None = None
    layer: Layer | None = None
    ranking_id: str | None = None

    @property
    def defense_id(self) -> str:
        """The hash of everything that the defended model computes, noise draws excepted."""
        return content_hash(
            {
                "model": self.model_id,
                "k": self.k,
                "sigma": self.sigma,
                "tau": self.tau,
                "draws": self.draws,
                "layer": [self.layer.module, self.layer.side] if self.layer else None,
                "ranking": self.ranking_id,
            }
        )

    @property
    def is_random(self) -> bool:
        """Whether two calls may differ."""
        return bool(self.sigma)

    def build(self, model: nn.Module, scores: Tensor | None, generator: torch.Generator) -> nn.Module:
        """Return the defended model: `model` itself, or with masks from `scores` [C, N] and noise from `generator`."""
        if self.k is None:
            return model
        assert scores is not None
        assert self.layer is not None
        assert self.sigma is not None
        assert self.tau is not None
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        return InterpretabilityGuidedDefense(
            model,
            class_masks(scores, self.k).to(device),
            layer=self.layer,
            sigma=self.sigma,
            tau=self.tau,
            draws=self.draws or 1,
            generator=generator,
        )
