"""The objective of a search from committed caches, in a form that travels to other processes without a copy."""

import io
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from igd_ray.errors import InputError
from igd_ray.models import Layer
from igd_ray.models.anatomy.cutting import Prefix, SplitModel
from igd_ray.models.anatomy.layers import classifier
from igd_ray.search import CachedObjective, CleanAccuracy, Measurement, Noise, Sampler, Setting, Trial
from igd_ray.units.base import reproducible
from igd_ray.units.replica import ModelSource

Array = np.ndarray[Any, Any]
Record = Callable[[Trial], None]


class Objective(Protocol):
    """What a search maximises."""

    def measure(self, setting: Setting) -> Measurement:
        """Return the clean predictions of the defense with `setting`, compared with the base model's."""
        ...


class Source(Protocol):
    """What an objective is built from, wherever trials run."""

    def build(self) -> Objective:
        """Return the objective, on the CPU."""
        ...


@dataclass(frozen=True)
class ShardCaches:
    """What trials need of one shard of search images.

    Attributes:
        activations: a(x) at the masked layer, [n, …].
        base_logits: f(x), [n, C].
        first_logits: the first pass's logits [n, C], for each σ and number of draws.
        labels: int64 [n].
        rest: what else the suffix of a layer that is not the penultimate one reads, see `packed`.
    """

    activations: Array
    base_logits: Array
    first_logits: Mapping[Noise, Array]
    labels: Array
    rest: Array | None = None


@dataclass(frozen=True)
class ObjectiveSource:
    """Everything that the objective is built from: arrays that processes share, and how to load the model.

    Attributes:
        model: the base model, of which only what follows the layer is run.
        layer: where the neurons are.
        scores: the ranking, [C, N].
        shards: the caches.
    """

    model: ModelSource
    layer: Layer
    scores: Array
    shards: tuple[ShardCaches, ...]

    def build(self) -> CleanAccuracy:
        """Return the objective, on the CPU, over the arrays as they are."""
        model = self.model.load("cpu")
        head = classifier(model, self.layer)
        split = SplitModel(model, self.layer)

        def objective(shard: ShardCaches) -> CachedObjective:
            activations, base_logits = _tensor(shard.activations), _tensor(shard.base_logits)
            if head is not None:
                suffix: Callable[[Tensor], Tensor] = head
            else:
                assert shard.rest is not None
                prefix = unpacked(shard.rest, activations, base_logits)

                def suffix(masked: Tensor) -> Tensor:
                    return split.suffix(masked, prefix)

            first = {noise: _tensor(logits) for noise, logits in shard.first_logits.items()}
            labels = _tensor(shard.labels)
            return CachedObjective(activations, first, base_logits, labels, suffix, axis=self.layer.axis)

        return CleanAccuracy([objective(shard) for shard in self.shards], _tensor(self.scores))


def timed(objective: Objective, setting: Setting) -> tuple[Measurement, float]:
    """Return what `setting` gives, and the seconds that it took."""
    started = time.perf_counter()
    with reproducible():
        measurement = objective.measure(setting)
    return measurement, time.perf_counter() - started


def search_here(source: Source, sampler: Sampler, record: Record) -> None:
    """Run the trials that `sampler` asks for one after another in this process; `record` commits each."""
    objective = source.build()
    while (asked := sampler.ask()) is not None:
        measurement, seconds = timed(objective, asked.setting)
        trial = Trial(asked.number, asked.setting, measurement, sampler.judged(measurement), seconds)
        record(trial)
        sampler.tell(trial)


def packed(prefix: Prefix) -> Tensor:
    """Return, as uint8 [bytes], what the suffix reads beside the activation.

    Raises:
        InputError: if the model passes something else than tensors and plain values around the layer.
    """
    kept = tree_map(_on_cpu, {"images": prefix.images, "outputs": prefix.outputs})
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    try:
        _loaded(content.numpy())
    except Exception as error:  # whatever a model returns, pickle may refuse it in its own way
        raise InputError(
            "the model's modules pass more than tensors around this layer, which cannot be kept for trials; "
            "search at the penultimate layer"
        ) from error
    return content


def unpacked(content: Array, activation: Tensor, logits: Tensor) -> Prefix:
    """Return the prefix that was `packed`."""
    kept = _loaded(content)
    return Prefix(activation, logits, kept["images"], kept["outputs"])


def _loaded(content: Array) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(io.BytesIO(content.tobytes()), weights_only=True)
    return kept


def _on_cpu(leaf: Any) -> Any:
    # Cloned, or a view would take the whole of its batch along.
    return leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf


def _tensor(array: Array) -> Tensor:
    with warnings.catch_warnings():
        # Arrays from the object store are read-only, and PyTorch warns of that; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
