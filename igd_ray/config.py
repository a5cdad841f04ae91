"""Typed settings of every verb, from the command line or a YAML file; what cannot be used fails before work starts."""

from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from igd_ray.attacks.own import check_attack
from igd_ray.attacks.registry import expand_attacks
from igd_ray.data.request import SETTINGS as DATA_SETTINGS
from igd_ray.data.request import with_options
from igd_ray.defenses.specs import defense_arguments, defense_names, parse_defense
from igd_ray.environment import environment_settings
from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.anatomy.layers import PENULTIMATE
from igd_ray.models.demo import DEMO_EPSILON
from igd_ray.plain_yaml import read_yaml
from igd_ray.ranking import RANKINGS, ranking_class
from igd_ray.ranking.clip_dissect import similarity_function
from igd_ray.ranking.own import register_files, split_method
from igd_ray.ranking.registry import ranking_options
from igd_ray.threat import Norm, ThreatModel
from igd_ray.values import (
    DRAWS,
    MOST_SHARD_IMAGES,
    MOST_TRIALS,
    MOST_TRIED,
    SIGMA,
    TAU,
    Arguments,
    Fraction,
    Labels,
    Listed,
    Texts,
    as_numbers,
    at_commas,
    require_range,
    whole_numbers,
)

# Epsilon where none is given: what the demo's model was made for, and the paper's for CIFAR.
EPSILON_BY_DATA = {"digits": DEMO_EPSILON}
EPSILON = 8 / 255

# Arguments of `load_model` itself, which no factory can be given.
LOADER_ARGUMENTS = frozenset({"spec", "weights", "output", "device"})

# A value longer than this hides what an error says of it.
LONGEST_VALUE_IN_ERROR = 200

Settings = TypeVar("Settings", bound="WorkspaceSettings")


class WorkspaceSettings(BaseModel):
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
        every_class, signed: LO-IR on every class's logit rather than the true one's; signed rather than absolute.
        clip, clip_weights: the CLIP model of CD-IR; by default the embedded one for digits, else ViT-B-16/openai.
        prompts, prompt_template: CD-IR's prompts, from a file with one per class, or from templates with {} for the
            class; by default the bare class names.
        similarity: how CD-IR compares activations and classes: soft-wpmi, wpmi or rank-reorder.
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
    every_class: bool = False
    signed: bool = False
    clip: str | None = None
    clip_weights: str | None = None
    prompts: str | None = None
    prompt_template: Texts = ()
    similarity: str = "soft-wpmi"
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


def _options_of_others(settings: WorkspaceSettings, methods: Collection[str | None]) -> Iterator[tuple[str, str]]:
    """Yield the given options, as flags, of rankings by other methods than `methods`, each after its method."""
    used = {option for method in methods if method is not None for option in ranking_options(method)}
    for method in RANKINGS:
        for option in sorted(ranking_options(method) & settings.model_fields_set - used):
            yield method, "--" + option.replace("_", "-")


class RankSettings(WorkspaceSettings):
    """`igd rank`: rankings of one layer by one or more methods.

    Attributes:
        method: names of rankings; NAME=FILE.py:CLASS is one of the user's own.
    """

    method: Labels = ("loir",)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names, without files."""
        return tuple(dict.fromkeys(split_method(entry)[0] for entry in self.method))

    def check(self) -> None:
        """Check methods as well, and register those in files."""
        super().check()
        register_files(self.method, self.method_arg, taken=defense_names())
        for name in self.methods:
            ranking_class(name)
        computed = () if "import_from" in self.model_fields_set else self.methods
        for method, flag in _options_of_others(self, computed):
            raise InputError(f"{flag} is an option of {method} rankings that are computed here; leave it out")


class ImportSettings(RankSettings):
    """`igd rank --import-from`: rankings that were computed elsewhere."""

    import_from: str

    def check(self) -> None:
        """Check that one method is named: the files do not say which they are of."""
        super().check()
        if "method" not in self.model_fields_set:
            raise InputError("--import-from needs --method loir or --method cdir: its files do not say which they are")
        if len(self.method) != 1:
            raise InputError(f"--import-from is one ranking; name one --method, not {', '.join(self.method)}")


class TrainSettings(WorkspaceSettings):
    """`igd train`: what a defense needs beyond rankings.

    Attributes:
        trained: the name of the kind of defense.
    """

    trained: str
    defense_arg: Arguments = Field(default_factory=dict)

    def check(self) -> None:
        """Check the defense's arguments and the layer as well."""
        super().check()
        defense_arguments(self.defense_arg)
        others = [name for name in self.defense_arg if not name.startswith(f"{self.trained}.")]
        if others:
            raise InputError(f"--defense-arg {others[0]}: {self.trained} does not take it; leave it out")
        if self.layer != PENULTIMATE:
            raise InputError(f"{self.trained} is the classifier, so its layer is {PENULTIMATE}, not {self.layer!r}")


