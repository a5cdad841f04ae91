"""All kinds of defense by name; each registers itself in the file of its module."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import Layer
from igd_ray.protocol import NONE
from igd_ray.ranking import RANKINGS
from igd_ray.threat import ThreatModel, parse_fraction

if TYPE_CHECKING:
    from igd_ray.defenses.sodef import SodefTraining
    from igd_ray.defenses.specs import DefenseLabel, DefenseSpec

Argument = bool | int | float
Arguments = Mapping[str, Argument | str]


class Form(NamedTuple):
    """What a label's name stands for.

    Attributes:
        method: the ranking that the K of a label NAME-K refers to; None for a label without a number.
        drops: whether K neurons are dropped, rather than kept.
    """

    method: str | None = None
    drops: bool = False


class DefensePasses(NamedTuple):
    """Passes of one image through the base model that a defense makes.

    Attributes:
        query_forwards, query_backwards: for its logits, with or without their gradient.
        gradient_backwards: for the gradient of its logits, on top.
    """

    query_forwards: int = 1
    query_backwards: int = 0
    gradient_backwards: int = 1


ONE_PASS = DefensePasses()


@dataclass(frozen=True)
class Parts:
    """What a defense is built from.

    Attributes:
        model: the base model.
        generator: where all randomness of the defense comes from.
        scores: of its ranking, [C, N]; None for kinds without one.
        trained: the arrays of its training, by name; None for kinds that are not trained.
        probe: labelled training images; None for kinds that ask for none.
        class_names: one per class; none for kinds that do not ask for them.
    """

    model: nn.Module
    generator: torch.Generator
    scores: Tensor | None = None
    trained: Mapping[str, Tensor] | None = None
    probe: "ProbeImages | None" = None
    class_names: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the base model is."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))


class ProbeImages(NamedTuple):
    """Labelled training images: float32 [n, C, H, W] in [0, 1] and int64 [n], on the base model's device."""

    images: Tensor
    labels: Tensor


