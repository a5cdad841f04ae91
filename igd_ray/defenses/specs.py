"""Defense labels, and the settings that a label stands for together with σ, τ, draws, a layer and arguments."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from igd_ray.defenses.anti_adversary import AntiAdversaryDefense
from igd_ray.defenses.confidence import ConfidenceMaskingDefense
from igd_ray.defenses.hedge import HedgeDefense
from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.defenses.smoothing import SmoothingOnly
from igd_ray.defenses.sodef import SodefDefense, SodefHead, SodefTraining
from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash
from igd_ray.models.anatomy.layers import Layer
from igd_ray.ranking import RANKINGS
from igd_ray.threat import parse_fraction

NONE = "none"

# The argument of masks with a k for each class: those numbers, with commas.
CLASS_K = "class_k"

Kind = Literal["none", "masking", "confidence", "two-pass", "smoothing-only", "hedge", "anti-adversary", "sodef"]
Argument = bool | int | float


class Family(NamedTuple):
    """What a label's name says: the kind of defense, and whose ranking its number of neurons refers to."""

    kind: Kind
    method: str | None = None
    drops: bool = False


# Labels that end in a number K of neurons, beside the names of rankings: so many are kept or, by one, dropped.
NUMBERED: Mapping[str, Family] = {
    "random-drop": Family("masking", "random", drops=True),
    "confidence": Family("confidence", "loir"),
}
PLAIN: Mapping[str, Family] = {
    NONE: Family("none"),
    "two-pass": Family("two-pass"),
    "smoothing-only": Family("smoothing-only"),
    "hedge": Family("hedge"),
    "anti-adversary": Family("anti-adversary"),
    "sodef": Family("sodef"),
}

# What `--defense-arg` may set, with the values of the defenses' authors.
ARGUMENTS: Mapping[str, Mapping[str, Argument]] = MappingProxyType(
    {
        "confidence": {"threshold": 0.9},
        "hedge": {"steps": 20, "step_size": 4 / 255, "random_start": False},
        "anti-adversary": {"steps": 2, "step_size": 0.15},
        "sodef": {field.name: getattr(SodefTraining(), field.name) for field in fields(SodefTraining)},
    }
)


@dataclass(frozen=True)
class DefenseLabel:
    """What a label asks for.

    Attributes:
        label: the label itself.
        kind: the kind of defense.
        method: the ranking that its masks come from, if it has any.
        number: how many neurons its masks keep, or drop.
        drops: whether they are dropped.
    """

    label: str
    kind: Kind
    method: str | None = None
    number: int | None = None
    drops: bool = False

    @property
    def takes_noise(self) -> bool:
        """Whether σ and draws are settings of it."""
        return self.kind in ("masking", "confidence", "two-pass", "smoothing-only")

    def kept(self, width: int, layer: str) -> int | None:
        """Return k, how many of `width` neurons its masks keep; None without masks.

        Raises:
            InputError: if there are not so many.
        """
        if self.number is None:
            return None
        if self.drops and not self.number < width:
            raise InputError(f"{self.label}: of the {width} neurons of {layer!r}, fewer than all can be dropped")
        if not self.number <= width:
            raise InputError(f"{self.label}: k must lie in 1…{width}, the neurons of {layer!r}, not {self.number}")
        return width - self.number if self.drops else self.number


def parse_defense(label: str) -> DefenseLabel:
    """Return what `label` asks for: `none`, `loir-50`, `random-drop-10`, `hedge`, …

    Raises:
        InputError: if there is no such defense, naming close matches.
    """
    if label in PLAIN:
        return DefenseLabel(label, PLAIN[label].kind)
    name, _, number = label.rpartition("-")
    if (family := _numbered().get(name)) and re.fullmatch(r"[1-9]\d*", number):
        kind, method, drops = family
        return DefenseLabel(label, kind, method, int(number), drops)
    forms = known_defenses()
    raise InputError(
        f"unknown defense {label!r}; known: {', '.join(forms)}, K a number of neurons{did_you_mean(label, forms)}"
    )


def known_defenses() -> list[str]:
    """Return every form of label."""
    return [NONE, *(f"{name}-K" for name in _numbered()), *(name for name in PLAIN if name != NONE)]


def _numbered() -> dict[str, Family]:
    """Return the families of all labels that end in a number of neurons; masks are called after their ranking."""
    return {**{method: Family("masking", method) for method in RANKINGS}, **NUMBERED}


def defense_arguments(given: Mapping[str, object]) -> dict[str, dict[str, Argument]]:
    """Return the arguments of every kind of defense: its authors' values, replaced by those `given`.

    Args:
        given: by "kind.name", such as "hedge.steps".

    Raises:
        InputError: if there is no such argument, or the value is of another type or out of range.
    """
    known = {f"{kind}.{name}": (kind, name) for kind, arguments in ARGUMENTS.items() for name in arguments}
    values = {kind: dict(arguments) for kind, arguments in ARGUMENTS.items()}
    for full_name, value in given.items():
        if full_name not in known:
            raise InputError(
                f"no defense has the argument {full_name!r}; known: {', '.join(known)}{did_you_mean(full_name, known)}"
            )
        kind, name = known[full_name]
        values[kind][name] = _like(values[kind][name], value, full_name)
    _check_ranges(values)
    return values


