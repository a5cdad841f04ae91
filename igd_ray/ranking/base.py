"""A ranking as a mergeable statistic over probe images: what a method writes, whoever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.anatomy.layers import Layer, recorded
from igd_ray.models.sources import code_digest

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip

T = TypeVar("T")

# Arrays by name.
State = Mapping[str, Tensor]

# What a statistic is computed from: the base model up to and behind the layer, labelled probe images, a CLIP model.
Input = Literal["model", "images", "clip"]

NOT_A_SETTING = "planned"


def planned(default: T) -> T:
    """Declare a field that no user sets: a plan, or `Ranking.prepared`, fills it in."""
    return field(default=default, kw_only=True, metadata={NOT_A_SETTING: True})


class Replica(Protocol):
    """The models of one worker, on its device; each is loaded when it is first asked for."""

    @property
    def model(self) -> nn.Module:
        """The base model, in eval mode."""
        ...

    @property
    def clip(self) -> "Clip":
        """The CLIP model."""
        ...


@dataclass(frozen=True)
class Batch:
    """What `Statistic.update` gets.

    Attributes:
        images: float [B, channels, H, W] in [0, 1]; none where the statistic does not read images.
        labels: int64 [B].
        neurons: which of the layer's neurons; all, unless the statistic cuts them into ranges.
        replica: the models.
    """

    images: Tensor
    labels: Tensor
    neurons: range
    replica: Replica

    @property
    def model(self) -> nn.Module:
        """The base model."""
        return self.replica.model

    @property
    def clip(self) -> "Clip":
        """The CLIP model."""
        return self.replica.clip


@dataclass(frozen=True)
class Probe:
    """What `Ranking.prepared` looks at before any work.

    Attributes:
        example: the first image, [1, channels, H, W].
        labels: int64 [D], of all probe images; none where the ranking reads no images.
        load_clip: loads the CLIP model; for rankings that read it.
    """

    example: Tensor
    labels: Tensor
    load_clip: Callable[[], "Clip"]


class Statistic(ABC):
    """Something computed from shards of probe images apart, and then merged; workers keep each shard's state.

    1. `update` turns one shard of images, and one of `neuron_ranges`, into a state: arrays by name. It may run on
       any worker, in any order; after an interruption it is not repeated for the shards that are committed.
    2. `merge` turns the states of consecutive shards of images into one.

    A state is committed under a key: the hash of the inputs that `reads` names and of `depends_on`.

    Attributes:
        kind: what its units are called, for people.
        stage: what its keys are of, see `igd_ray.identity.STAGE_VERSIONS`.
        reads: its inputs. Without "images" there is one state, and `update` gets none.
    """

    kind: ClassVar[str] = "ranking"
    stage: ClassVar[str] = "ranking"
    reads: ClassVar[frozenset[Input]] = frozenset({"model", "images"})

    @abstractmethod
    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return what the state for `neurons` depends on beside the inputs, built of plain values."""

    @abstractmethod
    def update(self, batch: Batch) -> State:
        """Return the state of one shard of images."""

    def merge(self, states: Sequence[State]) -> State:
        """Return the state of all images, given those of shards in the order of the images; by default, the sums."""
        return {name: torch.stack([state[name] for state in states]).sum(dim=0) for name in states[0]}

    def neuron_ranges(self, width: int) -> tuple[range, ...]:
        """Return which neurons share a unit, in ascending order, of a layer of `width`; by default all do."""
        return (range(width),)

    def forwards(self, neurons: range) -> int:
        """Return how many forward passes of the base model an image takes at most; by default one if it is read."""
        return int("model" in self.reads)


