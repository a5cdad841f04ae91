"""Settings of the verbs that rank, train, search and evaluate."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from igd_ray.attacks.own import check_attack
from igd_ray.attacks.registry import expand_attacks, is_in_a_file, parse_attack
from igd_ray.config.base import (
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
    WorkspaceSettings,
    as_numbers,
    at_commas,
    options_of_others,
    require_range,
    whole_numbers,
)
from igd_ray.defenses.specs import defense_arguments, defense_names, parse_defense
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import PENULTIMATE
from igd_ray.ranking import ranking_class
from igd_ray.ranking.own import register_files, split_method
from igd_ray.threat import Norm


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
        for method, flag in options_of_others(self, computed):
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
                    "--sampler optuna needs a package of its own: pip install 'igd-ray[optuna]'; "
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
        engine: whose code searches: "pyautoattack", or "pooled", the engine of this project, where an attack has both.
        save_points: which points of attacks on defenses the catalog keeps; None: all of images up to 64×64, else those
            that broke their image. Those on the base model it keeps always.
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
    engine: Literal["pyautoattack", "pooled"] = "pyautoattack"
    save_points: Literal["all", "broken", "none"] | None = None

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
        if self.method or self.method_arg:
            register_files(self.method, self.method_arg, taken=defense_names())
        for attack in expand_attacks(self.attacks):
            if is_in_a_file(attack):
                check_attack(attack)
            else:
                parse_attack(attack)
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
            for method, flag in options_of_others(self, {label.method for label in labels}):
                raise InputError(
                    f"{flag} is an option of {method} rankings, which no defense of the run uses; "
                    f"add {method}-K to --defenses, or leave it out"
                )
        ignored = {"sigma", "tau", "draws"} & self.model_fields_set
        if self.from_search and ignored and not noisy:
            names = ", ".join(f"--{name}" for name in sorted(ignored))
            raise InputError(f"a search has chosen σ, τ and draws; leave {names} out, or search again with them")
