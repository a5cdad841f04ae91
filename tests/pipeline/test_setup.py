"""Image sets as they travel to workers: the same tensors from arrays and from files, and never all decoded at once."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from igd_ray.data import LabeledImages, load_images
from igd_ray.errors import InputError
from igd_ray.pipeline import setup
from igd_ray.pipeline.setup import ImageArrays

COUNT = 10
VALUES = 3 * 8 * 6


@dataclass
class CountingReader:
    """Records how many images each call decodes."""

    reader: object
    sizes: list[int] = field(default_factory=list)

    def read(self, indices: Sequence[int]) -> Tensor:
        self.sizes.append(len(indices))
        images: Tensor = self.reader.read(indices)  # type: ignore[attr-defined]
        return images


def folder_set(root: Path) -> str:
    for row in range(COUNT):
        path = root / "test" / "only" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(row).integers(0, 256, (8, 6, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path)
    return f"folder:{root}"


def parquet_set(root: Path) -> str:
    folder_set(root)
    images = [{"bytes": path.read_bytes()} for path in sorted(root.glob("test/only/*.png"))]
    pq.write_table(pa.table({"img": pa.array(images), "label": [0] * COUNT}), root / "test.parquet")
    return f"parquet:{root / 'test.parquet'}"


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of more than four images are large, and three images are read at a time."""
    monkeypatch.setattr(setup, "LARGEST_DECODED_BYTES", 4 * VALUES)
    monkeypatch.setattr(setup, "BATCH_VALUES", 3 * VALUES)


@pytest.mark.parametrize("write", [folder_set, parquet_set])
def test_a_large_set_gives_the_tensors_of_a_small_one(
    tmp_path: Path, write: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_images(write(tmp_path))
    arrays = ImageArrays.of(images)
    monkeypatch.setattr(setup, "LARGEST_DECODED_BYTES", 4 * VALUES)
    streamed = pickle.loads(pickle.dumps(ImageArrays.of(images)))
    assert isinstance(arrays.pixels, np.ndarray)
    assert isinstance(streamed.pixels, LabeledImages)
    for start, stop in ((0, 4), (4, 8), (8, COUNT)):
        for found, expected in zip(streamed.slice(start, stop), arrays.slice(start, stop), strict=True):
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype
    assert streamed.ids == arrays.ids
    assert (streamed.class_names, streamed.dataset) == (arrays.class_names, arrays.dataset)
    assert np.array_equal(streamed.labels, arrays.labels)


@pytest.mark.usefixtures("small_limits")
def test_of_a_large_set_no_more_than_a_batch_or_a_shard_is_decoded(tmp_path: Path) -> None:
    images = load_images(folder_set(tmp_path))
    reader = CountingReader(images.reader)
    streamed = ImageArrays.of(replace(images, reader=reader))
    assert max(reader.sizes) == 3
    assert sum(reader.sizes) == COUNT + 1, "each image once, and the first once more for its shape"
    reader.sizes.clear()
    assert len(streamed.slice(4, 6)[0]) == 2
    assert reader.sizes == [2]


def test_a_large_set_weighs_little_when_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(folder_set(tmp_path))
    first = images.select([0])
    monkeypatch.setattr(setup, "LARGEST_DECODED_BYTES", 0)
    sizes = [len(pickle.dumps(ImageArrays.of(part))) for part in (first, images)]
    assert sizes[1] - sizes[0] < (COUNT - 1) * VALUES, "an image adds its id, label and position, no pixels"


@pytest.mark.usefixtures("small_limits")
def test_an_unreadable_image_of_a_large_set_is_found_at_once(tmp_path: Path) -> None:
    spec = folder_set(tmp_path)
    (tmp_path / "test" / "only" / "7.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"only/7\.png"):
        ImageArrays.of(load_images(spec))


@pytest.mark.usefixtures("small_limits")
def test_a_set_that_is_an_array_already_stays_one() -> None:
    assert isinstance(ImageArrays.of(load_images("digits", n=100)).pixels, np.ndarray)
