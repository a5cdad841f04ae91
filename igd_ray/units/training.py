"""The training of SODEF as units: each epoch starts from the committed state of the one before."""

from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.catalog import Catalog
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.defenses.sodef_training import initial_state, train_epoch
from igd_ray.errors import IncompleteError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.units.arrays import TABLE, array_rows, read_arrays
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.replica import Context
from igd_ray.units.search import ActivationUnit


@dataclass(frozen=True)
class SodefEpochUnit(Unit):
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

    def most_passes(self, num_classes: int) -> Passes:
        """The head runs, the base model does not."""
        return Passes(0, 0)

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


def load_trained(catalog: Catalog, training_id: str) -> dict[str, Tensor]:
    """Return the arrays of the finished training `training_id`, by name, on the CPU.

    Raises:
        IncompleteError: if the training is not finished.
    """
    if not catalog.has(TABLE, training_id):
        raise IncompleteError(f"SODEF training {training_id[:12]} is not finished; run the same command again")
    state = read_arrays(catalog, training_id)
    done, planned = int(state["epoch"]), int(state["epochs"])
    if done < planned:
        raise IncompleteError(f"{training_id[:12]} is epoch {done} of {planned} of a SODEF training, not its last")
    return state
