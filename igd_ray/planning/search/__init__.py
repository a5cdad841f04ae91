"""The search for k, σ and τ on clean accuracy: caches are units, trials are rows, what was chosen is one more."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.catalog import Catalog
from igd_ray.config import SearchSettings
from igd_ray.defenses.interpretability_guided import CLASS_K
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.planning.rankings import RankingPlan, plan_ranking, stored_ranking
from igd_ray.planning.search.stored import read_trials
from igd_ray.planning.workspace import NamedModel, Workspace
from igd_ray.search import (
    BisectionSampler,
    ListSampler,
    Noise,
    PackageSampler,
    Sampler,
    SearchSpace,
    Setting,
    Trial,
    best_trials,
    grid,
    random_settings,
)
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Shard, Unit, is_done
from igd_ray.units.objective import ObjectiveSource, Record, ShardCaches, Source
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import ModelSource
from igd_ray.units.search import ActivationUnit, NoisyLogitsUnit

# How the next setting is found; "optuna" is a package of its own, and runs only under Ray Tune.
BISECTION, GRID, RANDOM, OPTUNA = "bisection", "grid", "random", "optuna"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        search_id: its id in the catalog.
        chosen: the best feasible trial; None if no setting is feasible.
        trials: every setting tried, by number.
        base_clean_accuracy: the base model's accuracy on the same images.
        robust_accuracy: that of the trials that were attacked, by number.
    """

    search_id: str
    chosen: Trial | None
    trials: tuple[Trial, ...]
    base_clean_accuracy: float
    robust_accuracy: Mapping[int, float]


@dataclass(frozen=True)
class SearchPlan:
    """A search.

    Attributes:
        ranking: whose masks are tried; None for a defense in a file that asks for no scores.
        settings: how settings are chosen, and how far clean accuracy may fall below the base model's.
        labels: int64 [n], of the search images.
        shards: the search images.
        space: what may be tried.
    """

    ranking: RankingPlan | None
    settings: SearchSettings
    labels: Tensor
    shards: tuple[Shard, ...]
    space: SearchSpace

    @property
    def base(self) -> NamedModel:
        """The model and its classes."""
        return self.mask_ranking.ranked

    @property
    def mask_ranking(self) -> RankingPlan:
        """The ranking, of a search for masks."""
        assert self.ranking is not None, "masks come from a ranking"
        return self.ranking

    @property
    def ranking_units(self) -> Sequence[Unit]:
        """The units of the ranking."""
        return () if self.ranking is None else self.ranking.units

    @property
    def ranking_id(self) -> str | None:
        """The ranking's id."""
        return None if self.ranking is None else self.ranking.ranking_id

    @property
    def method(self) -> str:
        """What the table calls its defenses, before K."""
        return self.mask_ranking.method

    @property
    def identity(self) -> Mapping[str, object]:
        """What the trials depend on beside ranking, caches and space."""
        return {}

    @property
    def details(self) -> Mapping[str, object]:
        """What its row tells beside its settings."""
        return {}

    def columns(self, setting: Setting) -> dict[str, object]:
        """Return the values of `setting` in the columns of a row."""
        k = setting.k if isinstance(setting.k, int) else None
        return {"k": k, "sigma": setting.sigma, "tau": setting.tau, "draws": setting.draws}

    def defense(self, setting: Setting, label: str) -> DefenseSpec:
        """Return the defense with `setting`, called `label`."""
        ranking = self.mask_ranking
        return defense_of(setting, label, ranking.ranked.model_id, ranking.ranked.layer, ranking.ranking_id)

    def usage(self, setting: Setting) -> str:
        """Return the flags that evaluate the defense with `setting`, which the search chose."""
        return f"--from-search {self.search_id}"

    def objective(self, catalog: Catalog, model: ModelSource) -> Source:
        """Return what measures a setting."""
        return load_objective(catalog, self, model)

    @cached_property
    def activations(self) -> tuple[Unit, ...]:
        """The units of the clean pass."""
        ranked = self.mask_ranking.ranked
        return tuple(ActivationUnit(ranked.model_id, ranked.layer, shard) for shard in self.shards)

    @cached_property
    def noisy_logits(self) -> dict[Noise, tuple[Unit, ...]]:
        """The units of the noisy passes, for each σ > 0 and number of draws."""
        noises = dict.fromkeys(Noise(sigma, draws) for sigma, _, draws in self.space.groups if sigma)
        ranked = self.mask_ranking.ranked
        return {
            noise: tuple(
                NoisyLogitsUnit(ranked.model_id, ranked.layer, shard, noise.sigma, noise.draws, self.settings.seed)
                for shard in self.shards
            )
            for noise in noises
        }

    @property
    def units(self) -> list[Unit]:
        """All units of the caches."""
        return [*self.activations, *(unit for units in self.noisy_logits.values() for unit in units)]

    @cached_property
    def search_id(self) -> str:
        """The hash of everything the search depends on."""
        settings = self.settings
        return unit_key(
            "search",
            ranking=self.ranking_id,
            units=[unit.key for unit in self.units],
            groups=[list(group) for group in self.space.groups],
            ks=list(self.space.ks),
            tolerance=settings.tolerance,
            sampler=settings.sampler,
            trials=settings.trials if settings.sampler in (RANDOM, OPTUNA) else None,
            k_mode=settings.k_mode,
            refine=[settings.refine, settings.refine_n] if settings.refine else None,
            seed=settings.seed,
            **self.identity,
        )[:12]

    def sampler(self) -> Sampler:
        """Return what chooses settings, told nothing yet."""
        settings, seed = self.settings, derive_seed(self.search_id, "sampler")
        if settings.sampler == GRID:
            return ListSampler(grid(self.space), settings.tolerance)
        if settings.sampler == RANDOM:
            return ListSampler(random_settings(self.space, settings.trials, seed), settings.tolerance)
        if settings.sampler == OPTUNA:
            return PackageSampler(OPTUNA, self.space, settings.tolerance, settings.trials, seed)
        classes = len(self.base.class_names)
        return BisectionSampler(self.space, settings.tolerance, k_mode=settings.k_mode, classes=classes)


