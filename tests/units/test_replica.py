"""What travels to workers: images as arrays that need no file of the driver, and sources of the same models."""

import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from igd_ray.data import LabeledImages, load_images
from igd_ray.data.images import ArrayReader, ImageReader
from igd_ray.errors import IgdError, InputError
from igd_ray.models.clip import DEMO_CONFIG
from igd_ray.units import replica
from igd_ray.units.replica import ClipSource, ImageArrays

COUNT = 10
VALUES = 3 * 8 * 6


@dataclass
class CountingReader:
    """Records how many images each call decodes."""

    reader: ImageReader
    sizes: list[int] = field(default_factory=list)

    def read(self, indices: Sequence[int]) -> Tensor:
        self.sizes.append(len(indices))
        return self.reader.read(indices)


def images_of(reader: ImageReader) -> LabeledImages:
    labels, ids = torch.zeros(COUNT, dtype=torch.int64), tuple(map(str, range(COUNT)))
    return LabeledImages(reader, np.arange(COUNT), labels, ids, ("only",), "by hand", "test")


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


@pytest.mark.parametrize("write", [folder_set, parquet_set])
def test_images_that_were_sent_are_the_same_to_the_bit_without_the_drivers_files(
    tmp_path: Path, write: Callable[[Path], str]
) -> None:
    images = load_images(write(tmp_path))
    expected = images.images.clone()
    packed = pickle.dumps(ImageArrays.of(images))
    shutil.rmtree(tmp_path)
    arrived = pickle.loads(packed)
    for start, stop in ((0, 4), (4, 8), (8, COUNT)):
        pixels, labels = arrived.slice(start, stop)
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, expected[start:stop])
        assert torch.equal(labels, images.labels[start:stop])
    assert arrived.ids == images.ids
    assert (arrived.class_names, arrived.dataset) == (images.class_names, images.spec)


def test_eight_bit_images_take_a_byte_a_value(tmp_path: Path) -> None:
    arrays = ImageArrays.of(load_images(folder_set(tmp_path)))
    assert arrays.pixels.nbytes == COUNT * VALUES


def test_images_that_eight_bits_do_not_hold_stay_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "BATCH_VALUES", 3 * VALUES)
    levels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 8, 6)).astype(np.float32)
    pixels = levels / np.float32(255)
    pixels[7, 2, 5, 1] = 0.3  # in the third batch
    arrays = ImageArrays.of(images_of(ArrayReader(pixels)))
    assert arrays.pixels.dtype == np.float32
    assert torch.equal(arrays.slice(0, COUNT)[0], torch.from_numpy(pixels))


def test_files_are_decoded_once_and_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "BATCH_VALUES", 3 * VALUES)
    images = load_images(folder_set(tmp_path))
    reader = CountingReader(images.reader)
    arrays = ImageArrays.of(replace(images, reader=reader))
    arrays.slice(4, 6)
    assert reader.sizes == [1, 3, 3, 3, 1], "the first once more, for its shape"


def test_more_than_a_node_takes_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "MOST_GIBIBYTES", (COUNT * VALUES - 1) / 2**30)
    images = load_images(folder_set(tmp_path))
    reader = CountingReader(images.reader)
    with pytest.raises(InputError, match=r"10 images of \[3, 8, 6\].*--probe-n"):
        ImageArrays.of(replace(images, reader=reader))
    assert reader.sizes == [1]


def test_an_unreadable_image_is_found_at_once(tmp_path: Path) -> None:
    spec = folder_set(tmp_path)
    (tmp_path / "test" / "only" / "7.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"only/7\.png"):
        ImageArrays.of(load_images(spec))


def test_a_clip_replica_is_the_one_of_the_driver(tmp_path: Path) -> None:
    weights = load_file(DEMO_CONFIG.with_suffix(".safetensors"))
    (tmp_path / "clip.json").write_bytes(DEMO_CONFIG.read_bytes())
    save_file(weights, tmp_path / "clip.safetensors")
    source = ClipSource(str(tmp_path / "clip.json"), None)
    sent = pickle.loads(pickle.dumps(replace(source, identity=source.load("cpu").identity)))
    sent.load("cpu")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, tmp_path / "clip.safetensors")
    with pytest.raises(IgdError, match=r"clip\.json is another model"):
        sent.load("cpu")
