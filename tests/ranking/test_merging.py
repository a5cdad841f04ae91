"""The state of all probe images does not depend on how they were cut into shards."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from igd_ray.data import LabeledImages, load_images
from igd_ray.models import find_layer
from igd_ray.models.clip import Clip, load_clip
from igd_ray.models.demo import demo_model
from igd_ray.ranking import RANKINGS, Batch, Probe, Ranking, State, Statistic

IMAGES = 120


@dataclass(frozen=True)
class Models:
    """The models of a worker."""

    model: nn.Module
    clip: Clip


@cache
def probe() -> LabeledImages:
    return load_images("digits", split="train", n=IMAGES)


@cache
def models() -> Models:
    return Models(demo_model(), load_clip("demo"))


@cache
def prepared(method: str) -> Ranking:
    images = probe().images
    layer = find_layer(models().model, "layer3", images[:1])
    ranking = RANKINGS[method](layer, tuple(probe().class_names))
    return ranking.prepared(Probe(images[:1], probe().labels, lambda: models().clip))


def state_of(statistic: Statistic, start: int, stop: int) -> State:
    part = slice(start, stop)
    return statistic.update(Batch(probe().images[part], probe().labels[part], range(64), models()))


METHODS = [method for method in RANKINGS if "images" in RANKINGS[method].reads]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5, deadline=None)
@given(first=st.integers(1, IMAGES - 2), second=st.integers(1, IMAGES - 2))
def test_states_merge_in_any_grouping(method: str, first: int, second: int) -> None:
    first, second = sorted((first, second if second != first else second + 1))
    for statistic in prepared(method).statistics():
        if "images" not in statistic.reads:
            continue
        states = [state_of(statistic, *ends) for ends in ((0, first), (first, second), (second, IMAGES))]
        at_once = statistic.merge(states)
        left = statistic.merge([statistic.merge(states[:2]), states[2]])
        right = statistic.merge([states[0], statistic.merge(states[1:])])
        whole = state_of(statistic, 0, IMAGES)
        for other in (left, right, whole):
            assert set(other) == set(at_once)
            for name in other:
                torch.testing.assert_close(other[name], at_once[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", RANKINGS)
def test_scores_are_those_of_every_class_and_neuron(method: str) -> None:
    ranking = prepared(method)
    states = []
    for statistic in ranking.statistics():
        none = "images" not in statistic.reads
        states.append(statistic.merge([state_of(statistic, 0, 0 if none else IMAGES)]))
    scores = ranking.scores(states)
    assert scores.shape == (10, 64)
    assert scores.dtype == torch.float64
    assert scores.isfinite().all()