def plan_search(workspace: Workspace[SearchSettings], ranking: RankingPlan) -> SearchPlan:
    """Plan the search with the masks of `ranking`.

    Raises:
        InputError: if k lies outside 1…N, search images may be evaluated too, or a class that has its own k lacks
            them.
    """
    settings, labels = workspace.settings, workspace.search.labels
    ks = search_ks(workspace)
    if settings.k_mode == "per-class":
        counts = torch.bincount(labels, minlength=len(workspace.class_names)).tolist()
        lacking = [name for name, count in zip(workspace.class_names, counts, strict=True) if not count]
        if lacking:
            raise InputError(
                f"a k for each class needs search images of every class, but there are none of "
                f"{', '.join(lacking[:5])}; raise --search-n"
            )
    taus, draw_counts = settings.taus or (settings.tau,), settings.draw_counts or (settings.draws,)
    space = SearchSpace(ks, settings.sigma_values, taus, draw_counts)
    return SearchPlan(ranking, settings, labels, workspace.shards("search"), space)


def search_ks(workspace: Workspace[SearchSettings]) -> Sequence[int]:
    """Return the candidates for k.

    Raises:
        InputError: if one lies outside 1…N, the neurons of the layer.
    """
    settings, layer = workspace.settings, workspace.layer
    ks = range(1, layer.width + 1) if settings.k_values is None else settings.k_values
    outside = next((k for k in ks if not 1 <= k <= layer.width), None)
    if outside is not None:
        raise InputError(f"k must lie in 1…{layer.width}, the neurons of {layer.name!r}, not {outside}")
    return ks


def plan_searches(workspace: Workspace[SearchSettings]) -> list[SearchPlan]:
    """Plan a search with each ranking that the settings name.

    Raises:
        InputError: as `plan_ranking`, `stored_ranking` and `plan_search` do.
    """
    settings = workspace.settings
    if settings.ranking is not None:
        return [plan_search(workspace, stored_ranking(workspace, settings.ranking))]
    return [plan_search(workspace, plan_ranking(workspace, method)) for method in settings.methods]


def load_objective(catalog: Catalog, plan: SearchPlan, model: ModelSource) -> ObjectiveSource:
    """Return the objective over the committed caches of `plan`.

    Raises:
        IncompleteError: if a cache is missing.
        InputError: if the ranking has another number of classes or neurons than the layer.
    """
    missing = [unit for unit in plan.units if not is_done(catalog, unit)]
    if missing:
        raise IncompleteError(f"search {plan.search_id} lacks {len(missing)} of {len(plan.units)} units; run it again")
    assert plan.ranking is not None, "caches are of masks"
    ranked, ranking_id = plan.ranking.ranked, plan.ranking.ranking_id
    scores = read_ranking(catalog, ranking_id).scores
    expected = [len(ranked.class_names), ranked.layer.width]
    if list(scores.shape) != expected:
        raise InputError(
            f"ranking {ranking_id} has [classes, neurons] {list(scores.shape)}, "
            f"the layer {ranked.layer.name!r} {expected}; rank it again"
        )
    shards = []
    start = 0
    for place, (unit, shard) in enumerate(zip(plan.activations, plan.shards, strict=True)):
        clean = {name: tensor.numpy() for name, tensor in read_arrays(catalog, unit.key).items()}
        first = {
            noise: read_arrays(catalog, units[place].key)["logits"].numpy()
            for noise, units in plan.noisy_logits.items()
        }
        first.update({Noise(0.0, 1): clean["logits"]})
        labels = plan.labels[start : start + len(shard.ids)].numpy()
        shards.append(ShardCaches(clean["activations"], clean["logits"], first, labels, clean.get("rest")))
        start += len(shard.ids)
    return ObjectiveSource(model, ranked.layer, scores.numpy(), tuple(shards))


