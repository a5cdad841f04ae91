"""Which units the training of SODEF needs, and what its committed epochs tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from igd_ray.catalog import Catalog
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.errors import InputError
from igd_ray.identity import content_hash
from igd_ray.models import PENULTIMATE, Layer
from igd_ray.planning.workspace import AnyWorkspace
from igd_ray.ranking.leave_one_out import require_every_class
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Shard, Unit, is_done
from igd_ray.units.search import ActivationUnit
from igd_ray.units.training import SodefEpochUnit

TRAINING_COLUMNS = pa.schema(
    [("epoch", pa.int64()), ("stage", pa.string()), ("loss", pa.float64()), ("accuracy", pa.float64())]
)


@dataclass(frozen=True)
class SodefPlan:
    """A training: the units of its features, and those of its epochs in order."""

    features: tuple[ActivationUnit, ...]
    epochs: tuple[SodefEpochUnit, ...]

    @property
    def units(self) -> list[Unit]:
        """All units."""
        return [*self.features, *self.epochs]

    @property
    def training_id(self) -> str:
        """The hash of everything the trained head depends on: the key of the last epoch."""
        return self.epochs[-1].key


def plan_sodef(workspace: AnyWorkspace, arguments: Mapping[str, object]) -> SodefPlan:
    """Plan the training of SODEF on the features of the workspace's probe images.

    Raises:
        InputError: if the model has no penultimate layer, or the probe set lacks a class.
    """
    classes = workspace.class_names
    require_every_class(torch.bincount(workspace.probe.labels, minlength=len(classes)), classes)
    return plan_epochs(
        workspace.model_id,
        workspace.find_layer(PENULTIMATE),
        workspace.shards("probe"),
        len(classes),
        SodefTraining(**arguments),  # type: ignore[arg-type]
        workspace.settings.seed,
    )


def plan_epochs(
    model_id: str,
    layer: Layer,
    shards: Sequence[Shard],
    num_classes: int,
    settings: SodefTraining,
    seed: int,
) -> SodefPlan:
    """Plan the training of a head for the model `model_id`.

    Args:
        model_id: the base model's fingerprint.
        layer: its penultimate layer.
        shards: the training images: consecutive shards of one set.
        num_classes: C.
        settings: the training's.
        seed: the run's seed.

    Raises:
        InputError: for another layer, or without images.
    """
    if layer.side != "input":
        raise InputError(f"sodef replaces the classifier, so its layer is the penultimate one, not {layer.name!r}")
    if not shards:
        raise InputError("sodef needs at least one training image")
    features = tuple(ActivationUnit(model_id, layer, shard) for shard in shards)
    everything = Shard(
        images=shards[0].images,
        start=shards[0].start,
        stop=shards[-1].stop,
        ids=tuple(image_id for shard in shards for image_id in shard.ids),
        digest=content_hash([shard.digest for shard in shards]),
    )
    epochs: list[SodefEpochUnit] = []
    for epoch in range(settings.epochs):
        previous = epochs[-1].key if epochs else None
        epochs.append(SodefEpochUnit(features, everything, num_classes, settings, epoch, previous, seed))
    return SodefPlan(features, tuple(epochs))


def training_table(catalog: Catalog, plan: SodefPlan) -> pa.Table:
    """Return a row for each committed epoch, with the means over its batches; no accuracy where none is computed."""
    rows: list[dict[str, object]] = []
    for unit in plan.epochs:
        if not is_done(catalog, unit):
            break
        state = read_arrays(catalog, unit.key)
        rows.append(
            {
                "epoch": unit.epoch + 1,
                "stage": unit.settings.stage(unit.epoch),
                "loss": float(state["loss"]),
                "accuracy": float(state["accuracy"]) if "accuracy" in state else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=TRAINING_COLUMNS)
