"""Image folders: order, labels, ids, splits, and what files that are not images give."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from igd_ray.data import load_images
from igd_ray.errors import InputError


def save(path: Path, *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    """Write an image of random pixels, other ones for every name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    levels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return path


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    for name in ("train/cat/b.png", "train/cat/a.png", "train/dog/c.jpg", "train/ant/d.png"):
        save(tmp_path / name)
    for name in ("test/dog/z.png", "test/cat/y.bmp", "test/cat/x.JPEG", "test/cat/w.webp"):
        save(tmp_path / name)
    return tmp_path


def test_images_and_labels_are_torchvision_s(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}", split="train")
    reference = torchvision.datasets.ImageFolder(str(two_splits / "train"), torchvision.transforms.ToTensor())
    expected = {
        Path(path).relative_to(two_splits).as_posix(): (image, label)
        for (path, label), (image, _) in zip(reference.samples, reference, strict=True)
    }
    names = [image_id.rpartition("-")[0] for image_id in data.ids]
    assert sorted(names) == sorted(expected)
    assert torch.equal(data.images, torch.stack([expected[name][0] for name in names]))
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [expected[name][1] for name in names]
    assert list(data.class_names) == reference.classes


def test_classes_take_turns_until_they_have_no_image_left(tmp_path: Path) -> None:
    counts = {"ant": 1, "bee": 4, "cat": 0, "dog": 2}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            save(tmp_path / name / f"{name}{number}.png")
    data = load_images(f"folder:{tmp_path}")
    order = ["ant0", "bee0", "dog0", "bee1", "dog1", "bee2", "bee3"]
    assert [Path(image_id.rpartition("-")[0]).stem for image_id in data.ids] == order
    assert data.labels.tolist() == [0, 1, 3, 1, 3, 1, 1]
    assert load_images(f"folder:{tmp_path}", n=3).labels.tolist() == [0, 1, 3]


def test_a_label_means_the_same_class_in_every_split(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}")  # no ants in the test split
    assert data.class_names == ("ant", "cat", "dog")
    assert data.labels.tolist() == [1, 2, 1, 1]


def test_ids_are_the_relative_path_and_the_digest_of_the_file(two_splits: Path) -> None:
    digest = hashlib.sha256((two_splits / "test/cat/x.JPEG").read_bytes()).hexdigest()[:8]
    data = load_images(f"folder:{two_splits}")
    assert data.ids[2] == f"test/cat/x.JPEG-{digest}"
    assert [image_id.rpartition("-")[0] for image_id in data.ids] == [
        "test/cat/w.webp",
        "test/dog/z.png",
        "test/cat/x.JPEG",
        "test/cat/y.bmp",
    ]


def test_ids_do_not_depend_on_where_the_folder_lies(two_splits: Path, tmp_path: Path) -> None:
    before = load_images(f"folder:{two_splits}").fingerprint
    (tmp_path / "elsewhere").mkdir()
    for split in ("train", "test"):
        (two_splits / split).rename(tmp_path / "elsewhere" / split)
    assert load_images(f"folder:{tmp_path / 'elsewhere'}").fingerprint == before


def test_the_first_n_are_the_beginning(two_splits: Path) -> None:
    assert load_images(f"folder:{two_splits}", n=3).ids == load_images(f"folder:{two_splits}").ids[:3]


def test_a_copy_reads_the_same_images(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}").select([3, 0])
    assert torch.equal(pickle.loads(pickle.dumps(data)).images, data.images)


def test_a_folder_of_classes_is_the_test_split_and_no_other(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "1.png")
    save(tmp_path / "train" / "2.png")  # a class called train: it has no sub-folders
    data = load_images(f"folder:{tmp_path}")
    assert data.class_names == ("dog", "train")
    assert data.ids[1].startswith("train/2.png-")
    with pytest.raises(InputError, match=r"no folders of splits, so all of it is the split 'test'"):
        load_images(f"folder:{tmp_path}", split="train")