class Run(Protocol):
    """What a run tells the defenses that it plans."""

    @property
    def model(self) -> nn.Module:
        """The base model, in this process."""
        ...

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        ...

    def layer(self, name: str | None = None) -> Layer:
        """Return the layer `name` of the base model; by default the one that the run is about."""
        ...

    def train_sodef(self, settings: "SodefTraining") -> str:
        """Have SODEF trained before the evaluation; return the training's id."""
        ...

    def probe(self) -> tuple[ProbeImages, str]:
        """Return the labelled training images, which workers bring along from now on, and their fingerprint."""
        ...

    def examples(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the first `n` evaluated images and their labels, or all where there are not so many."""
        ...

    def bring_code(self, file: Path) -> None:
        """Have workers import `file`, with the modules beside it."""
        ...


@dataclass(frozen=True)
class NoArguments:
    """The arguments of a kind that has none."""


class DefenseKind(ABC):
    """A kind of defense: what it is called, what it takes and needs, what it costs, and how it is built.

    A subclass says what differs from the defaults, and is registered in the file of the defense's module:

        @register
        class Quantising(DefenseKind):
            name = "quantise"
            arguments = QuantiseArguments        # a frozen dataclass: levels: int = 8

            def build(self, spec, parts):
                return QuantisingDefense(parts.model, **dict(spec.arguments))

    A run uses it in this order: `forms` reads a label, `arguments` checks `--defense-arg`, `prepared`, `settle`,
    `layer` and `ranking` make the settings complete, `is_random` and `passes` plan attacks, and `build` makes the
    module on a worker.

    Attributes:
        name: the kind's name in keys, and before the dot of `--defense-arg NAME.ARGUMENT=VALUE`.
        arguments: a frozen dataclass. Its fields are the arguments, with the values of the defense's authors; it
            raises InputError for a value out of range.
        takes_noise: whether σ and draws are settings of it.
        takes_temperature: whether τ is a setting of it.
        ranked_by: the ranking that the K of its labels NAME-K refers to; None for labels without a number.
        takes_any_ranking: whether its labels are NAME-K of every ranking, in place of its own name.
        further_forms: what other labels of it look like.
        is_trained: whether it needs a training.
        is_base_model: whether it is the base model itself, on which an attack and its transfer coincide.
    """

    name: ClassVar[str]
    arguments: ClassVar[type] = NoArguments
    takes_noise: ClassVar[bool] = False
    takes_temperature: ClassVar[bool] = False
    ranked_by: ClassVar[str | None] = None
    takes_any_ranking: ClassVar[bool] = False
    further_forms: ClassVar[Mapping[str, "Form"]] = {}
    is_trained: ClassVar[bool] = False
    is_base_model: ClassVar[bool] = False

    @property
    def has_two_passes(self) -> bool:
        """Whether its module offers both passes to adaptive attacks, see `igd_ray.attacks.adaptive`."""
        return False

    @property
    def has_surrogate(self) -> bool:
        """Whether its module offers a stand-in for its gradient, which is useless to attacks."""
        return False

    @property
    def asks(self) -> tuple[str, ...]:
        """What its module is built from beside model, ranking and training: "probe", "class_names"."""
        return ()

    def forms(self) -> Mapping[str, Form]:
        """Return what labels of this kind look like."""
        if self.takes_any_ranking:
            return {**{method: Form(method) for method in RANKINGS}, **self.further_forms}
        return {self.name: Form(self.ranked_by), **self.further_forms}

    def prepared(self, arguments: Mapping[str, object], run: Run) -> "tuple[DefenseKind, Arguments]":
        """Return the kind that a run's defense is of, and all of its arguments, given those of `--defense-arg`.

        Raises:
            InputError: if the defense does not go with the run.
        """
        return self, self.settle(checked_arguments(self, arguments), run)

    def settle(self, arguments: Arguments, run: Run) -> Arguments:
        """Return the arguments that the defense is built from, given those of `--defense-arg`, checked.

        Raises:
            InputError: if the defense does not go with the run.
        """
        return arguments

    def layer(self, run: Run) -> Layer | None:
        """Return the layer that it works on; by default none."""
        return None

    def ranking(self, label: "DefenseLabel", arguments: Arguments) -> str | None:
        """Return the method of the ranking that it needs; by default that of the label's K."""
        return label.method

    def is_random(self, spec: "DefenseSpec") -> bool:
        """Return whether two calls may differ; by default with σ > 0."""
        return bool(spec.sigma)

    def still(self, arguments: Arguments) -> Arguments:
        """Return `arguments` without randomness; the caller sets σ = 0."""
        return arguments

    def passes(self, spec: "DefenseSpec") -> DefensePasses:
        """Return what a query and a gradient cost; by default one pass each."""
        return ONE_PASS

    @abstractmethod
    def build(self, spec: "DefenseSpec", parts: Parts) -> nn.Module:
        """Return the defended model, [0, 1] images to logits."""


KINDS: dict[str, DefenseKind] = {}

K = TypeVar("K", bound=type[DefenseKind])


def register(kind: K) -> K:
    """Register the decorated class of defenses under its name.

    Raises:
        ValueError: if another kind has that name.
    """
    other = KINDS.setdefault(kind.name, kind())
    if type(other) is not kind:
        raise ValueError(f"{kind.name!r} is registered as {type(other).__qualname__}; choose another name")
    return kind


def argument_names(kind: DefenseKind) -> tuple[str, ...]:
    """Return the names of the arguments of `kind`."""
    return tuple(field.name for field in fields(kind.arguments))


def default_arguments(kind: type) -> dict[str, Argument]:
    """Return the arguments of the dataclass `kind` with its defaults."""
    default = kind()
    return {field.name: getattr(default, field.name) for field in fields(default)}


def checked_arguments(kind: DefenseKind, given: Mapping[str, object]) -> dict[str, Argument]:
    """Return the arguments of `kind`: its authors' values, replaced by those `given`.

    Raises:
        InputError: if a value is of another type or out of range.
    """
    values = default_arguments(kind.arguments)
    values |= {name: converted(values[name], value, f"{kind.name}.{name}") for name, value in given.items()}
    kind.arguments(**values)
    return values


def converted(default: Argument, value: object, name: str) -> Argument:
    """Return `value` as the type of `default`; of a text, the fraction that it says.

    >>> converted(0.9, "4/5", "confidence.threshold")
    0.8

    Raises:
        InputError: if it is of another type, or not finite.
    """
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


def all_forms() -> Iterator[tuple[str, Form, DefenseKind]]:
    """Yield every name of labels, with its form and kind: first those that end in a number."""
    forms = [(name, form, kind) for kind in KINDS.values() for name, form in kind.forms().items()]
    yield from sorted(forms, key=lambda each: each[1].method is None)


def as_settings(arguments: Arguments) -> dict[str, Any]:
    """Return `arguments` for a constructor that knows their types."""
    return dict(arguments)


@register
class Undefended(DefenseKind):
    """`none`: the base model itself, which every defense is compared with."""

    name = NONE
    is_base_model = True

    def build(self, spec: "DefenseSpec", parts: Parts) -> nn.Module:
        """Return the base model itself."""
        return parts.model
