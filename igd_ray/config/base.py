"""Settings: the types and ranges of their values, those that every verb has, and how they are loaded."""

import math
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from igd_ray.data.images import SETTINGS as DATA_SETTINGS
from igd_ray.data.images import with_options
from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.demo import DEMO_EPSILON
from igd_ray.ranking import RANKINGS
from igd_ray.ranking.base import ranking_options
from igd_ray.ranking.clip_dissect import similarity_function
from igd_ray.threat import Norm, ThreatModel, parse_fraction
from igd_ray.values.environment import CATALOG, EXECUTOR, environment_settings
from igd_ray.values.plain_yaml import read_yaml, require_plain

# Beyond these nothing is evaluated that an evaluator would want, or ever ends.
SIGMA = (0.0, 10.0)
TAU = (1e-6, 1e6)
DRAWS = (1, 10_000)
MOST_TRIED = 1000
MOST_TRIALS = 100_000
MOST_SHARD_IMAGES = 100_000


def require_range(name: str, value: float, limits: tuple[float, float], unit: str = "") -> None:
    """Check that the setting `name` lies within `limits`, both included.

    Raises:
        InputError: with the limits, if it does not.
    """
    low, high = limits
    if not low <= value <= high:
        raise InputError(f"{name} must lie in {low:g}…{high:g}{unit}, not {value:g}")


def at_commas(value: object) -> object:
    """Split a text at its commas; anything else stays as it is.

    >>> at_commas("none, loir-50")
    ['none', 'loir-50']
    """
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def as_numbers(value: object) -> object:
    """Split a text at its commas, or read LOW:HIGH:COUNT as so many values that grow by equal factors.

    >>> [round(number, 6) for number in as_numbers("0.001:1:4")]
    [0.001, 0.01, 0.1, 1.0]

    Raises:
        InputError: if a grid has no such ends, or too many values.
    """
    ends = value.split(":") if isinstance(value, str) else []
    if len(ends) != 3:
        return at_commas(value)
    try:
        low, high, count = float(ends[0]), float(ends[1]), int(ends[2])
    except ValueError:
        low = high = count = 0
    if not (0 < low < high < math.inf and 2 <= count <= MOST_TRIED):
        raise InputError(
            f"a logarithmic grid is LOW:HIGH:COUNT with 0 < LOW < HIGH and COUNT in 2…{MOST_TRIED}, not {value!r}"
        )
    return [low * (high / low) ** (step / (count - 1)) for step in range(count)]


def whole_numbers(text: str) -> Sequence[int]:
    """Return the numbers that LOW:HIGH (both included), or numbers with commas, stand for, ascending.

    >>> list(whole_numbers("2:4")), whole_numbers("8,1")
    ([2, 3, 4], [1, 8])

    Raises:
        InputError: if there are none, or they are not whole numbers.
    """
    low, colon, high = text.partition(":")
    try:
        values = range(int(low), int(high) + 1) if colon else sorted({int(k) for k in text.split(",")})
    except ValueError:
        values = []
    if not values:
        raise InputError(f"ks must be LOW:HIGH with LOW ≤ HIGH, or numbers with commas, not {text!r}")
    return values


def _plain(value: object) -> object:
    """Take arguments that can stand in a key."""
    require_plain(value)
    return value