@dataclass(frozen=True)
class Ranking(ABC):
    """A method that scores the neurons of one layer for every class.

    A subclass is a frozen dataclass; its fields, which have defaults, are the method's settings. It is registered
    where it is defined, by `igd_ray.ranking.base.register`. In this order:

    1. It is made with the layer, the class names and its settings, and `prepared`, which finds bad input.
    2. `sharded` fits it to the model, where its statistics are computed as units.
    3. Each of its `statistics` is computed over the probe images and merged.
    4. `compute` turns the merged states into scores.

    A method that is one statistic extends `StatisticRanking` instead.

    Attributes:
        layer: whose neurons are ranked, N of them.
        class_names: of the C classes.
        seed: what `compute` draws from, for methods that use it; the run's seed before.
        reads: the inputs of all of its statistics. A method that reads nothing needs neither images nor models.
        uses_seed: whether the scores depend on the seed.
    """

    layer: Layer
    class_names: tuple[str, ...]
    seed: int = planned(0)

    reads: ClassVar[frozenset[Input]]
    uses_seed: ClassVar[bool] = False

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Return the names of the settings."""
        own = {each.name for each in fields(Ranking)}
        return tuple(each.name for each in fields(cls) if each.name not in own and not each.metadata.get(NOT_A_SETTING))

    @property
    def options(self) -> dict[str, object]:
        """What the scores depend on beside the layer, the classes and the statistics, built of plain values.

        By default the settings, with the seed and the digest of the code where they count.
        """
        options: dict[str, object] = {name: getattr(self, name) for name in self.setting_names()}
        if self.uses_seed:
            options["seed"] = self.seed
        if (code := code_digest(type(self))) is not None:
            options["code"] = code
        return options

    def prepared(self, probe: Probe) -> Self:
        """Check settings and `probe` before any work, and return the ranking with what it takes from them.

        Raises:
            InputError: if scores cannot be computed with them.
        """
        return self

    def sharded(self, model: nn.Module, example: Tensor) -> Self:
        """Return the ranking, knowing how to cut the neurons of `model` into ranges; by default it does not cut them.

        Args:
            model: the base model.
            example: an image, [1, channels, H, W].
        """
        return self

    @abstractmethod
    def statistics(self) -> "tuple[Statistic, ...]":
        """Return what is computed over the probe images."""

    @abstractmethod
    def compute(self, state: State) -> Tensor:
        """Return the scores, [C, N], higher for more important neurons.

        Args:
            state: the merged arrays of the statistics, called KIND.NAME; of a `StatisticRanking` by their names. Where
                the neurons are cut into ranges, state and scores are those of one range.

        Raises:
            InputError: if there are too few probe images.
        """

    def scores(self, states: Sequence[State]) -> Tensor:
        """Return `compute` of the merged states of the statistics, given in their order."""
        statistics = zip(self.statistics(), states, strict=True)
        return self.compute(
            {f"{each.kind}.{name}": array for each, state in statistics for name, array in state.items()}
        )


@dataclass(frozen=True)
class StatisticRanking(Ranking, Statistic):
    """A ranking that is one statistic: it has `update`, `merge` and `compute`.

    The mean activation of each neuron on each class's images, as a file of one's own:

        @register("mean-activation")
        @dataclass(frozen=True)
        class MeanActivation(StatisticRanking):
            def update(self, batch):
                activations = pooled_activations(batch.model, self.layer, batch.images).double()
                classes = torch.nn.functional.one_hot(batch.labels, len(self.class_names)).double()
                return {"totals": classes.T @ activations, "counts": classes.sum(dim=0)}

            def compute(self, state):
                return state["totals"] / state["counts"][:, None]
    """

    def statistics(self) -> tuple[Statistic, ...]:
        """Return itself."""
        return (self,)

    def scores(self, states: Sequence[State]) -> Tensor:
        """Return `compute` of its one merged state."""
        (state,) = states
        return self.compute(state)

    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return everything that `update` can read: classes, settings, neurons and code."""
        return {"classes": list(self.class_names), "neurons": [neurons.start, neurons.stop], "options": self.options}


def concatenated(states: Sequence[State]) -> State:
    """Return the arrays of `states` one after the other along their first axis, the images'."""
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


@torch.no_grad()
def pooled_activations(model: nn.Module, layer: Layer, images: Tensor) -> Tensor:
    """Return the spatially averaged activations of `layer`, [B, N], for `images` [B, channels, H, W]."""
    with recorded(model, layer) as activations:
        model(images)
    return layer.pool(activations[0])


# Which CLIP model is meant: settings of every ranking that reads one.
CLIP_SETTINGS = frozenset({"clip", "clip_weights"})


R = TypeVar("R", bound=Ranking)


RANKINGS: dict[str, type[Ranking]] = {}


def register(method: str) -> Callable[[type[R]], type[R]]:
    """Register the decorated class of rankings under `method`, for `--method` and for masks called `method`-K.

    Raises:
        ValueError: if another class has that name.
    """

    def add(ranking: type[R]) -> type[R]:
        if (other := RANKINGS.setdefault(method, ranking)) is not ranking:
            raise ValueError(f"{method!r} is registered as {other.__qualname__}; choose another name")
        return ranking

    return add


def ranking_class(method: str) -> type[Ranking]:
    """Return the class of rankings by `method`.

    Raises:
        InputError: if there is no such method, naming close matches.
    """
    if method not in RANKINGS:
        raise InputError(f"method must be one of {', '.join(RANKINGS)}, not {method!r}{did_you_mean(method, RANKINGS)}")
    return RANKINGS[method]


def ranking_options(method: str) -> frozenset[str]:
    """Return the names of a run's settings that rankings by `method` depend on; one in a file has settings of its own.

    Raises:
        InputError: if there is no such method, naming close matches.
    """
    ranking = ranking_class(method)
    own = frozenset(ranking.setting_names() if code_digest(ranking) is None else ())
    return own | CLIP_SETTINGS if "clip" in ranking.reads else own
