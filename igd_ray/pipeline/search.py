"""The search for k on clean accuracy: caches are units, trials are small and run where the search is asked for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from igd_ray.catalog import Catalog
from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.models.layers import classifier, recorded
from igd_ray.pipeline.arrays import TABLE, array_rows, read_arrays
from igd_ray.pipeline.rank import RankedModel, RankingPlan, read_ranking
from igd_ray.pipeline.setup import Context
from igd_ray.pipeline.unit import Rows, Shard, Unit, is_done
from igd_ray.search import Bisection, CachedObjective


@dataclass(frozen=True)
class ActivationUnit:
    """a(x) at the penultimate layer and f(x), for one shard of search images."""

    model_id: str
    layer: Layer
    shard: Shard

    kind = "activations"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, layer and images."""
        return unit_key(
            "search",
            cache="activations",
            model=self.model_id,
            layer=self.layer.identity,
            images=self.shard.digest,
        )

    @torch.no_grad()
    def compute(self, context: Context) -> dict[str, Rows]:
        """Run one pass."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        with recorded(context.model, self.layer) as activations:
            logits = context.model(images)
        return {TABLE: array_rows(self.key, {"activations": activations[0], "logits": logits})}


@dataclass(frozen=True)
class NoisyLogitsUnit:
    """The first pass's logits for one σ and number of draws, for one shard of search images."""

    model_id: str
    layer: Layer
    shard: Shard
    sigma: float
    draws: int
    seed: int

    kind = "noisy-logits"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, images, σ, draws and seed."""
        return unit_key(
            "search",
            cache="noisy-logits",
            model=self.model_id,
            images=self.shard.digest,
            sigma=self.sigma,
            draws=self.draws,
            seed=self.seed,
        )

    @torch.no_grad()
    def compute(self, context: Context) -> dict[str, Rows]:
        """Run the noisy passes, with the defense's own code."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        defense = InterpretabilityGuidedDefense(
            context.model,
            torch.ones(1, self.layer.width),
            layer=self.layer,
            sigma=self.sigma,
            draws=self.draws,
            generator=torch.Generator().manual_seed(derive_seed(self.key, "noise")),
        )
        return {TABLE: array_rows(self.key, {"logits": defense.first_logits(images)})}


