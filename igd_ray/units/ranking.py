"""The unit of every ranking: one state of one statistic, for a shard of images and a range of neurons."""

import json
from dataclasses import dataclass
from functools import cached_property

import torch

from igd_ray.catalog import Catalog
from igd_ray.identity import unit_key
from igd_ray.models import Layer
from igd_ray.ranking import Batch, NeuronScores, Statistic
from igd_ray.ranking.base import Input
from igd_ray.units.arrays import TABLE, array_rows
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.replica import Context

NO_IMAGES = Shard("probe", 0, 0, (), "")


@dataclass(frozen=True)
class RankingUnit(Unit):
    """One state of a statistic.

    Attributes:
        statistic: what is computed.
        model_id: the base model's fingerprint.
        layer: where the neurons are.
        clip_id: the hash of the CLIP model's identity; None where the ranking reads none.
        shard: the images; `NO_IMAGES` for a statistic that reads none.
        neurons: which of the layer's neurons.
    """

    statistic: Statistic
    model_id: str
    layer: Layer
    clip_id: str | None
    shard: Shard
    neurons: range

    tables = (TABLE,)

    @property
    def kind(self) -> str:
        """The statistic's."""
        return self.statistic.kind

    @cached_property
    def key(self) -> str:
        """The hash of the inputs that the statistic reads, and of what else it depends on."""
        inputs: dict[Input, dict[str, object]] = {
            "model": {"model": self.model_id, "layer": self.layer.identity},
            "clip": {"clip": self.clip_id},
            "images": {"images": self.shard.digest},
        }
        read = {name: value for each in self.statistic.reads for name, value in inputs[each].items()}
        return unit_key(self.statistic.stage, **read, **self.statistic.depends_on(self.neurons))

    @property
    def title(self) -> str:
        """The kind, and the layer where it matters."""
        return f"{self.kind} at {self.layer.name}" if "model" in self.statistic.reads else self.kind

    def most_passes(self, num_classes: int) -> Passes:
        """What the statistic says."""
        return Passes(len(self.shard.ids) * self.statistic.forwards(self.neurons), 0)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute the state."""
        if "images" in self.statistic.reads:
            images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        else:
            images, labels = torch.empty(0), torch.empty(0, dtype=torch.int64)
        state = self.statistic.update(Batch(images, labels, self.neurons, context))
        return {TABLE: array_rows(self.key, dict(state))}


def read_ranking(catalog: Catalog, ranking_id: str) -> NeuronScores:
    """Return a committed ranking.

    Raises:
        InputError: if no ranking has that id.
    """
    table = catalog.read("rankings", ranking_id)
    classes, neurons = table["class_id"].to_numpy(), table["neuron"].to_numpy()
    values = torch.full((int(classes.max()) + 1, int(neurons.max()) + 1), float("nan"), dtype=torch.float64)
    values[torch.from_numpy(classes.copy()).long(), torch.from_numpy(neurons.copy()).long()] = torch.from_numpy(
        table["score"].to_numpy().copy()
    )
    first = table.slice(0, 1).to_pylist()[0]
    return NeuronScores(values, method=first["method"], layer=first["layer"], details=json.loads(first["details"]))
