"""Class masks keep the k best neurons of each class: by hand, and for any scores."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.defenses import class_masks
from igd_ray.errors import InputError
from igd_ray.ranking import NeuronScores

# Few values, so that ties are common.
score_rows = st.integers(1, 12).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), min_size=width, max_size=width), min_size=1, max_size=4
    )
)


def test_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.2]])
    assert class_masks(scores, 1).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert class_masks(scores, 2).tolist() == [[0, 1, 1], [1, 1, 0]]
    assert class_masks(scores, 3).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert class_masks(scores, 2).dtype == torch.float32


@given(score_rows, st.data())
def test_each_class_keeps_k_neurons_none_of_them_less_important_than_a_dropped_one(rows, data) -> None:
    scores = torch.tensor(rows)
    k = data.draw(st.integers(1, scores.shape[1]))
    masks = class_masks(scores, k)
    assert masks.shape == scores.shape
    assert set(masks.flatten().tolist()) <= {0.0, 1.0}
    assert masks.sum(dim=1).tolist() == [k] * len(rows)
    for row, mask in zip(rows, masks.tolist(), strict=True):
        kept = [(value, -index) for index, value in enumerate(row) if mask[index]]
        dropped = [(value, -index) for index, value in enumerate(row) if not mask[index]]
        # With the index as the second key, this is the rule for ties, too: the lower index is kept.
        assert not dropped or min(kept) > max(dropped)


@given(score_rows, st.data())
def test_with_a_k_for_each_class_every_row_is_that_of_its_k(rows, data) -> None:
    scores = torch.tensor(rows)
    ks = data.draw(st.lists(st.integers(1, scores.shape[1]), min_size=len(rows), max_size=len(rows)))
    for given_ks in (ks, tuple(ks), torch.tensor(ks)):
        masks = class_masks(scores, given_ks)
        for label, k in enumerate(ks):
            assert torch.equal(masks[label], class_masks(scores, k)[label])


def test_a_vector_of_k_has_one_for_each_class_and_each_in_range() -> None:
    with pytest.raises(InputError, match="one for each of 2 classes, not 3 numbers"):
        class_masks(torch.zeros(2, 3), (1, 2, 3))
    with pytest.raises(InputError, match=r"k must lie in 1…3.* not 4"):
        class_masks(torch.zeros(2, 3), (1, 4))


@given(score_rows)
def test_masks_are_nested(rows) -> None:
    scores = torch.tensor(rows)
    masks = [class_masks(scores, k) for k in range(1, scores.shape[1] + 1)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))
    assert masks[-1].all()


@given(score_rows)
def test_scores_given_with_their_layer_are_the_same(rows) -> None:
    scores = torch.tensor(rows)
    assert torch.equal(class_masks(NeuronScores(scores, method="loir", layer="layer1"), 1), class_masks(scores, 1))


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_outside_the_layer_is_an_error(k: int) -> None:
    scores = NeuronScores(torch.zeros(2, 3), method="loir", layer="layer1")
    with pytest.raises(InputError, match=rf"k must lie in 1…3, the neurons of layer 'layer1', not {k}"):
        class_masks(scores, k)


def test_scores_with_nan_have_no_masks() -> None:
    with pytest.raises(InputError, match="NaN"):
        class_masks(torch.tensor([[0.0, float("nan")]]), 1)
