"""The look at a ranking finds what would spoil a ranking, and passes the package's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from igd_ray.contracts import look_at_ranking
from igd_ray.data import load_images
from igd_ray.models import find_layer, load_model
from igd_ray.properties import Property
from igd_ray.ranking import Batch, Probe, Ranking, State, StatisticRanking, pooled_activations, ranking_class
from igd_ray.ranking.in_process import LocalModels

MODEL = load_model("demo")
PROBE = load_images("digits", split="train", n=60)
LAYER = find_layer(MODEL, "penultimate", PROBE.images[:1])

NAMES = ["settings", "states", "model", "seed", "storage", "merge", "scores", "shards"]


@dataclass(frozen=True)
class Mean(StatisticRanking):
    """Mean activations by class; what differs in a subclass is wrong with it."""

    power: float = 1.0

    def update(self, batch: Batch) -> Any:
        activations = pooled_activations(batch.model, self.layer, batch.images).double() ** self.power
        classes = nn.functional.one_hot(batch.labels, len(self.class_names)).double()
        return {"totals": classes.T @ activations, "counts": classes.sum(dim=0)}

    def compute(self, state: State) -> Any:
        return state["totals"] / state["counts"][:, None]


class Averaging(Mean):
    def update(self, batch: Batch) -> Any:
        return {"means": super().compute(super().update(batch)).nan_to_num()}

    def merge(self, states: Sequence[State]) -> Mapping[str, Tensor]:
        return {"means": torch.stack([state["means"] for state in states]).mean(dim=0)}

    def compute(self, state: State) -> Any:
        return state["means"]


class Normalised(Mean):
    def update(self, batch: Batch) -> Any:
        state = super().update(batch)
        return {**state, "totals": state["totals"] / state["totals"].norm()}


class Drawing(Mean):
    def update(self, batch: Batch) -> Any:
        state = super().update(batch)
        return {**state, "totals": state["totals"] + torch.rand(state["totals"].shape)}


class DrawingScores(Mean):
    def compute(self, state: State) -> Any:
        return torch.rand(state["totals"].shape)


class Undefined(Mean):
    def compute(self, state: State) -> Any:
        return state["totals"] * torch.nan


class Turned(Mean):
    def compute(self, state: State) -> Any:
        return super().compute(state).T


class Renaming(Mean):
    def merge(self, states: Sequence[State]) -> Mapping[str, Tensor]:
        return {f"all_{name}": array for name, array in super().merge(states).items()}


class Listing(Mean):
    def update(self, batch: Batch) -> Any:
        return [1, 2]


class Halves(Mean):
    def update(self, batch: Batch) -> Any:
        return {name: array.bfloat16() for name, array in super().update(batch).items()}


class Training(Mean):
    def update(self, batch: Batch) -> Any:
        batch.model.train()
        return super().update(batch)


class Constant(Mean):
    def compute(self, state: State) -> Any:
        return torch.ones_like(state["totals"])


BROKEN = {
    Averaging: ("merge", "two groups"),
    Drawing: ("seed", "two states for one shard"),
    DrawingScores: ("scores", "two rankings of one state"),
    Undefined: ("scores", "640 of 640 scores are NaN"),
    Turned: ("scores", "[64, 10], not float scores [10, 64]"),
    Renaming: ("merge", "the arrays of a state, counts, totals"),
    Listing: ("states", "update returns list"),
    Halves: ("storage", "TypeError"),
    Training: ("model", "changes the model's weights, mode or hooks"),
}


def look(ranking: Ranking) -> dict[str, Property]:
    models = LocalModels(MODEL, lambda: pytest.fail("no CLIP here"))
    try:
        return {each.name: each for each in look_at_ranking(ranking, models, PROBE.images, PROBE.labels)}
    finally:
        MODEL.eval()


def made(kind: type[Ranking]) -> Ranking:
    ranking = kind(LAYER, tuple(PROBE.class_names))
    return ranking.prepared(Probe(PROBE.images[:1], PROBE.labels, lambda: pytest.fail("no CLIP here")))


@pytest.mark.parametrize("kind", [Mean, ranking_class("loir"), ranking_class("random")], ids=lambda kind: kind.__name__)
def test_a_ranking_that_keeps_its_contract_passes(kind: type[Ranking]) -> None:
    found = look(made(kind))
    assert list(found) == NAMES
    assert {each.result for each in found.values()} == {"ok"}
    assert all(each.meaning for each in found.values())


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_is_wrong_with_a_ranking_is_the_last_row(kind: type[Mean]) -> None:
    name, said = BROKEN[kind]
    last = list(look(made(kind)).values())[-1]
    assert (last.name, last.result) == (name, "error")
    assert said in last.found


def test_warnings_say_how_to_read_a_ranking() -> None:
    assert look(made(Normalised))["shards"].result == "warning"
    scores = look(made(Constant))["scores"]
    assert scores.result == "warning"
    assert "all neurons of 10 classes have one score" in scores.found
