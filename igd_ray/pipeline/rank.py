"""Rankings from units: image shards (and neuron shards) are computed apart and merged in one fixed order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from igd_ray.catalog import Catalog
from igd_ray.errors import IncompleteError, InputError, did_you_mean
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.pipeline.arrays import TABLE, array_rows, read_arrays
from igd_ray.pipeline.setup import Context
from igd_ray.pipeline.unit import Rows, Shard, Unit, is_done
from igd_ray.ranking.clip_dissect import pooled_activations, soft_wpmi
from igd_ray.ranking.leave_one_out import LeaveOneOutSums, leave_one_out_sums, scores_from_sums
from igd_ray.ranking.random import random_scores
from igd_ray.ranking.scores import METHODS, NeuronScores

# Images a unit; neurons a unit where the suffix is re-run for each of them.
SHARD_IMAGES = 512
SHARD_NEURONS = 64


@dataclass(frozen=True)
class LeaveOneOutUnit:
    """LO-IR sums of one shard of probe images, for a range of neurons."""

    model_id: str
    layer: Layer
    shard: Shard
    num_classes: int
    neurons: tuple[int, int]

    kind = "leave-one-out"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, layer, images and neurons."""
        return unit_key(
            "ranking",
            method="loir",
            model=self.model_id,
            layer=[self.layer.module, self.layer.side],
            images=self.shard.digest,
            neurons=list(self.neurons),
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute the sums."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        sums = leave_one_out_sums(
            context.model, self.layer, images, labels, self.num_classes, neurons=range(*self.neurons)
        )
        return {TABLE: array_rows(self.key, {"totals": sums.totals, "counts": sums.counts})}


@dataclass(frozen=True)
class DissectUnit:
    """Pooled activations, and similarities to the class prompts, of one shard of probe images."""

    model_id: str
    layer: Layer
    shard: Shard
    clip_identity: str
    prompts: tuple[str, ...]

    kind = "clip-dissect"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, layer, images, CLIP and prompts."""
        return unit_key(
            "ranking",
            method="cdir",
            model=self.model_id,
            layer=[self.layer.module, self.layer.side],
            images=self.shard.digest,
            clip=self.clip_identity,
            prompts=list(self.prompts),
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute both."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        similarity = context.clip.embed_images(images) @ context.clip.embed_text(self.prompts).T
        activations = pooled_activations(context.model, self.layer, images)
        return {TABLE: array_rows(self.key, {"similarity": similarity, "activations": activations})}


@dataclass(frozen=True)
class RankingPlan:
    """A ranking: what it is made of, and which units give it.

    Attributes:
        method: "loir", "cdir" or "random".
        model, model_id: the base model's label and fingerprint.
        dataset: the probe set's spec.
        layer: where the neurons are.
        class_names: one a class.
        probe_images: how many there are.
        details: what else the scores depend on, for people.
        shards: the units, image shard by image shard; each holds the units of its neuron shards.
        seed: what a random ranking is drawn from.
    """

    method: str
    model: str
    model_id: str
    dataset: str
    layer: Layer
    class_names: tuple[str, ...]
    probe_images: int
    details: Mapping[str, object]
    shards: tuple[tuple[Unit, ...], ...]
    seed: int = 0

    @cached_property
    def ranking_id(self) -> str:
        """The hash of everything the scores depend on."""
        return unit_key(
            "ranking",
            method=self.method,
            model=self.model_id,
            layer=[self.layer.module, self.layer.side],
            classes=list(self.class_names),
            units=[[unit.key for unit in units] for units in self.shards],
            seed=self.seed,
        )

    @property
    def units(self) -> list[Unit]:
        """All units."""
        return [unit for units in self.shards for unit in units]


def plan_ranking(
    method: str,
    *,
    model: str,
    model_id: str,
    dataset: str,
    layer: Layer,
    class_names: tuple[str, ...],
    shards: Sequence[Shard],
    clip_identity: str | None = None,
    prompts: tuple[str, ...] | None = None,
    seed: int = 0,
) -> RankingPlan:
    """Plan the ranking of `layer` by `method` over the probe images in `shards`.

    Raises:
        InputError: for an unknown method, or CD-IR without a CLIP.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not {method!r}{did_you_mean(method, METHODS)}")
    details: dict[str, object] = {"layer_module": layer.module, "layer_side": layer.side}
    units: list[tuple[Unit, ...]] = []
    if method == "loir":
        # A linear head needs one pass for all neurons; cutting it up would only repeat that pass.
        step = layer.width if layer.side == "input" else SHARD_NEURONS
        ranges = [(start, min(start + step, layer.width)) for start in range(0, layer.width, step)]
        units = [
            tuple(LeaveOneOutUnit(model_id, layer, shard, len(class_names), neurons) for neurons in ranges)
            for shard in shards
        ]
    elif method == "cdir":
        if clip_identity is None:
            raise InputError("CD-IR needs a CLIP model: pass --clip, for example ViT-B-16/openai")
        prompts = prompts or class_names
        details |= {"clip": clip_identity, "prompts": list(prompts)}
        units = [(DissectUnit(model_id, layer, shard, clip_identity, prompts),) for shard in shards]
    else:
        details["seed"] = seed
    return RankingPlan(
        method=method,
        model=model,
        model_id=model_id,
        dataset=dataset,
        layer=layer,
        class_names=class_names,
        probe_images=sum(len(shard.ids) for shard in shards) if method != "random" else 0,
        details=details,
        shards=tuple(units),
        seed=seed if method == "random" else 0,
    )


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
    if plan.method == "loir":
        columns = []
        for position in range(len(plan.shards[0])):
            parts = [read_arrays(catalog, units[position].key) for units in plan.shards]
            sums = [LeaveOneOutSums(part["totals"], part["counts"]) for part in parts]
            columns.append(scores_from_sums(sums, plan.class_names))
        values = torch.cat(columns, dim=1)
    elif plan.method == "cdir":
        parts = [read_arrays(catalog, unit.key) for unit in plan.units]
        values = soft_wpmi(
            torch.cat([part["similarity"] for part in parts]), torch.cat([part["activations"] for part in parts])
        )
    else:
        seed = derive_seed(plan.ranking_id, "random-ranking")
        values = random_scores(len(plan.class_names), plan.layer.width, seed=seed, layer=plan.layer.name).scores
    scores = NeuronScores(values, method=plan.method, layer=plan.layer.name, details=plan.details)
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
        "model": plan.model,
        "model_id": plan.model_id,
        "dataset": plan.dataset,
        "layer": plan.layer.name,
        "probe_images": plan.probe_images,
        "details": json.dumps(plan.details, sort_keys=True),
    }
    return [
        {**shared, "class_id": c, "class_name": name, "neuron": i, "score": values[c][i], "rank": ranks[c][i]}
        for c, name in enumerate(plan.class_names)
        for i in range(len(values[c]))
    ]
