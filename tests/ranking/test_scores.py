"""Scores, the order they give, and the ranking without information."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.errors import InputError
from igd_ray.ranking import NeuronScores, random_scores


def scores_of(rows: list[list[float]]) -> NeuronScores:
    return NeuronScores(torch.tensor(rows, dtype=torch.float64), method="loir", layer="penultimate")


def test_order_and_ranks_by_hand() -> None:
    scores = scores_of([[0.1, 0.9, 0.5], [0.3, 0.3, 0.4]])
    assert scores.order().tolist() == [[1, 2, 0], [2, 0, 1]]
    assert scores.ranks().tolist() == [[2, 0, 1], [1, 2, 0]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_ranks_are_a_permutation_that_falls_with_the_score_and_then_rises_with_the_index(row: list[int]) -> None:
    ranks = scores_of([[float(value) for value in row]]).ranks()[0].tolist()
    expected = sorted(range(len(row)), key=lambda neuron: (-row[neuron], neuron))
    assert [ranks[neuron] for neuron in expected] == list(range(len(row)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(value: float) -> None:
    with pytest.raises(InputError, match="1 of 4 are NaN or infinite"):
        scores_of([[0.0, 1.0], [value, 2.0]])


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 0), (1, 2, 3)])
def test_scores_are_classes_by_neurons(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"scores must be \[classes, neurons\]"):
        NeuronScores(torch.zeros(shape), method="loir", layer="penultimate")


def test_random_scores_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = random_scores(10, 64, seed=3, layer="layer2")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(random_scores(10, 64, seed=3, layer="layer2").scores, first.scores)
    assert not torch.equal(random_scores(10, 64, seed=4, layer="layer2").scores, first.scores)
    assert (first.method, first.layer) == ("random", "layer2")


def test_random_orders_differ_between_classes_and_favour_no_neuron() -> None:
    ranks = random_scores(2000, 8, seed=0, layer="").ranks().double()
    assert len({tuple(row) for row in ranks.tolist()}) > 1800
    # A neuron's mean rank over 2000 classes is 3.5 ± 0.051; five standard deviations.
    assert (ranks.mean(dim=0) - 3.5).abs().max() < 0.26