def test_other_splits_are_found_by_name_and_unknown_ones_refused(two_splits: Path) -> None:
    save(two_splits / "val" / "cat" / "1.png")
    assert len(load_images(f"folder:{two_splits}", split="val")) == 1
    with pytest.raises(InputError, match=r"has the splits test, train, val, not 'tests'; did you mean 'test'"):
        load_images(f"folder:{two_splits}", split="tests")


def test_class_names_give_the_order_of_the_labels(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}", class_names=["dog", "emu", "cat", "ant"])
    assert data.labels.tolist() == [2, 0, 2, 2]
    assert data.class_names == ("dog", "emu", "cat", "ant")
    with pytest.raises(InputError, match=r"class folder 'cat' is not among the 3 class_names; did you mean 'cats'"):
        load_images(f"folder:{two_splits}", class_names=["ant", "cats", "dog"])


def test_hidden_and_other_files_are_passed_over(two_splits: Path) -> None:
    before = load_images(f"folder:{two_splits}").fingerprint
    (two_splits / "test" / "cat" / "notes.txt").write_text("not an image")
    (two_splits / "test" / "cat" / "._w.png").write_text("not an image")
    (two_splits / "README.md").write_text("about")
    save(two_splits / "test" / ".ipynb_checkpoints" / "q.png")
    (two_splits / ".cache" / "deep").mkdir(parents=True)
    assert load_images(f"folder:{two_splits}").fingerprint == before


def test_grey_stays_one_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "only" / "1.png", mode="L")
    data = load_images(f"folder:{tmp_path}")
    assert torch.equal(data.images[0], torchvision.io.decode_image(str(path)).float() / 255)
    assert data.shape == (1, 6, 5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_images_of_two_sizes_are_refused_and_the_file_is_named(tmp_path: Path, size: int) -> None:
    for name in ("1.png", "2.png"):
        save(tmp_path / "only" / name)
    save(tmp_path / "only" / "3.png", size=(5, 6))
    with pytest.raises(InputError, match=r"only/3\.png.* same size; expected .*\[3, 6, 5\].* got \[3, 5, 6\]"):
        list(load_images(f"folder:{tmp_path}").batches(size))


def test_grey_among_colour_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "only" / "1.png")
    save(tmp_path / "only" / "2.png", mode="L")
    with pytest.raises(InputError, match=r"2\.png: .* got \[1, 6, 5\]"):
        list(load_images(f"folder:{tmp_path}").batches(2))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"only/bad\.png: expected .* got {len(content)} bytes"):
        next(load_images(f"folder:{tmp_path}").batches(1))


def test_a_half_written_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "only" / "1.jpg", size=(40, 40))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"1\.jpg: .* do not decode"):
        next(load_images(f"folder:{tmp_path}").batches(1))


def test_a_file_changed_since_its_id_was_made_is_refused(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}")
    (two_splits / "test/cat/w.webp").write_bytes((two_splits / "test/cat/x.JPEG").read_bytes())
    with pytest.raises(InputError, match=r"w\.webp: the file has changed"):
        next(data.batches(1))


def test_a_file_gone_since_is_refused(two_splits: Path) -> None:
    data = load_images(f"folder:{two_splits}")
    (two_splits / "test/cat/w.webp").unlink()
    with pytest.raises(InputError, match=r"w\.webp: expected a readable image file"):
        next(data.batches(1))


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "only" / "1.png")
    try:
        source.rename(tmp_path / "only" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match="not valid UTF-8"):
        load_images(f"folder:{tmp_path}")


def test_no_folder_no_class_and_no_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "class").mkdir(parents=True)
    for name, message in [
        ("missing", "expected a folder, but there is none"),
        ("file", "expected a folder, but it is a file"),
        ("empty", "expected a sub-folder for every class"),
        ("bare", "has no images"),
    ]:
        with pytest.raises(InputError, match=message):
            load_images(f"folder:{tmp_path / name}")
    with pytest.raises(InputError, match="names no folder"):
        load_images("folder:")
