"""Rankings from units: image shards (and neuron shards) are computed apart and merged in one fixed order."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.catalog import Catalog
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.ranking.leave_one_out import LeaveOneOutSums, scores_from_sums
from igd_ray.ranking.random import random_scores
from igd_ray.ranking.scores import NeuronScores
from igd_ray.ranking.similarity import default_top_k, similarity_function
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Rows, Shard, Unit, is_done
from igd_ray.units.ranking import (
    ClassEmbeddingUnit,
    ImageEmbeddingUnit,
    LeaveOneOutUnit,
    PooledActivationUnit,
)

# Neurons a unit where the suffix is re-run for each of them.
SHARD_NEURONS = 64


@dataclass(frozen=True)
class RankedModel:
    """What is ranked.

    Attributes:
        model, model_id: the base model's label and fingerprint.
        dataset: the data's spec.
        layer: where the neurons are.
        class_names: one a class.
    """

    model: str
    model_id: str
    dataset: str
    layer: Layer
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class RankingPlan(ABC):
    """A ranking: what it is of, and which units give it.

    Attributes:
        method: "loir", "cdir" or "random".
        ranked: the model, its layer and its classes.
        options: what the scores depend on beside model, layer, images and seed; also for people.
        shards: the probe images.
        seed: what a random ranking is drawn from; 0 for the others.
    """

    method: str
    ranked: RankedModel
    options: Mapping[str, object]
    shards: tuple[Shard, ...] = ()
    seed: int = 0

    @property
    def units(self) -> Sequence[Unit]:
        """All units."""
        return ()

    @cached_property
    def ranking_id(self) -> str:
        """The hash of everything the scores depend on."""
        return unit_key(
            "ranking",
            method=self.method,
            model=self.ranked.model_id,
            layer=self.ranked.layer.identity,
            classes=list(self.ranked.class_names),
            options=dict(self.options),
            units=[unit.key for unit in self.units],
            seed=self.seed,
        )

    @abstractmethod
    def merge(self, catalog: Catalog) -> Tensor:
        """Return the scores, float64 [C, N], from the committed units."""


class RandomPlan(RankingPlan):
    """A ranking without information, drawn from the seed."""

    def merge(self, catalog: Catalog) -> Tensor:
        """Draw the scores."""
        layer = self.ranked.layer
        seed = derive_seed(self.ranking_id, "random-ranking")
        return random_scores(len(self.ranked.class_names), layer.width, seed=seed, layer=layer.name).scores


@dataclass(frozen=True)
class LeaveOneOutPlan(RankingPlan):
    """LO-IR.

    Attributes:
        every_class, signed: see `leave_one_out`.
        one_pass: whether one pass gives all neurons, as the rest of the model is linear.
        unit_neurons: neurons a unit; all where one pass gives them, as cutting them up would only repeat that pass.
    """

    every_class: bool = False
    signed: bool = False
    one_pass: bool = True
    unit_neurons: int = SHARD_NEURONS

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        width = self.ranked.layer.width
        step = width if self.one_pass else self.unit_neurons
        return [(start, min(start + step, width)) for start in range(0, width, step)]

    def _unit(self, shard: Shard, neurons: tuple[int, int]) -> LeaveOneOutUnit:
        return LeaveOneOutUnit(
            self.ranked.model_id,
            self.ranked.layer,
            shard,
            len(self.ranked.class_names),
            neurons,
            self.every_class,
            self.signed,
            self.one_pass,
        )

    @cached_property
    def units(self) -> Sequence[Unit]:
        """A unit for each shard of images and of neurons."""
        return [self._unit(shard, neurons) for shard in self.shards for neurons in self._ranges]

    def merge(self, catalog: Catalog) -> Tensor:
        """Add up the shards of images for each shard of neurons.

        Raises:
            InputError: if a class has no probe image.
        """
        columns = []
        for neurons in self._ranges:
            parts = [read_arrays(catalog, self._unit(shard, neurons).key) for shard in self.shards]
            sums = [LeaveOneOutSums(part["totals"], part["counts"]) for part in parts]
            columns.append(scores_from_sums(sums, self.ranked.class_names))
        return torch.cat(columns, dim=1)


@dataclass(frozen=True)
class ClipDissectPlan(RankingPlan):
    """CD-IR.

    Attributes:
        clip_identity: the hash of the CLIP model.
        prompts: one or more for each class.
        similarity: how activations and class similarities are compared.
    """

    clip_identity: str = ""
    prompts: tuple[tuple[str, ...], ...] = ()
    similarity: str = "soft-wpmi"

    @cached_property
    def _embeddings(self) -> list[Unit]:
        return [ImageEmbeddingUnit(self.clip_identity, shard) for shard in self.shards]

    @cached_property
    def _activations(self) -> list[Unit]:
        return [PooledActivationUnit(self.ranked.model_id, self.ranked.layer, shard) for shard in self.shards]

    @cached_property
    def _classes(self) -> Unit:
        return ClassEmbeddingUnit(self.clip_identity, self.prompts)

    @property
    def units(self) -> Sequence[Unit]:
        """Image embeddings and activations of each shard, and the embeddings of the classes."""
        return [self._classes, *self._embeddings, *self._activations]

    def merge(self, catalog: Catalog) -> Tensor:
        """Compare activations with similarities over all probe images."""
        text = read_arrays(catalog, self._classes.key)["embeddings"]
        images = torch.cat([read_arrays(catalog, unit.key)["embeddings"] for unit in self._embeddings])
        activations = torch.cat([read_arrays(catalog, unit.key)["activations"] for unit in self._activations])
        top_k = default_top_k(self.similarity, len(images))
        return similarity_function(self.similarity)(images @ text.T, activations, top_k=top_k)


@dataclass(frozen=True)
class ImportedPlan(RankingPlan):
    """Scores that were computed elsewhere.

    Attributes:
        scores: those.
    """

    scores: NeuronScores | None = None

    def merge(self, catalog: Catalog) -> Tensor:
        """Return the scores as they are."""
        assert self.scores is not None
        return self.scores.scores


@dataclass(frozen=True)
class StoredPlan(RankingPlan):
    """A ranking that is in the catalog.

    Attributes:
        stored_id: its id.
    """

    stored_id: str = ""

    @property
    def ranking_id(self) -> str:
        """The id it is stored under."""
        return self.stored_id

    def merge(self, catalog: Catalog) -> Tensor:
        """Return the scores as they are."""
        return read_ranking(catalog, self.stored_id).scores


def require_fit(what: str, row: Mapping[str, object], model_id: str, model: str, layer: Layer) -> None:
    """Check that `row`, of a ranking or a search, is of the model `model_id` and of `layer`.

    Raises:
        InputError: naming what it is of.
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
    details = {**plan.options, "layer_module": layer.module, "layer_side": layer.side}
    scores = NeuronScores(plan.merge(catalog), method=plan.method, layer=layer.name, details=details)
    catalog.commit("rankings", plan.ranking_id, _ranking_rows(plan, scores))
    return scores


def read_ranking(catalog: Catalog, ranking_id: str) -> NeuronScores:
    """Return a committed ranking.

    Raises:
        InputError: if there is none of that id.
    """
    table = catalog.read("rankings", ranking_id)
    classes, neurons = table["class_id"].to_numpy(), table["neuron"].to_numpy()
    values = torch.full((int(classes.max()) + 1, int(neurons.max()) + 1), float("nan"), dtype=torch.float64)
    values[torch.from_numpy(classes.copy()).long(), torch.from_numpy(neurons.copy()).long()] = torch.from_numpy(
        table["score"].to_numpy().copy()
    )
    first = table.slice(0, 1).to_pylist()[0]
    return NeuronScores(values, method=first["method"], layer=first["layer"], details=json.loads(first["details"]))


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