def _check_ranges(values: Mapping[str, Mapping[str, Argument]]) -> None:
    """Have each kind's constructor look at its arguments, around a model that is never run."""
    model, generator = nn.Identity(), torch.Generator()
    hedge, anti_adversary, confidence, sodef = (
        dict(values[kind]) for kind in ("hedge", "anti-adversary", "confidence", "sodef")
    )
    HedgeDefense(model, epsilon=1.0, generator=generator, **hedge)  # type: ignore[arg-type]
    AntiAdversaryDefense(model, **anti_adversary)  # type: ignore[arg-type]
    ConfidenceMaskingDefense(model, torch.ones(1, 1), sigma=0.0, **confidence)  # type: ignore[arg-type]
    SodefTraining(**sodef)  # type: ignore[arg-type]


def _like(default: Argument, value: object, name: str) -> Argument:
    """Return `value` as the type of `default`."""
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
    elif isinstance(default, int):
        if isinstance(value, int):
            return value
    elif isinstance(value, int | float | str) and math.isfinite(number := parse_fraction(value)):
        return number
    expected = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
    raise InputError(f"defense argument {name}: expected {expected}, such as {default}, not {value!r}")


class Passes(NamedTuple):
    """Passes of the base model that a defense costs: for each query, and on top for each gradient of its logits."""

    forwards: int
    inner_backwards: int
    backwards: int


@dataclass(frozen=True)
class DefenseSpec:
    """A defense with all of its settings.

    Attributes:
        label: for display.
        model_id: the base model's fingerprint.
        kind: the kind of defense.
        k, sigma, tau, draws, layer, ranking_id: None where the kind has no such setting.
        arguments: the kind's own settings, by name; masks with a k for each class have them here as `class_k`.
    """

    label: str
    model_id: str
    kind: Kind = "none"
    k: int | None = None
    sigma: float | None = None
    tau: float | None = None
    draws: int | None = None
    layer: Layer | None = None
    ranking_id: str | None = None
    arguments: tuple[tuple[str, Argument | str], ...] = ()

    @property
    def defense_id(self) -> str:
        """The hash of everything that the defended model computes, noise draws excepted."""
        return content_hash(
            {
                "model": self.model_id,
                "kind": self.kind,
                "k": self.k,
                "sigma": self.sigma,
                "tau": self.tau,
                "draws": self.draws,
                "layer": self.layer.identity if self.layer else None,
                "ranking": self.ranking_id,
                "arguments": dict(self.arguments),
            }
        )

    @property
    def is_random(self) -> bool:
        """Whether two calls may differ."""
        return bool(self.sigma) or bool(dict(self.arguments).get("random_start"))

    @property
    def has_two_passes(self) -> bool:
        """Whether adaptive attacks can aim at its two passes one by one."""
        return self.kind in ("masking", "confidence", "two-pass")

    @property
    def training_id(self) -> str | None:
        """The id of the training that the defense needs, if it needs one."""
        return str(dict(self.arguments)["training"]) if self.kind == "sodef" else None

    @property
    def passes(self) -> Passes:
        """What a query and a gradient cost."""
        draws = (self.draws or 1) if self.sigma else 1
        if self.kind in ("hedge", "anti-adversary"):
            steps = int(dict(self.arguments)["steps"])
            return Passes(steps + 1, steps, 1)
        if self.kind == "smoothing-only":
            return Passes(draws, 0, draws)
        reused = self.sigma == 0 and self.layer is not None and self.layer.side == "input"
        if self.kind in ("none", "sodef") or reused:
            return Passes(1, 0, 1)
        return Passes(draws + 1, 0, draws + 1)

    def still(self) -> "DefenseSpec":
        """Return the same defense without its randomness."""
        arguments = tuple((name, False if name == "random_start" else value) for name, value in self.arguments)
        return replace(self, sigma=None if self.sigma is None else 0.0, arguments=arguments)

    def build(
        self,
        model: nn.Module,
        generator: torch.Generator,
        *,
        scores: Tensor | None = None,
        head: SodefHead | None = None,
    ) -> nn.Module:
        """Return the defended model: `model` itself, or a defense around it that takes its noise from `generator`.

        Args:
            model: the base model.
            generator: where all randomness comes from.
            scores: [C, N], for kinds with masks.
            head: the trained part of SODEF.
        """
        arguments = dict(self.arguments)
        if self.kind == "none":
            return model
        if self.kind == "hedge":
            return HedgeDefense(model, generator=generator, **arguments)  # type: ignore[arg-type]
        if self.kind == "anti-adversary":
            return AntiAdversaryDefense(model, **arguments)  # type: ignore[arg-type]
        if self.kind == "smoothing-only":
            assert self.sigma is not None
            return SmoothingOnly(model, sigma=self.sigma, draws=self.draws or 1, generator=generator)
        assert self.layer is not None
        if self.kind == "sodef":
            assert head is not None
            return SodefDefense(model, head, layer=self.layer)
        assert self.sigma is not None
        assert self.tau is not None
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        if self.kind == "two-pass":
            masks = torch.ones(int(arguments.pop("classes")), self.layer.width)
        else:
            assert scores is not None
            class_k = arguments.pop(CLASS_K, None)
            k = self.k if class_k is None else [int(each) for each in str(class_k).split(",")]
            assert k is not None
            masks = class_masks(scores, k)
        build = ConfidenceMaskingDefense if self.kind == "confidence" else InterpretabilityGuidedDefense
        return build(
            model,
            masks.to(device),
            layer=self.layer,
            sigma=self.sigma,
            tau=self.tau,
            draws=self.draws or 1,
            generator=generator,
            **arguments,
        )
