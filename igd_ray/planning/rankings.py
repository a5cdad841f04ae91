"""Rankings from units: states of shards of images and ranges of neurons, merged in the order of the images."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.catalog import Catalog
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.models.sources import code_digest, contained
from igd_ray.planning.workspace import CLIP, AnyWorkspace, NamedModel
from igd_ray.ranking import (
    GivenRanking,
    NeuronScores,
    Probe,
    Ranking,
    State,
    Statistic,
    import_rankings,
    ranking_class,
)
from igd_ray.ranking.in_process import LocalModels
from igd_ray.ranking.own import FILES, TRIED_IMAGES, own_settings, require_scores, try_out
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Rows, Shard, Unit, is_done
from igd_ray.units.ranking import NO_IMAGES, RankingUnit, read_ranking


@dataclass(frozen=True)
class RankedModel(NamedModel):
    """What a ranking is of.

    Attributes:
        layer: whose neurons are ranked.
    """

    layer: Layer

    @classmethod
    def of(cls, workspace: AnyWorkspace) -> "RankedModel":
        """Return the model of `workspace`, with the layer that rankings are computed for."""
        return cls(**asdict(workspace.named), layer=workspace.layer)


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
        # One set of states for each range of neurons; one without any where there are no statistics.
        ranges = list(zip(*merged, strict=True)) or [()]
        return torch.cat([ranking.scores(states) for states in ranges], dim=1)


def plan_ranking(workspace: AnyWorkspace, method: str) -> RankingPlan:
    """Plan the ranking of the workspace's layer by `method`.

    Raises:
        InputError: for an unknown method, or a probe set that lacks a class or has too few images for it.
    """
    ranking = make_ranking(workspace, method)
    reads_images = "images" in ranking.reads
    if code_digest(type(ranking)) is not None:
        _try_out(workspace, ranking)
    return RankingPlan(
        method,
        RankedModel.of(workspace),
        ranking,
        workspace.shards("probe") if reads_images else (),
        content_hash(workspace.loaded_clip.identity) if "clip" in ranking.reads else None,
    )


def make_ranking(workspace: AnyWorkspace, method: str) -> Ranking:
    """Return the ranking of the workspace's layer by `method`, prepared, before anything is computed.

    Raises:
        InputError: for an unknown method, or a probe set that lacks a class or has too few images for it.
    """
    kind = ranking_class(method)
    layer, settings = workspace.layer, workspace.settings
    labels = workspace.probe.labels if "images" in kind.reads else torch.empty(0, dtype=torch.int64)
    if "clip" in kind.reads:
        workspace.uses.add(CLIP)
    own = code_digest(kind) is not None
    # Settings of the package's own methods have flags of their own.
    given = (
        own_settings(method, kind, settings.method_arg)
        if own
        else {name: getattr(settings, name) for name in kind.setting_names()}
    )
    with contained(kind.__qualname__) if own else nullcontext():
        ranking = kind(layer, tuple(workspace.class_names), seed=settings.seed if kind.uses_seed else 0, **given)
        ranking = ranking.prepared(Probe(workspace.example, labels, lambda: workspace.loaded_clip))
        return ranking.sharded(workspace.model, workspace.example)


def models_of(workspace: AnyWorkspace) -> LocalModels:
    """Return the models that rankings read, in this process."""
    return LocalModels(workspace.model, lambda: workspace.loaded_clip)


def probe_examples(workspace: AnyWorkspace, ranking: Ranking, *, per_class: int, most: int) -> tuple[Tensor, Tensor]:
    """Return the first probe images of each class, and their labels; none where the ranking reads no images.

    Args:
        workspace: the images.
        ranking: what would be computed of them.
        per_class: how many of each class, where there are so many.
        most: how many at most.
    """
    if "images" not in ranking.reads:
        return workspace.example[:0], torch.empty(0, dtype=torch.int64)
    places: dict[int, list[int]] = {}
    for place, label in enumerate(workspace.probe.labels.tolist()):
        places.setdefault(label, []).append(place)
    chosen = sorted(place for of_class in places.values() for place in of_class[:per_class])[:most]
    return next(iter(workspace.probe.select(chosen).batches(most)))


def _try_out(workspace: AnyWorkspace, ranking: Ranking) -> None:
    """Try out a ranking of the user's own on the first image of each class, and have workers bring its file along."""
    if (file := FILES.get(type(ranking))) is not None:
        workspace.bring_code(file)
    images, labels = probe_examples(workspace, ranking, per_class=1, most=TRIED_IMAGES)
    count = len(workspace.probe) if len(images) else 0
    try_out(ranking, images, labels, count, models_of(workspace))


def import_ranking(workspace: AnyWorkspace, method: str, folder: str) -> RankingPlan:
    """Return the ranking by `method` that the authors' scripts saved in `folder`, to be committed.

    Raises:
        InputError: if the folder holds no complete ranking of this layer and these classes.
    """
    layer = workspace.layer
    scores = import_rankings(
        folder, num_classes=len(workspace.class_names), width=layer.width, layer=layer.name, method=method
    )
    return RankingPlan(
        method, RankedModel.of(workspace), GivenRanking(layer, tuple(workspace.class_names), given=scores)
    )


def stored_ranking(workspace: AnyWorkspace, ranking_id: str) -> RankingPlan:
    """Return the committed ranking `ranking_id`.

    Raises:
        InputError: if there is none, or it is of another model, layer or classes.
    """
    rows = workspace.catalog.read("rankings", ranking_id)
    first = rows.slice(0, 1).to_pylist()[0]
    require_fit(f"ranking {ranking_id}", first, workspace.model_id, workspace.source.label, workspace.layer)
    names = dict(zip(rows["class_id"].to_pylist(), rows["class_name"].to_pylist(), strict=True))
    if [names[label] for label in sorted(names)] != list(workspace.class_names):
        raise InputError(f"ranking {ranking_id} is of other classes than the data's; rank anew, without --ranking")
    ranking = GivenRanking(
        workspace.layer, tuple(workspace.class_names), given=read_ranking(workspace.catalog, ranking_id)
    )
    return RankingPlan(str(first["method"]), RankedModel.of(workspace), ranking, stored_id=ranking_id)


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
    values = plan.scores(catalog)
    require_scores(values, len(plan.ranked.class_names), layer.width, type(plan.ranking).__qualname__)
    scores = NeuronScores(values, method=plan.method, layer=layer.name, details=details)
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
