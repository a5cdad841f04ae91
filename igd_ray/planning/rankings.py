"""Rankings from units: states of shards of images and ranges of neurons, merged in the order of the images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.catalog import Catalog
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.ranking import NeuronScores, Ranking, State, Statistic
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Rows, Shard, Unit, is_done
from igd_ray.units.ranking import NO_IMAGES, RankingUnit


@dataclass(frozen=True)
class RankedModel:
    """What a ranking is of.

    Attributes:
        model, model_id: the base model's label and fingerprint.
        dataset: the data's spec.
        layer: whose neurons are ranked.
        class_names: of its classes.
    """

    model: str
    model_id: str
    dataset: str
    layer: Layer
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class RankingPlan:
    """A ranking, and the units that give it.

    Attributes:
        method: what the ranking is called in the catalog.
        ranked: the model, its layer and its classes.
        ranking: the prepared method.
        shards: the probe images; none for a method that reads none.
        clip_id: the hash of the CLIP model's identity, for a method that reads it.
        stored_id: of a ranking that is in the catalog already.
    """

    method: str
    ranked: RankedModel
    ranking: Ranking
    shards: tuple[Shard, ...] = ()
    clip_id: str | None = None
    stored_id: str | None = None

    @cached_property
    def ranking_id(self) -> str:
        """The hash of everything the scores depend on."""
        if self.stored_id is not None:
            return self.stored_id
        return unit_key(
            "ranking",
            method=self.method,
            model=self.ranked.model_id,
            layer=self.ranked.layer.identity,
            classes=list(self.ranked.class_names),
            options=self.ranking.options,
            units=[unit.key for unit in self.units],
            seed=self.ranking.seed,
        )

    @property
    def units(self) -> Sequence[Unit]:
        """The units of each statistic, for each shard of images and then for each range of neurons."""
        return [
            unit
            for statistic in self.ranking.statistics()
            for neurons in self._units_by_shard(statistic)
            for unit in neurons
        ]

    def _units_by_shard(self, statistic: Statistic) -> list[list[RankingUnit]]:
        """Return the units of `statistic`: a list for each shard, of a unit for each range of neurons."""
        layer = self.ranked.layer
        shards = self.shards if "images" in statistic.reads else (NO_IMAGES,)
        return [
            [
                RankingUnit(statistic, self.ranked.model_id, layer, self.clip_id, shard, neurons)
                for neurons in statistic.neuron_ranges(layer.width)
            ]
            for shard in shards
        ]

    def scores(self, catalog: Catalog) -> Tensor:
        """Return the scores, [C, N], from the committed units.

        Raises:
            InputError: if there are too few probe images.
        """
        ranking = self.ranking
        if ranking.uses_seed:
            ranking = replace(ranking, seed=derive_seed(self.ranking_id, f"{self.method}-ranking"))
        statistics = ranking.statistics()
        merged: list[list[State]] = []
        for statistic in statistics:
            by_shard = self._units_by_shard(statistic)
            states = [[read_arrays(catalog, unit.key) for unit in units] for units in by_shard]
            merged.append([statistic.merge(of_neurons) for of_neurons in zip(*states, strict=True)])
        if not statistics:
            return ranking.scores(())
        return torch.cat([ranking.scores(states) for states in zip(*merged, strict=True)], dim=1)


def require_fit(what: str, row: Mapping[str, object], model_id: str, model: str, layer: Layer) -> None:
    """Check that a ranking or a search, given by a `row` of its table, is of the model `model_id` and of `layer`.

    Raises:
        InputError: naming the model or the layer that it is of.
    """
    if row["model_id"] != model_id:
        raise InputError(f"{what} is of another model ({row['model']}) than {model}")
    if row["layer"] != layer.name:
        raise InputError(f"{what} is of layer {row['layer']!r}, not {layer.name!r}; pass --layer")


def finish_ranking(catalog: Catalog, plan: RankingPlan) -> NeuronScores:
    """Merge the units of `plan`, commit the ranking, and return it.

    Raises:
        IncompleteError: if a unit is missing: a ranking is complete or it is an error.
        InputError: if a class has no probe image, or there are too few.
    """
    missing = [unit.key for unit in plan.units if not is_done(catalog, unit)]
    if missing:
        raise IncompleteError(
            f"ranking {plan.ranking_id[:12]} ({plan.method}) lacks {len(missing)} of {len(plan.units)} units; "
            "run the same command again to compute them"
        )
    layer = plan.ranked.layer
    details = {**plan.ranking.options, "layer_module": layer.module, "layer_side": layer.side}
    scores = NeuronScores(plan.scores(catalog), method=plan.method, layer=layer.name, details=details)
    catalog.commit("rankings", plan.ranking_id, _ranking_rows(plan, scores))
    return scores


def _ranking_rows(plan: RankingPlan, scores: NeuronScores) -> Rows:
    values, ranks = scores.scores.tolist(), scores.ranks().tolist()
    shared = {
        "ranking_id": plan.ranking_id,
        "method": plan.method,
        "model": plan.ranked.model,
        "model_id": plan.ranked.model_id,
        "dataset": plan.ranked.dataset,
        "layer": plan.ranked.layer.name,
        "probe_images": sum(len(shard.ids) for shard in plan.shards),
        "details": json.dumps(scores.details, sort_keys=True),
    }
    return [
        {**shared, "class_id": c, "class_name": name, "neuron": i, "score": values[c][i], "rank": ranks[c][i]}
        for c, name in enumerate(plan.ranked.class_names)
        for i in range(len(values[c]))
    ]