class SearchSettings(RankSettings):
    """`igd search`: k, σ and τ whose clean accuracy stays within `tolerance`, a fraction, of the base model's.

    Attributes:
        ranking: the id of a ranking to use; others are computed.
        defense: NAME=FILE.py:factory, whose arguments k, sigma, tau and draws are searched in place of those of masks.
        defense_arg: its other arguments, such as "mine.steps".
        sigmas: in multiples of eps, in place of sigma.
        taus, draw_counts: in place of tau and draws; "0.001:1:4" is a logarithmic grid of four.
        ks: "LOW:HIGH", or numbers with commas; 1…N by default.
        sampler: how the next setting is found; `trials` is for random and optuna.
        k_mode: one k for all classes, or one for each.
        refine, refine_n: how many of the best settings are attacked, on how many search images.
    """

    tolerance: Fraction = Field(default=0.005, ge=0, le=1)
    ranking: str | None = None
    defense: str | None = None
    defense_arg: Arguments = Field(default_factory=dict)
    sigmas: Annotated[tuple[Fraction, ...] | None, BeforeValidator(at_commas)] = None
    taus: Annotated[tuple[float, ...] | None, BeforeValidator(as_numbers)] = None
    draw_counts: Annotated[tuple[int, ...] | None, BeforeValidator(at_commas)] = None
    ks: str | None = None
    sampler: Literal["bisection", "grid", "random", "optuna"] = "bisection"
    trials: int = Field(default=32, ge=1, le=MOST_TRIALS)
    k_mode: Literal["shared", "per-class"] = "shared"
    refine: int = Field(default=0, ge=0, le=MOST_TRIED)
    refine_n: int = Field(default=64, ge=1)

    @property
    def sigma_values(self) -> tuple[float, ...]:
        """Every σ, in [0, 1] pixel units."""
        if self.sigmas is None:
            return (self.noise,)
        return tuple(multiple * self.threat.epsilon for multiple in self.sigmas)

    @property
    def k_values(self) -> Sequence[int] | None:
        """The candidates for k, ascending; None for 1…N.

        Raises:
            InputError: if there are none, or they are not whole numbers.
        """
        return None if self.ks is None else whole_numbers(self.ks)

    def check(self) -> None:
        """Check the search space as well."""
        super().check()
        for name in ("sigmas", "taus", "draw_counts"):
            values: tuple[float, ...] | None = getattr(self, name)
            if values is not None and not values:
                raise InputError(f"--{name.replace('_', '-')} names nothing to try; give numbers with commas")
            if len(values or ()) > MOST_TRIED:
                raise InputError(f"--{name.replace('_', '-')} may name {MOST_TRIED} numbers at most")
        for many, one in (("sigmas", "sigma"), ("taus", "tau"), ("draw_counts", "draws")):
            if getattr(self, many) is not None and one in self.model_fields_set:
                raise InputError(f"give --{one} or --{many.replace('_', '-')}, not both")
        if self.sigmas is not None and self.norm is not Norm.LINF:
            raise InputError(
                f"--sigmas are multiples of an infinity-norm eps; with --norm {self.norm.value} give --sigma"
            )
        for sigma in self.sigma_values if self.sigmas is not None else ():
            require_range("sigmas", sigma, SIGMA, " as multiples of eps in [0, 1] pixel units")
        for tau in self.taus or ():
            require_range("taus", tau, TAU)
        for draws in self.draw_counts or ():
            require_range("draw counts", draws, DRAWS)
        _ = self.k_values
        if self.ranking is not None and "method" in self.model_fields_set:
            raise InputError("a ranking has its method; give --ranking or --method, not both")
        own = None if self.defense is None else parse_defense(self.defense)
        if own is not None and own.own is None:
            raise InputError(f"--defense is one in a file, NAME=FILE.py:factory, not {self.defense!r}; use --method")
        if own is not None and (self.ranking or {"method", "k_mode"} & self.model_fields_set):
            raise InputError("--defense has one k, and names its ranking by --defense-arg NAME.ranking=loir")
        defense_arguments(self.defense_arg, [] if own is None else [own.label])
        if own is None and self.defense_arg:
            raise InputError(
                "--defense-arg is for --defense NAME=FILE.py:factory; masks have --ks, --sigmas and --taus"
            )
        if self.k_mode == "per-class" and self.sampler != "bisection":
            raise InputError(f"--k-mode per-class is for --sampler bisection, not {self.sampler}")
        if "trials" in self.model_fields_set and self.sampler not in ("random", "optuna"):
            raise InputError(f"--trials is for --sampler random and optuna; {self.sampler} knows when it has finished")
        if "refine_n" in self.model_fields_set and not self.refine:
            raise InputError("--refine-n is for --refine, which says how many settings are attacked")
        if self.sampler == "optuna":
            if find_spec("optuna") is None:
                raise InputError(
                    "--sampler optuna needs a package of its own: pip install optuna; "
                    "bisection, grid and random need none"
                )
            if self.executor == "local":
                raise InputError("--sampler optuna runs under Ray Tune; use --executor ray")


