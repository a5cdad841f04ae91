"""The interpretability-guided defense: two passes, the second with only the predicted class's neurons.

ỹ = softmax( (1/m) Σ_j f(x + σ·n_j) / τ ),  n_j ~ N(0, I)          (Kulkarni & Weng, ECCV 2024, eq. 6)
prediction = h( (ỹ M) ⊙ a(x) )                                      (eq. 4)
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from igd_ray.defenses.masks import class_masks
from igd_ray.defenses.registry import (
    Arguments,
    DefenseKind,
    DefensePasses,
    Form,
    Parts,
    Run,
    argument_names,
    as_settings,
    register,
)
from igd_ray.defenses.smoothing import Smoothed
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer, classifier, find_layer, recorded, scaled

# The argument of masks with a k for each class: those numbers, with commas.
CLASS_K = "class_k"


class InterpretabilityGuidedDefense(Smoothed):
    """A base model, unchanged, with its neurons masked by what a first pass predicts.

    With σ = 0 the first pass is f(x), and at the penultimate layer its activation serves the second pass too.
    Noise is added to pixels and not clipped; the clean image goes through the second pass. Gradients flow through
    both passes.

    With masks of ones (k = N) this is "two passes, no mask" of the paper's table 6: the base model's logits, at the
    cost of both passes.

    Args:
        model: the base model: [0, 1] images to logits [B, C], in eval mode.
        masks: M, [C, N] (see `class_masks`); on any device.
        layer: "penultimate", a module's path, or a `Layer` that was found before.
        sigma: σ ≥ 0, the noise's standard deviation in [0, 1] pixel units.
        tau: τ > 0, the temperature of the pseudo-label.
        draws: m ≥ 1, noise draws averaged in the first pass; 1 without noise.
        generator: where the noise of every call comes from; required with σ > 0, never the global one.

    Raises:
        InputError: if a value is out of range, or σ > 0 comes without a generator.

    Two pixels are the neurons, and the logits their identity. The first pass says class 0, whose mask keeps neuron 0:

    >>> base = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False)
    >>> _ = base[1].weight.copy_(torch.eye(2))
    >>> image = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2)
    >>> InterpretabilityGuidedDefense(base, torch.eye(2), sigma=0.0)(image).round(decimals=4)
    tensor([[0.6000, 0.0000]])
    """

    masks: Tensor

    def __init__(
        self,
        model: nn.Module,
        masks: Tensor,
        *,
        layer: str | Layer = PENULTIMATE,
        sigma: float,
        tau: float = 0.01,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, sigma=sigma, draws=draws, generator=generator)
        if masks.ndim != 2:
            raise InputError(f"masks must be [classes, neurons], not {list(masks.shape)}")
        if not tau > 0:
            raise InputError(f"tau must be positive, not {tau:g}")
        if isinstance(layer, Layer):
            _require_width(masks, layer)
        self.register_buffer("masks", masks, persistent=False)
        self.tau = tau
        self._layer = layer

    @property
    def forward_passes(self) -> int:
        """Passes of the base model that one image costs: the noisy ones and the masked one."""
        if self.sigma == 0 and self._reuses_first_pass:
            return 1
        return self.draws + 1

    def forward(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Return the defended logits [B, C] of images [B, channels, H, W] in [0, 1].

        Args:
            x: the images.
            noise: n_j, [draws, B, channels, H, W] or, with one draw, like `x`; drawn from the generator by default.
        """
        if self.sigma == 0:
            logits, activation = self._clean_pass(x)
            if activation is not None:
                return self._head(activation * self._layer_of(x).broadcast(self.neuron_weights(logits)))
        else:
            logits = self.first_logits(x, noise=noise)
        return self.masked_logits(x, self.pseudo_labels(logits))

    def first_logits(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Return the first pass's logits [B, C]: the mean over the noise draws, or f(x) with σ = 0."""
        return self.smoothed_logits(x, noise=noise)

    def pseudo_labels(self, first_logits: Tensor) -> Tensor:
        """Return ỹ, [B, C], from the first pass's logits."""
        return torch.softmax(first_logits / self.tau, dim=1)

    def neuron_weights(self, first_logits: Tensor) -> Tensor:
        """Return what the neurons are multiplied by, [B, N], from the first pass's logits."""
        return self.mixed_masks(self.pseudo_labels(first_logits))

    def mixed_masks(self, class_weights: Tensor) -> Tensor:
        """Return ỹ M, [B, N], for class weights ỹ, [B, C]."""
        if class_weights.shape[1] != len(self.masks):
            raise InputError(f"the masks have {len(self.masks)} classes, the model has {class_weights.shape[1]}")
        return class_weights @ self.masks.to(class_weights)

    def masked_logits(self, x: Tensor, class_weights: Tensor) -> Tensor:
        """Return the second pass's logits [B, C], with the masks mixed by `class_weights` [B, C]."""
        with scaled(self.model, self._layer_of(x), self.mixed_masks(class_weights)):
            return self.model(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        layer = self._layer if isinstance(self._layer, str) else self._layer.name
        kept = int(self.masks.sum(dim=1).max())
        return f"k={kept}, layer={layer}, sigma={self.sigma:g}, tau={self.tau:g}, draws={self.draws}"

    @property
    def _reuses_first_pass(self) -> bool:
        return self._layer == PENULTIMATE if isinstance(self._layer, str) else self._layer.is_last

    def _layer_of(self, x: Tensor) -> Layer:
        if isinstance(self._layer, str):
            found = find_layer(self.model, self._layer, x[:1].detach())
            _require_width(self.masks, found)
            self._layer = found
        return self._layer

    def _clean_pass(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return f(x) and, at the penultimate layer, the activation that the second pass would compute again."""
        if not self._reuses_first_pass or not self._layer_of(x).is_last:
            return self.model(x), None
        with recorded(self.model, self._layer_of(x)) as activations:
            logits = self.model(x)
        return logits, activations[0]

    def _head(self, activation: Tensor) -> Tensor:
        assert isinstance(self._layer, Layer)
        head = classifier(self.model, self._layer)
        assert head is not None
        return head(activation).flatten(1)  # type: ignore[no-any-return]


def _require_width(masks: Tensor, layer: Layer) -> None:
    if layer.width != masks.shape[1]:
        raise InputError(f"the masks have {masks.shape[1]} neurons, layer {layer.name!r} has {layer.width}")


class TwoPassKind(DefenseKind):
    """What kinds of two passes share: noise in the first, a temperature, and the run's layer."""

    takes_noise = True
    takes_temperature = True

    # The module.
    defense: type[InterpretabilityGuidedDefense] = InterpretabilityGuidedDefense

    @property
    def has_two_passes(self) -> bool:
        """Return that it offers both."""
        return True

    def layer(self, run: Run) -> Layer | None:
        """Return the run's layer."""
        return run.layer()

    def passes(self, spec: DefenseSpec) -> DefensePasses:
        """Return one pass per draw and the masked one; one for both where they share their activation."""
        if spec.sigma == 0 and spec.layer is not None and spec.layer.is_last:
            return DefensePasses()
        both = ((spec.draws or 1) if spec.sigma else 1) + 1
        return DefensePasses(both, 0, both)

    def masks(self, spec: DefenseSpec, parts: Parts) -> Tensor:
        """Return M, [C, N]."""
        assert parts.scores is not None
        class_k = dict(spec.arguments).get(CLASS_K)
        k = spec.k if class_k is None else [int(each) for each in str(class_k).split(",")]
        assert k is not None
        return class_masks(parts.scores, k)

    def build(self, spec: DefenseSpec, parts: Parts) -> InterpretabilityGuidedDefense:
        """Return the defense with its masks."""
        assert spec.layer is not None
        assert spec.sigma is not None
        assert spec.tau is not None
        own = {name: value for name, value in spec.arguments if name in argument_names(self)}
        return self.defense(
            parts.model,
            self.masks(spec, parts).to(parts.device),
            layer=spec.layer,
            sigma=spec.sigma,
            tau=spec.tau,
            draws=spec.draws or 1,
            generator=parts.generator,
            **as_settings(own),
        )


@register
class MaskingKind(TwoPassKind):
    """`loir-K`, `cdir-K` and every other ranking's name, which keep K neurons; `random-drop-K`, which drops K."""

    name = "masking"
    takes_any_ranking = True
    further_forms: ClassVar[Mapping[str, Form]] = {"random-drop": Form("random", drops=True)}


@register
class UnmaskedKind(TwoPassKind):
    """`two-pass`: two passes, the second without masks."""

    name = "two-pass"

    def settle(self, arguments: Arguments, run: Run) -> Arguments:
        """Return the number of classes, which no ranking says here."""
        return {**arguments, "classes": len(run.class_names)}

    def masks(self, spec: DefenseSpec, parts: Parts) -> Tensor:
        """Return ones."""
        assert spec.layer is not None
        return torch.ones(int(dict(spec.arguments)["classes"]), spec.layer.width)