Fraction = Annotated[float, BeforeValidator(parse_fraction)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_plain)]
Listed = Annotated[tuple[str, ...], BeforeValidator(at_commas)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Labels = Annotated[Listed, Field(min_length=1)]


# Epsilon where none is given: what the demo's model was made for, and the paper's for CIFAR.
EPSILON_BY_DATA = {"digits": DEMO_EPSILON}
EPSILON = 8 / 255

# Arguments of `load_model` itself, which no factory can be given.
LOADER_ARGUMENTS = frozenset({"spec", "weights", "output", "device"})


class RankingOptions(BaseModel):
    """What rankings are computed with; each method uses some of these.

    Attributes:
        every_class, signed: LO-IR on every class's logit rather than the true one's; signed rather than absolute.
        clip, clip_weights: the CLIP model of CD-IR; by default the embedded one for digits, else ViT-B-16/openai.
        prompts, prompt_template: CD-IR's prompts, from a file with one per class, or from templates with {} for the
            class; by default the bare class names.
        similarity: how CD-IR compares activations and classes: soft-wpmi, wpmi or rank-reorder.
    """

    every_class: bool = False
    signed: bool = False
    clip: str | None = None
    clip_weights: str | None = None
    prompts: str | None = None
    prompt_template: Texts = ()
    similarity: str = "soft-wpmi"


class WorkspaceSettings(RankingOptions):
    """What every verb that computes has: a model, data, and where and how to run.

    Attributes:
        model, weights, model_arg: the base model's spec, its weights file ("own" for those that its factory loads)
            and its factory's arguments.
        output: which of several outputs of the model holds the logits: a key, or a position from 0.
        data, split, n: the data spec, and which images are evaluated: the first `n` of `split`, 256 by default.
        probe_n, search_n, search_split: how many images rank neurons and choose k, and where the latter come from;
            by default as many as fit, at most 10 000 and 2000, from disjoint parts of the training split.
        classes: "cifar10", "cifar100" or a file of class names, one per line, in place of the data's own.
        layer: "penultimate" or a module's path.
        method_arg: settings of rankings from files, such as "mine.power".
        norm, eps: the threat model; eps in [0, 1] pixel units.
        sigma, tau, draws: the first pass's noise and temperature; sigma is eps/2 by default.
        catalog: the folder of results.
        seed: every seed derives from it and from what it is used for.
        executor, actors, device: where units run.
        unit_timeout: how many seconds a unit may take on a cluster before it is taken for hung.
        price: of a worker per hour, for what `igd status` says a run costs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "demo"
    weights: str | None = None
    model_arg: Arguments = Field(default_factory=dict)
    output: Annotated[str | None, BeforeValidator(lambda value: value if value is None else str(value))] = None
    data: str = "digits"
    split: str = "test"
    n: int | None = Field(default=None, ge=1)
    probe_n: int | None = Field(default=None, ge=1)
    search_n: int | None = Field(default=None, ge=1)
    search_split: str = "train"
    classes: str | None = None
    layer: str = "penultimate"
    method_arg: Arguments = Field(default_factory=dict)
    norm: Annotated[Norm, BeforeValidator(lambda value: Norm.parse(str(value)))] = Norm.LINF
    eps: Fraction | None = None
    sigma: Fraction | None = None
    tau: float = 0.01
    draws: int = 1
    catalog: str = Field(default="results", min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    executor: Literal["ray", "local"] = "ray"
    actors: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    unit_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def threat(self) -> ThreatModel:
        """The threat model; its epsilon is that of the data where none is given."""
        epsilon = EPSILON_BY_DATA.get(self.data.partition(":")[0], EPSILON) if self.eps is None else self.eps
        return ThreatModel(self.norm, epsilon)

    @property
    def noise(self) -> float:
        """σ, in [0, 1] pixel units.

        Raises:
            InputError: if it is not given and the norm is not linf: half of eps would say nothing about pixels.
        """
        if self.sigma is not None:
            require_range("sigma", self.sigma, SIGMA, " in [0, 1] pixel units")
            return self.sigma
        if self.norm is not Norm.LINF:
            raise InputError(f"with --norm {self.norm.value} give --sigma, in [0, 1] pixel units; eps/2 is for linf")
        return self.threat.epsilon / 2

    def check(self) -> None:
        """Check what needs no model and no data.

        Raises:
            InputError: for the first setting that cannot be used.
        """
        _ = self.threat
        require_range("tau", self.tau, TAU)
        require_range("draws", self.draws, DRAWS)
        if "similarity" in self.model_fields_set:
            similarity_function(self.similarity)
        taken = sorted(LOADER_ARGUMENTS & set(self.model_arg))
        if taken:
            raise InputError(
                f"--model-arg {taken[0]}: a factory cannot have an argument of that name, which is one of loading; "
                "use --model, --weights, --output or --device, or rename it"
            )
        if self.executor == "local" and self.actors is not None:
            raise InputError("--actors is for --executor ray; the local executor runs in this process")

    @property
    def in_random_order(self) -> bool:
        """Whether the evaluated images are taken in a random order, rather than in their split's."""
        return False


def options_of_others(settings: WorkspaceSettings, methods: Collection[str | None]) -> Iterator[tuple[str, str]]:
    """Yield the given options, as flags, that only rankings by other methods than `methods` use, each after one."""
    for option in sorted(settings.model_fields_set & RankingOptions.model_fields.keys()):
        using = [method for method in RANKINGS if option in ranking_options(method)]
        if not set(using) & set(methods):
            yield using[0], "--" + option.replace("_", "-")


# A value longer than this hides what an error says of it.
LONGEST_VALUE_IN_ERROR = 200

Settings = TypeVar("Settings", bound=WorkspaceSettings)


def load_settings(kind: type[Settings], *, file: str | Path | None, given: dict[str, object]) -> Settings:
    """Return settings from the environment, overridden by a YAML `file`, if any, and by what was `given` as flags.

    Raises:
        InputError: for an unreadable file, an unknown setting (naming close matches), or a value that does not fit.
    """
    outside = environment_settings() if os.environ.keys() & {CATALOG, EXECUTOR} else {}
    values: dict[str, object] = {**outside, **(read_yaml(file) if file is not None else {}), **given}
    known = [*kind.model_fields, *DATA_SETTINGS]
    for name in values:
        if name not in known:
            raise InputError(f"unknown setting {name!r}; known: {', '.join(known)}{did_you_mean(str(name), known)}")
    options = {name: str(values.pop(name)) for name in DATA_SETTINGS if values.get(name) is not None}
    if options:
        values["data"] = with_options(str(values.get("data", kind.model_fields["data"].default)), options)
    try:
        settings = kind(**values)  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise cause from None
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{name}: {first['msg'].lower()}, not {repr(first['input'])[:LONGEST_VALUE_IN_ERROR]}"
        ) from None
    settings.check()
    return settings