@dataclass(frozen=True)
class Trial:
    """One k that was tried."""

    k: int
    clean_accuracy: float
    feasible: bool


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        search_id: its id in the catalog.
        chosen: the smallest feasible k, with its accuracy; None if no k is feasible.
        trials: every k tried, in order.
        base_clean_accuracy: the base model's accuracy on the same images.
    """

    search_id: str
    chosen: Trial | None
    trials: tuple[Trial, ...]
    base_clean_accuracy: float


@dataclass(frozen=True)
class SearchPlan:
    """A search for k.

    Attributes:
        ranking: whose masks are tried.
        split: where the search images come from.
        labels: int64 [n], of the search images.
        shards: the search images.
        sigma, tau, draws: the defense's other settings, fixed.
        tolerance: how far, as a fraction, clean accuracy may fall below the base model's.
        seed: the run's seed.
    """

    ranking: RankingPlan
    dataset: str
    split: str
    labels: Tensor
    shards: tuple[Shard, ...]
    sigma: float
    tau: float
    draws: int
    tolerance: float
    seed: int

    @property
    def ranked(self) -> RankedModel:
        """The model, layer and classes."""
        return self.ranking.ranked

    @cached_property
    def activations(self) -> tuple[Unit, ...]:
        """The units of the clean pass."""
        return tuple(ActivationUnit(self.ranked.model_id, self.ranked.layer, shard) for shard in self.shards)

    @cached_property
    def noisy_logits(self) -> tuple[Unit, ...]:
        """The units of the noisy passes; none without noise."""
        if self.sigma == 0:
            return ()
        return tuple(
            NoisyLogitsUnit(self.ranked.model_id, self.ranked.layer, shard, self.sigma, self.draws, self.seed)
            for shard in self.shards
        )

    @property
    def units(self) -> list[Unit]:
        """All units."""
        return [*self.activations, *self.noisy_logits]

    @cached_property
    def search_id(self) -> str:
        """The hash of everything the search depends on."""
        return unit_key(
            "search",
            ranking=self.ranking.ranking_id,
            units=[unit.key for unit in self.units],
            tau=self.tau,
            tolerance=self.tolerance,
        )[:12]


def check_searchable(layer: Layer) -> None:
    """Check that trials can be made from caches.

    Raises:
        InputError: for a layer other than the penultimate one.
    """
    if layer.side != "input":
        raise InputError(
            f"the search for k needs the penultimate layer, where a trial costs no forward pass, not {layer.name!r}; "
            "for another layer give k yourself, as in --defenses loir-50"
        )


def load_objective(catalog: Catalog, plan: SearchPlan, model: nn.Module) -> CachedObjective:
    """Return the objective over the committed caches of `plan`.

    Raises:
        IncompleteError: if a cache is missing.
    """
    missing = [unit for unit in plan.units if not is_done(catalog, unit)]
    if missing:
        raise IncompleteError(f"search {plan.search_id} lacks {len(missing)} of {len(plan.units)} units; run it again")
    head = classifier(model, plan.ranked.layer)
    assert head is not None
    clean = [read_arrays(catalog, unit.key) for unit in plan.activations]
    base_logits = torch.cat([part["logits"] for part in clean])
    noisy = [read_arrays(catalog, unit.key)["logits"] for unit in plan.noisy_logits]
    return CachedObjective(
        activations=torch.cat([part["activations"] for part in clean]),
        first_logits=torch.cat(noisy) if noisy else base_logits,
        base_logits=base_logits,
        labels=plan.labels,
        head=head,
    )


def run_search(catalog: Catalog, plan: SearchPlan, model: nn.Module) -> SearchResult:
    """Bisect for k, committing every trial and, at the end, the setting chosen."""
    objective = load_objective(catalog, plan, model)
    scores = read_ranking(catalog, plan.ranking.ranking_id)
    bisection = Bisection(plan.ranked.layer.width)
    trials: list[Trial] = []
    for k in _asked(bisection):
        accuracy = objective.accuracy(class_masks(scores, k), plan.tau)
        trial = Trial(k, accuracy, feasible=_within(plan, accuracy, objective.base_accuracy))
        bisection.tell(k, trial.feasible)
        catalog.commit(
            "trials", f"{plan.search_id}-{len(trials):04d}", [_trial_row(plan, len(trials), trial, objective)]
        )
        trials.append(trial)
    chosen = next((trial for trial in trials if trial.k == bisection.best), None)
    result = SearchResult(plan.search_id, chosen, tuple(trials), objective.base_accuracy)
    if chosen is not None:
        catalog.commit("searches", plan.search_id, [_search_row(plan, chosen, objective)])
    return result


def read_search(catalog: Catalog, search_id: str) -> dict[str, object]:
    """Return the row of a finished search.

    Raises:
        InputError: if there is none of that id.
    """
    row: dict[str, object] = catalog.read("searches", search_id).to_pylist()[0]
    return row


def _within(plan: SearchPlan, accuracy: float, base_accuracy: float) -> bool:
    """Compare numbers of images: a fraction such as 0.8 − 0.1 is no float."""
    return (base_accuracy - accuracy) * len(plan.labels) <= plan.tolerance * len(plan.labels) + 1e-6


def _asked(bisection: Bisection) -> Iterator[int]:
    while (k := bisection.next_k()) is not None:
        yield k


def _shared(plan: SearchPlan) -> dict[str, object]:
    ranking = plan.ranking
    return {
        "search_id": plan.search_id,
        "model": plan.ranked.model,
        "dataset": plan.dataset,
        "method": ranking.method,
        "ranking_id": ranking.ranking_id,
        "layer": plan.ranked.layer.name,
        "sigma": plan.sigma,
        "tau": plan.tau,
        "draws": plan.draws,
        "n": len(plan.labels),
        "tolerance": plan.tolerance,
    }


def _trial_row(plan: SearchPlan, number: int, trial: Trial, objective: CachedObjective) -> dict[str, object]:
    return {
        **_shared(plan),
        "trial": number,
        "k": trial.k,
        "clean_accuracy": trial.clean_accuracy,
        "base_clean_accuracy": objective.base_accuracy,
        "feasible": trial.feasible,
    }


def _search_row(plan: SearchPlan, chosen: Trial, objective: CachedObjective) -> dict[str, object]:
    return {
        **_shared(plan),
        "model_id": plan.ranked.model_id,
        "split": plan.split,
        "k": chosen.k,
        "clean_accuracy": chosen.clean_accuracy,
        "base_clean_accuracy": objective.base_accuracy,
        "details": json.dumps({"seed": plan.seed, "sampler": "bisection"}, sort_keys=True),
    }