def run_trials(
    catalog: Catalog,
    plan: SearchPlan,
    model: ModelSource,
    search: Callable[[Source, Sampler, Record], None],
) -> list[Trial]:
    """Run the trials of `plan` that the catalog lacks, committing each, and return all of them by number.

    Args:
        catalog: where finished trials are, and where new ones go.
        plan: the search.
        model: how the base model is loaded where trials run.
        search: runs what a sampler asks for; not called where nothing is left.
    """
    sampler = plan.sampler()
    trials = {trial.number: trial for trial in read_trials(catalog, plan.search_id)}
    for number in sorted(trials):
        sampler.tell(trials[number])

    def record(trial: Trial) -> None:
        catalog.commit("trials", f"{plan.search_id}-{trial.number:06d}", [_trial_row(plan, trial)])
        trials[trial.number] = trial

    if not sampler.finished:
        search(plan.objective(catalog, model), sampler, record)
    return [trials[number] for number in sorted(trials)]


def finish_search(
    catalog: Catalog, plan: SearchPlan, trials: Sequence[Trial], robust_accuracy: Mapping[int, float]
) -> SearchResult:
    """Choose among `trials`, commit the choice, and return it.

    The best feasible trial is the one of the smallest k, of the highest clean accuracy among equals; where some were
    attacked, it is the one of these with the highest robust accuracy.
    """
    best = best_trials(trials)
    if robust_accuracy:
        best = sorted(
            (trial for trial in best if trial.number in robust_accuracy),
            key=lambda trial: (-robust_accuracy[trial.number], trial.order),
        )
    chosen = best[0] if best else None
    if chosen is not None:
        catalog.commit("searches", plan.search_id, [_search_row(plan, chosen)])
    return SearchResult(
        plan.search_id, chosen, tuple(trials), trials[0].measurement.base_accuracy, dict(robust_accuracy)
    )


def defense_of(setting: Setting, label: str, model_id: str, layer: Layer, ranking_id: str) -> DefenseSpec:
    """Return the defense with `setting`, called `label`."""
    class_k = setting.k if isinstance(setting.k, tuple) else None
    return DefenseSpec(
        label=label,
        model_id=model_id,
        kind="masking",
        k=setting.k if isinstance(setting.k, int) else None,
        sigma=setting.sigma,
        tau=setting.tau,
        draws=setting.draws,
        layer=layer,
        ranking_id=ranking_id,
        arguments=() if class_k is None else ((CLASS_K, ",".join(str(k) for k in class_k)),),
    )


def _shared(plan: SearchPlan, setting: Setting) -> dict[str, object]:
    return {
        "search_id": plan.search_id,
        "model": plan.base.model,
        "dataset": plan.settings.data,
        "method": plan.method,
        "ranking_id": plan.ranking_id,
        "layer": None if plan.ranking is None else plan.ranking.ranked.layer.name,
        "class_k": list(setting.k) if isinstance(setting.k, tuple) else None,
        **plan.columns(setting),
        "n": len(plan.labels),
        "tolerance": plan.settings.tolerance,
    }


def _trial_row(plan: SearchPlan, trial: Trial) -> dict[str, object]:
    measurement = trial.measurement
    low, high = measurement.interval
    return {
        **_shared(plan, trial.setting),
        "trial": trial.number,
        "clean_accuracy": measurement.accuracy,
        "base_clean_accuracy": measurement.base_accuracy,
        "feasible": trial.feasible,
        "difference": measurement.accuracy - measurement.base_accuracy,
        "difference_low": low,
        "difference_high": high,
        "class_images": list(measurement.images),
        "class_base_correct": list(measurement.base_correct),
        "class_gained": list(measurement.gained),
        "class_lost": list(measurement.lost),
        "seconds": trial.seconds,
    }


def _search_row(plan: SearchPlan, chosen: Trial) -> dict[str, object]:
    names = ("seed", "sampler", "k_mode", "refine")
    details = {**{name: getattr(plan.settings, name) for name in names}, **plan.details}
    return {
        **_shared(plan, chosen.setting),
        "model_id": plan.base.model_id,
        "split": plan.settings.search_split,
        "clean_accuracy": chosen.measurement.accuracy,
        "base_clean_accuracy": chosen.measurement.base_accuracy,
        "details": json.dumps(details, sort_keys=True),
    }
