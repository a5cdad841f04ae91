"""LabeledImages: what select and batches give, what the fingerprint depends on, what is refused."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.data import LabeledImages, check_images
from igd_ray.data.images import ArrayReader
from igd_ray.errors import InputError

COUNT = 7


def some_images(count: int = COUNT, **changes: object) -> LabeledImages:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)
    fields = {
        "reader": ArrayReader(pixels),
        "indices": np.arange(count),
        "labels": torch.arange(count) % 3,
        "ids": tuple(f"image-{row:06d}-{row:08x}" for row in range(count)),
        "class_names": ("a", "b", "c"),
        "spec": "memory",
        "split": "test",
    }
    return LabeledImages(**{**fields, **changes})


class ShapesReader:
    """Image i has the shape `shapes[i]`."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        self.shapes = shapes

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.stack([torch.zeros(self.shapes[index]) for index in indices])


def test_pixels_are_the_bytes_over_255() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2) * 10
    images = some_images(2, reader=ArrayReader(pixels)).images
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    for index in np.ndindex(pixels.shape):
        assert images[index].item() == np.float32(pixels[index]) / np.float32(255)


def test_float_pixels_are_kept_and_become_contiguous_float32() -> None:
    pixels = np.random.default_rng(0).random((4, 5, 6, 3)).transpose(0, 3, 1, 2)
    images = some_images(4, reader=ArrayReader(pixels)).images
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert np.array_equal(images.numpy(), pixels.astype(np.float32))


@given(st.integers(1, 12))
def test_batches_put_together_are_the_images_whatever_their_size(size: int) -> None:
    data = some_images()
    batches = list(data.batches(size))
    assert [len(labels) for _, labels in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1][1]) <= size
    assert torch.equal(torch.cat([images for images, _ in batches]), data.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)


@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20))
def test_select_takes_the_positions_in_their_order(positions: list[int]) -> None:
    data = some_images()
    chosen = data.select(positions)
    assert torch.equal(chosen.images, torch.stack([data.images[position] for position in positions]))
    assert chosen.labels.tolist() == [data.labels[position].item() for position in positions]
    assert chosen.ids == tuple(data.ids[position] for position in positions)
    assert (chosen.class_names, chosen.spec, chosen.split) == (data.class_names, data.spec, data.split)


@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=9), st.data())
def test_a_selection_of_a_selection_is_the_selection_of_the_positions(first: list[int], draw: st.DataObject) -> None:
    second = draw.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=9))
    twice = some_images().select(first).select(second)
    once = some_images().select([first[position] for position in second])
    assert twice.ids == once.ids
    assert torch.equal(twice.images, once.images)


@given(st.slices(COUNT))
def test_select_by_slice_is_a_tuple_s_slice(positions: slice) -> None:
    expected = some_images().ids[positions]
    if expected:
        assert some_images().select(positions).ids == expected
    else:
        with pytest.raises(InputError, match="at least one"):
            some_images().select(positions)


@pytest.mark.parametrize("positions", [[-1], [COUNT], [True, False], [0.5], [[0, 1]]])
def test_select_refuses_what_is_not_a_position(positions: list[object]) -> None:
    with pytest.raises(InputError, match=rf"positions must be integers in 0…{COUNT - 1}, one after the other, got "):
        some_images().select(positions)


def test_the_fingerprint_depends_on_ids_labels_and_order_alone() -> None:
    data = some_images()
    assert data.fingerprint == some_images(spec="elsewhere", split="train").fingerprint
    others = [
        data.select([1, 0, *range(2, COUNT)]),
        data.select(range(COUNT - 1)),
        some_images(labels=(torch.arange(COUNT) + 1) % 3),
        some_images(ids=(*data.ids[:-1], "image-000006-ffffffff")),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_a_copy_for_another_process_is_equal_and_leaves_decoded_images_behind() -> None:
    data = some_images()
    before = len(pickle.dumps(data))
    assert data.images.shape == (COUNT, 3, 4, 5)
    assert len(pickle.dumps(data)) == before
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint == data.fingerprint
    assert torch.equal(copy.images, data.images)


def test_shape_is_that_of_the_first_image() -> None:
    assert some_images().shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (), "labels": torch.zeros(0, dtype=torch.int64), "indices": np.arange(0)}, "no images"),
        ({"ids": ("one",)}, "7 images, 7 labels and 1 ids do not match"),
        ({"labels": torch.zeros(COUNT)}, r"expected int64 labels \[n\], got torch.float32 \[7\]"),
        ({"labels": torch.zeros(COUNT, 1, dtype=torch.int64)}, r"got torch.int64 \[7, 1\]"),
        ({"labels": torch.arange(COUNT)}, "must lie in 0…2, but one is 6"),
        ({"labels": -torch.ones(COUNT, dtype=torch.int64)}, "must lie in 0…2, but one is -1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        some_images(**changes)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1, not 0"):
        next(some_images().batches(0))


@pytest.mark.parametrize("size", [1, 2])
def test_a_change_of_size_between_batches_is_refused(size: int) -> None:
    shapes = [(3, 4, 4)] * 4 + [(3, 5, 5)] * 3
    with pytest.raises(
        InputError, match=r"image-000004-00000004: .* expected .* \[3, 4, 4\] as before, got \[3, 5, 5\]"
    ):
        list(some_images(reader=ShapesReader(shapes)).batches(size))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-3, 1.001, 255.0])
def test_pixels_outside_the_unit_range_are_refused(value: float) -> None:
    pixels = np.full((COUNT, 1, 2, 2), 0.5, dtype=np.float32)
    pixels[-1, 0, 1, 1] = value
    with pytest.raises(InputError, match=r"memory \(test\): pixels must lie in \[0, 1\]"):
        list(some_images(reader=ArrayReader(pixels)).batches(2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"got torch.float32 \[3, 4, 4\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(0, 3, 4, 4), "at least one image"),
    ],
)
def test_check_images_says_what_came(images: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_images(images)


def test_the_ends_of_the_unit_range_are_allowed() -> None:
    check_images(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
