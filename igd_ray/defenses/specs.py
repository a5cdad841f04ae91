"""Defense labels, and the settings that a label stands for together with σ, τ, draws, a layer and arguments."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from igd_ray.defenses.own import OwnDefense, parse_own
from igd_ray.defenses.registry import (
    KINDS,
    Argument,
    DefenseKind,
    DefensePasses,
    Parts,
    ProbeImages,
    all_forms,
    argument_names,
    checked_arguments,
)
from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash
from igd_ray.models.anatomy.layers import Layer
from igd_ray.models.sources import code_digest
from igd_ray.protocol import NONE


@dataclass(frozen=True)
class DefenseLabel:
    """What a label asks for.

    Attributes:
        label: the label itself.
        kind: the name of the kind of defense.
        method: the ranking that its masks come from, if it has any.
        number: how many neurons its masks keep, or drop.
        drops: whether they are dropped.
        own: the defense in a file that it names.
    """

    label: str
    kind: str
    method: str | None = None
    number: int | None = None
    drops: bool = False
    own: OwnDefense | None = None

    @property
    def registered(self) -> DefenseKind:
        """The kind of defense."""
        return self.own or KINDS[self.kind]

    @property
    def argument_prefix(self) -> str:
        """What stands before the dot of `--defense-arg`: the kind, or the label of a defense in a file."""
        return self.label if self.own else self.kind

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
    """Return what `label` asks for: `none`, `loir-50`, `random-drop-10`, `hedge`, `mine=FILE.py:factory`, …

    Raises:
        InputError: if there is no such defense, naming close matches.
    """
    if "=" in label:
        own = parse_own(label)
        if own.label in {name for name, _, _ in all_forms()}:
            raise InputError(
                f"--defenses {label}: {own.label!r} is one of this package's own defenses; choose another name"
            )
        return DefenseLabel(own.label, own.name, own=own)
    beginning, _, number = label.rpartition("-")
    for name, form, kind in all_forms():
        if form.method is None and name == label:
            return DefenseLabel(label, kind.name)
        if form.method is not None and name == beginning and re.fullmatch(r"[1-9][0-9]{0,6}", number):
            return DefenseLabel(label, kind.name, form.method, int(number), form.drops)
    forms = known_defenses()
    raise InputError(
        f"unknown defense {label!r}; known: {', '.join(forms)}, K a number of neurons, and your own as "
        f"NAME=FILE.py:factory{did_you_mean(label, forms)}"
    )


def known_defenses() -> list[str]:
    """Return every form of label."""
    forms = [name if form.method is None else f"{name}-K" for name, form, _ in all_forms()]
    return [NONE, *(form for form in forms if form != NONE)]


def defense_names() -> frozenset[str]:
    """Return what labels begin with: they are these, or these and a number."""
    return frozenset(name for name, _, _ in all_forms())


def given_arguments(given: Mapping[str, object], own: Collection[str] = ()) -> dict[str, dict[str, object]]:
    """Return the arguments that are `given`, by what stands before their dots, and by name.

    Args:
        given: by full name, such as "hedge.steps".
        own: the labels of defenses in files, which know their arguments themselves.

    Raises:
        InputError: if no defense has such an argument.
    """
    known = [f"{kind.name}.{name}" for kind in KINDS.values() for name in argument_names(kind)]
    found: dict[str, dict[str, object]] = {}
    for full_name, value in given.items():
        prefix, _, name = full_name.partition(".")
        if prefix not in own and full_name not in known:
            raise InputError(
                f"no defense has the argument {full_name!r}; known: {', '.join(known)}{did_you_mean(full_name, known)}"
            )
        found.setdefault(prefix, {})[name] = value
    return found


def defense_arguments(given: Mapping[str, object], own: Collection[str] = ()) -> dict[str, dict[str, Argument]]:
    """Return all arguments of the kinds that some are `given` of: their authors' values, replaced by those.

    Args:
        given: by "kind.name", such as "hedge.steps".
        own: the labels of defenses in files, which know their arguments themselves.

    Raises:
        InputError: if there is no such argument, or the value is of another type or out of range.
    """
    found = given_arguments(given, own)
    return {name: checked_arguments(KINDS[name], values) for name, values in found.items() if name not in own}


@dataclass(frozen=True)
class DefenseSpec:
    """A defense with all of its settings.

    Attributes:
        label: for display.
        model_id: the base model's fingerprint.
        kind: the name of the kind of defense.
        k, sigma, tau, draws, layer, ranking_id: None where the kind has no such setting.
        arguments: the kind's own settings, by name.
        own: the defense in a file, where it is one; `arguments` hold what tells it from others.
    """

    label: str
    model_id: str
    kind: str = NONE
    k: int | None = None
    sigma: float | None = None
    tau: float | None = None
    draws: int | None = None
    layer: Layer | None = None
    ranking_id: str | None = None
    arguments: tuple[tuple[str, Argument | str], ...] = ()
    own: DefenseKind | None = field(default=None, compare=False)

    @property
    def registered(self) -> DefenseKind:
        """The kind of defense."""
        return self.own or KINDS[self.kind]

    @property
    def defense_id(self) -> str:
        """The hash of everything that the defended model computes, noise draws excepted."""
        defined: type = type(self.registered)
        code = code_digest(defined)
        return content_hash(
            {
                **({} if code is None else {"code": code}),
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
        return self.registered.is_random(self)

    @property
    def is_base_model(self) -> bool:
        """Whether it is the base model itself."""
        return self.registered.is_base_model

    @property
    def has_two_passes(self) -> bool:
        """Whether adaptive attacks can aim at its two passes one by one."""
        return self.registered.has_two_passes

    @property
    def training_id(self) -> str | None:
        """The id of the training that the defense needs, if it needs one."""
        return str(dict(self.arguments)["training"]) if self.registered.is_trained else None

    @property
    def passes(self) -> DefensePasses:
        """What a query and a gradient cost."""
        return self.registered.passes(self)

    def still(self) -> "DefenseSpec":
        """Return the same defense without its randomness."""
        arguments = tuple(self.registered.still(dict(self.arguments)).items())
        return replace(self, sigma=None if self.sigma is None else 0.0, arguments=arguments)

    def build(
        self,
        model: nn.Module,
        generator: torch.Generator,
        *,
        scores: Tensor | None = None,
        trained: Mapping[str, Tensor] | None = None,
        probe: ProbeImages | None = None,
        class_names: tuple[str, ...] = (),
    ) -> nn.Module:
        """Return the defended model: `model` itself, or a defense around it that takes its noise from `generator`.

        Args:
            model: the base model.
            generator: where all randomness comes from.
            scores: [C, N], for kinds with masks.
            trained: the arrays of its training, for kinds that are trained.
            probe, class_names: for kinds that ask for them.
        """
        return self.registered.build(self, Parts(model, generator, scores, trained, probe, class_names))