class EvaluateSettings(WorkspaceSettings):
    """`igd evaluate`: attacks on defenses.

    Attributes:
        defenses, attacks: labels; `iwwc` and `audit` stand for several attacks.
        points: files of points that others computed, FILE or NAME=FILE, each one more attack.
        defense_arg: arguments of defenses, such as "hedge.steps".
        method: rankings of the user's own, NAME=FILE.py:CLASS, for defenses called NAME-K.
        ranking: ids of rankings to use, for the methods they are of; others are computed.
        from_search: ids of finished searches whose settings are added as defenses.
        shard_size: images per unit; attacks work on a unit as one batch.
        attack_seed: the seed of every attack in place of one derived from its unit's key.
        judge_draws: fresh evaluations of each point of a random defense.
        mode: "full" runs every attack on every image, "cascade" the cheapest first, and the others on what it left.
        until: "decided" takes the images in a random order, and ends when the gain of each defense is decided.
        save_points: which points of attacks on defenses the catalog keeps; those on the base model it keeps always.
    """

    defenses: Labels = ("none",)
    attacks: Labels = ("aa", "tr-apgd-ce")
    points: Listed = ()
    defense_arg: Arguments = Field(default_factory=dict)
    method: Listed = ()
    ranking: Listed = ()
    from_search: Listed = ()
    shard_size: int = Field(default=64, ge=1, le=MOST_SHARD_IMAGES)
    attack_seed: int | None = Field(default=None, ge=0, lt=2**63)
    judge_draws: int = Field(default=1, ge=DRAWS[0], le=DRAWS[1])
    mode: Literal["full", "cascade"] = "full"
    until: Literal["decided"] | None = None
    save_points: Literal["all", "broken", "none"] = "all"

    @property
    def in_random_order(self) -> bool:
        """Whether the evaluation may end before the last image: then the first ones must not be a kind of their own."""
        return self.until is not None

    def check(self) -> None:
        """Check labels as well."""
        super().check()
        if self.until and ("none" not in self.defenses or len({*self.defenses, *self.from_search}) < 2):
            raise InputError(
                "--until decided compares defenses with the undefended model; name it and another: --defenses none,…"
            )
        register_files(self.method, self.method_arg, taken=defense_names())
        for attack in expand_attacks(self.attacks):
            check_attack(attack)
        labels = [parse_defense(defense) for defense in self.defenses]
        defense_arguments(self.defense_arg, [label.label for label in labels if label.own])
        for name, file in map(split_method, self.method):
            if file is None:
                raise InputError(f"--method {name}: expected a ranking in a file, NAME=FILE.py:CLASS; leave {name} out")
            if name not in {label.method for label in labels}:
                raise InputError(f"--method {name}: no defense of the run uses it; add {name}-K to --defenses")
        noisy = any(label.registered.takes_noise for label in labels)
        if noisy:
            _ = self.noise
        for name in self.defense_arg:
            kind = name.partition(".")[0]
            if kind not in {label.argument_prefix for label in labels}:
                raise InputError(f"--defense-arg {name}: no defense of the run takes it; add {kind} to --defenses")
        # Rankings that exist already, and those of searches, come by their ids.
        if not self.ranking and not self.from_search:
            for method, flag in _options_of_others(self, {label.method for label in labels}):
                raise InputError(
                    f"{flag} is an option of {method} rankings, which no defense of the run uses; "
                    f"add {method}-K to --defenses, or leave it out"
                )
        ignored = {"sigma", "tau", "draws"} & self.model_fields_set
        if self.from_search and ignored and not noisy:
            names = ", ".join(f"--{name}" for name in sorted(ignored))
            raise InputError(f"a search has chosen σ, τ and draws; leave {names} out, or search again with them")


def load_settings(kind: type[Settings], *, file: str | Path | None, given: dict[str, object]) -> Settings:
    """Return settings from the environment, overridden by a YAML `file`, if any, and by what was `given` as flags.

    Raises:
        InputError: for an unreadable file, an unknown setting (naming close matches), or a value that does not fit.
    """
    values: dict[str, object] = {**environment_settings(), **(read_yaml(file) if file is not None else {}), **given}
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
