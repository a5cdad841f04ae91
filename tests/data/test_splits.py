"""Probe and search images that share none, and the check that two sets share none."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from igd_ray.data import LabeledImages, load_images, probe_and_search, require_disjoint
from igd_ray.data.images import ArrayReader
from igd_ray.errors import InputError

TRAIN = load_images("digits", split="train")
TEST = load_images("digits", split="test")


def test_the_probe_is_the_beginning_and_the_search_set_the_end_of_the_training_split() -> None:
    probe, search = probe_and_search("digits", probe_n=10, search_n=4)
    assert probe.ids == TRAIN.ids[:10]
    assert search.ids == TRAIN.ids[-4:]
    assert torch.equal(search.images, TRAIN.images[-4:])
    assert torch.equal(search.labels, TRAIN.labels[-4:])


def test_one_size_does_not_move_the_other_set() -> None:
    probe, search = probe_and_search("digits", probe_n=10, search_n=4)
    assert probe_and_search("digits", probe_n=300, search_n=4)[1].ids == search.ids
    assert probe_and_search("digits", probe_n=10, search_n=300)[0].ids == probe.ids


def test_another_split_is_searched_from_its_end_too() -> None:
    probe, search = probe_and_search("digits", probe_n=len(TRAIN), search_n=4, search_split="test")
    assert probe.ids == TRAIN.ids
    assert search.ids == TEST.ids[-4:]


def test_the_whole_split_may_be_used_but_not_one_image_twice() -> None:
    size = len(TRAIN)
    probe, search = probe_and_search("digits", probe_n=size - 7, search_n=7)
    assert probe.ids + search.ids == TRAIN.ids
    with pytest.raises(
        InputError, match=rf"{size - 7} probe and 9 search images share 2, .* only {size}; .* at most {size}"
    ):
        probe_and_search("digits", probe_n=size - 7, search_n=9)


@pytest.mark.parametrize(("probe_n", "search_n"), [(10**6, 1), (1, 10**6), (0, 1), (1, 0)])
def test_sizes_that_the_split_cannot_give_are_refused(probe_n: int, search_n: int) -> None:
    with pytest.raises(InputError, match=r"1000000 were asked for|at least 1, not 0"):
        probe_and_search("digits", probe_n=probe_n, search_n=search_n)


def test_class_names_are_for_both() -> None:
    names = tuple("abcdefghij")
    probe, search = probe_and_search("digits", probe_n=1, search_n=1, class_names=names)
    assert (probe.class_names, search.class_names) == (names, names)


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:

    path = tmp_path / "1.png"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    for split, labels in (("train", [0, 1, 2]), ("test", [0, 1])):
        images = pa.array([{"bytes": path.read_bytes()}] * len(labels))
        pq.write_table(pa.table({"img": images, "label": labels}), tmp_path / f"{split}.parquet")
    spec = f"parquet:{tmp_path / 'test.parquet'}"
    with pytest.raises(InputError, match="the same classes, but they have 3 and 2"):
        probe_and_search(spec, probe_n=1, search_n=1, search_split="test")
    probe_and_search(spec, probe_n=1, search_n=1, search_split="test", class_names=["a", "b", "c"])


def images_of(levels: list[int], digests: list[str]) -> LabeledImages:
    pixels = np.array(levels, np.uint8).reshape(-1, 1, 1, 1).repeat(4, axis=2)
    return LabeledImages(
        reader=ArrayReader(pixels),
        indices=np.arange(len(levels)),
        labels=torch.zeros(len(levels), dtype=torch.int64),
        ids=tuple(f"row-{row}-{digest}" for row, digest in enumerate(digests)),
        class_names=("only",),
        spec="memory",
        split="test",
    )


def test_sets_with_other_contents_are_disjoint() -> None:
    require_disjoint(images_of([1, 2], ["a", "b"]), images_of([3, 4], ["c", "d"]), "sets")
    require_disjoint(*probe_and_search("digits", probe_n=600, search_n=600), "probe and search images")


def test_shared_contents_are_counted_wherever_they_stand() -> None:
    first, second = images_of([1, 2, 3], ["a", "b", "c"]), images_of([9, 3, 1, 3], ["z", "c", "a", "c"])
    with pytest.raises(
        InputError, match=r"^probe and test images must not share images, but 3 of 4 .* other 3.* row-1-c"
    ):
        require_disjoint(first, second, "probe and test images")


def test_one_digest_of_two_contents_is_not_a_shared_image() -> None:
    require_disjoint(images_of([1, 2], ["a", "b"]), images_of([7, 4], ["a", "d"]), "sets")


def test_a_set_is_not_disjoint_from_itself() -> None:
    with pytest.raises(InputError, match="20 of 20"):
        require_disjoint(TRAIN.select(range(50)), TRAIN.select(range(30, 50)), "sets")


def test_copies_in_two_folders_are_found(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "test/dog/copy.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / name)
    train, test = (load_images(f"folder:{tmp_path}", split=split) for split in ("train", "test"))
    with pytest.raises(InputError, match=r"1 of 1 .* test/dog/copy\.png"):
        require_disjoint(train, test, "training and test images")


def test_the_end_of_a_parquet_file_or_a_folder_is_the_end_of_the_whole(tmp_path: Path) -> None:
    images = []
    for row in range(8):
        path = tmp_path / "train" / "only" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), 20 * row, np.uint8)).save(path)
        images.append({"bytes": path.read_bytes()})
    table = pa.table({"img": pa.array(images), "label": list(range(8))})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=3)
    for spec in (f"parquet:{tmp_path / 'train.parquet'}", f"folder:{tmp_path}"):
        for count in range(1, 8):
            _, search = probe_and_search(spec, probe_n=1, search_n=count)
            whole = load_images(spec, split="train").select(range(8 - count, 8))
            assert search.fingerprint == whole.fingerprint
            assert (search.images[:, 0, 0, 0] * 255).round().tolist() == [20 * row for row in range(8 - count, 8)]
