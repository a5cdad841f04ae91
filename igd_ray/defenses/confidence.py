"""Confidence masking: the interpretability-guided defense's masks, as strong as the first pass is sure.

conf = max_c ỹ_c,  s = clamp((conf − t)/(1 − t), 0, 1),  prediction = h( ((1 − s)·1 + s·(ỹ M)) ⊙ a(x) )

ỹ is the pseudo-label of Kulkarni & Weng, ECCV 2024, eq. 6; the rule is that of a public fork of their code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense, TwoPassKind
from igd_ray.defenses.registry import register
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer


@dataclass(frozen=True)
class ConfidenceArguments:
    """Settings of confidence masking.

    Attributes:
        threshold: t in [0, 1]; up to this confidence nothing is masked.

    Raises:
        InputError: if it is out of range.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must lie in [0, 1], not {self.threshold:g}")


class ConfidenceMaskingDefense(InterpretabilityGuidedDefense):
    """The interpretability-guided defense that leaves an image unmasked where its first pass is not confident.

    Args:
        model, masks, layer, sigma, tau, draws, generator: as in `InterpretabilityGuidedDefense`.
        threshold: t in [0, 1]; up to this confidence nothing is masked, from there on the masks fade in. With t = 1
            this is the base model. At τ = 0.01 the confidence of most images is exactly 1.

    Raises:
        InputError: if a value is out of range, or σ > 0 comes without a generator.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Tensor,
        *,
        layer: str | Layer = PENULTIMATE,
        sigma: float,
        tau: float = 0.01,
        threshold: float = ConfidenceArguments.threshold,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, masks, layer=layer, sigma=sigma, tau=tau, draws=draws, generator=generator)
        self.threshold = ConfidenceArguments(threshold).threshold

    def mixed_masks(self, class_weights: Tensor) -> Tensor:
        """Return (1 − s)·1 + s·(ỹ M), [B, N], for class weights ỹ, [B, C].

        A one-hot ỹ has confidence 1 and gives that class's mask, unless t = 1.
        """
        strength = self.strength(class_weights)[:, None]
        return (1 - strength) + strength * super().mixed_masks(class_weights)

    def strength(self, class_weights: Tensor) -> Tensor:
        """Return s, [B] in [0, 1], for class weights ỹ, [B, C].

        >>> defense = ConfidenceMaskingDefense(nn.Flatten(), torch.eye(2), sigma=0.0, threshold=0.9)
        >>> defense.strength(torch.tensor([[1.0, 0.0], [0.05, 0.95], [0.5, 0.5]]))
        tensor([1.0000, 0.5000, 0.0000])
        """
        confidence = class_weights.amax(dim=1)
        if self.threshold == 1:
            return torch.zeros_like(confidence)
        return ((confidence - self.threshold) / (1 - self.threshold)).clamp(0, 1)

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        return f"{super().extra_repr()}, threshold={self.threshold:g}"


@register
class ConfidenceKind(TwoPassKind):
    """`confidence-K`, with the masks of `loir-K`."""

    name = "confidence"
    arguments = ConfidenceArguments
    defense = ConfidenceMaskingDefense
    ranked_by = "loir"
