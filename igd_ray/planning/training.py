"""The training of SODEF as units: each epoch starts from the committed state of the one before."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import pyarrow as pa
import torch

from igd_ray.catalog import Catalog
from igd_ray.defenses.sodef import SodefHead, SodefTraining, initial_state, train_epoch
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.planning.search import ActivationUnit
from igd_ray.units.arrays import TABLE, array_rows, read_arrays
from igd_ray.units.base import Rows, Shard, Unit, is_done
from igd_ray.units.replica import Context

TRAINING_COLUMNS = pa.schema(
    [("epoch", pa.int64()), ("stage", pa.string()), ("loss", pa.float64()), ("accuracy", pa.float64())]
)


@dataclass(frozen=True)
class SodefEpochUnit:
    """One epoch over the features of all training images.

    Attributes:
        features: the units whose activations it trains on, in order.
        shard: all of their images, as one shard.
        num_classes: C.
        settings: the training's.
        epoch: counted from 0.
        previous: the key of the epoch before; None for the first.
        seed: the run's seed.
    """

    features: tuple[ActivationUnit, ...]
    shard: Shard
    num_classes: int
    settings: SodefTraining
    epoch: int
    previous: str | None
    seed: int

    kind = "sodef-epoch"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of features, labels, settings and seed, and of the epoch before."""
        return unit_key(
            "sodef",
            features=[unit.key for unit in self.features],
            images=self.shard.digest,
            classes=self.num_classes,
            settings=asdict(self.settings),
            epoch=self.epoch,
            previous=self.previous,
            seed=self.seed,
        )

    @property
    def needs(self) -> frozenset[str]:
        """The features, and the epoch before."""
        keys = frozenset(unit.key for unit in self.features)
        return keys if self.previous is None else keys | {self.previous}

    def compute(self, context: Context) -> dict[str, Rows]:
        """Train for one epoch."""
        activations = [read_arrays(context.catalog, unit.key)["activations"].flatten(1) for unit in self.features]
        features = torch.cat(activations).to(context.device)
        # The labels alone: the images have done their part.
        labels = context.setup.images[self.shard.images].labels[self.shard.start : self.shard.stop]
        if self.previous is None:
            seed = derive_seed(self.key, "initial state")
            state = initial_state(features.shape[1], self.num_classes, self.settings, seed)
        else:
            state = read_arrays(context.catalog, self.previous)
        trained = train_epoch(
            state,
            features,
            torch.from_numpy(labels.copy()).to(context.device),
            self.settings,
            generator=torch.Generator().manual_seed(derive_seed(self.key, "batches")),
            epoch=self.epoch,
        )
        return {TABLE: array_rows(self.key, trained)}


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


def plan_sodef(
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


def load_sodef_head(catalog: Catalog, training_id: str) -> SodefHead:
    """Return the trained head, on the CPU.

    Raises:
        IncompleteError: if the training is not finished.
    """
    if not catalog.has(TABLE, training_id):
        raise IncompleteError(f"SODEF training {training_id[:12]} is not finished; run the same command again")
    state = read_arrays(catalog, training_id)
    done, planned = int(state["epoch"]), int(state["epochs"])
    if done < planned:
        raise IncompleteError(f"{training_id[:12]} is epoch {done} of {planned} of a SODEF training, not its last")
    return SodefHead(state)
