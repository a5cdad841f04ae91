"""CIFAR through torchvision, on a tiny archive of the published layout; and the table of data specs."""

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets import CIFAR10, CIFAR100

from igd_ray.data import load_images
from igd_ray.errors import InputError

NAMES = ["ant", "bee", "cat"]


class RunsCode:
    """Its pickle creates the file `path` when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def store(path: Path, content: object) -> str:
    """Pickle `content` to `path` and return the file's MD5 digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CIFAR-10 of 2 + 2 training and 3 test images whose digests count as the published ones."""
    folder = tmp_path / CIFAR10.base_folder
    train = [
        ["data_batch_1", store(folder / "data_batch_1", {"data": rows(2, 1), "labels": [0, 2]})],
        ["data_batch_2", store(folder / "data_batch_2", {"data": rows(2, 2), "labels": [1, 1]})],
    ]
    test = [["test_batch", store(folder / "test_batch", {"data": rows(3, 3), "labels": [2, 0, 1]})]]
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = store(folder / "batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path


def test_pixels_labels_and_names_are_the_archive_s(archive: Path) -> None:
    data = load_images(f"cifar10:{archive}", split="train")
    expected = np.concatenate([rows(2, 1), rows(2, 2)]).reshape(4, 3, 32, 32)
    assert data.images.is_contiguous()
    assert torch.equal(data.images, torch.from_numpy(expected) / 255)
    assert data.labels.tolist() == [0, 2, 1, 1]
    assert data.labels.dtype == torch.int64
    assert data.class_names == tuple(NAMES)


def test_pixels_are_torchvision_s_tensors(archive: Path) -> None:
    reference = CIFAR10(archive, train=False, transform=torchvision.transforms.ToTensor())
    data = load_images(f"cifar10:{archive}", n=2)
    assert torch.equal(data.images, torch.stack([reference[0][0], reference[1][0]]))
    assert data.labels.tolist() == [2, 0]


def test_ids_hold_split_row_and_digest_of_the_pixels(archive: Path) -> None:
    digest = hashlib.sha256(rows(3, 3)[1].tobytes()).hexdigest()[:8]
    assert load_images(f"cifar10:{archive}").ids[1] == f"cifar10-test-000001-{digest}"


def test_the_folder_inside_may_be_given_too(archive: Path) -> None:
    inside = load_images(f"cifar10:{archive / CIFAR10.base_folder}")
    assert inside.fingerprint == load_images(f"cifar10:{archive}").fingerprint


def test_the_spec_without_a_folder_reads_igd_data_or_data(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_images(f"cifar10:{archive}").fingerprint
    monkeypatch.setenv("IGD_DATA", str(archive))
    assert load_images("cifar10").fingerprint == expected
    monkeypatch.delenv("IGD_DATA")
    (archive / "data").mkdir()
    (archive / CIFAR10.base_folder).rename(archive / "data" / CIFAR10.base_folder)
    monkeypatch.chdir(archive)
    assert load_images("cifar10").fingerprint == expected


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR100.base_folder
    digest = store(folder / "test", {"data": rows(2, 4), "fine_labels": [1, 0], "coarse_labels": [5, 5]})
    meta = {"filename": "meta", "key": "fine_label_names", "md5": store(folder / "meta", {"fine_label_names": NAMES})}
    monkeypatch.setattr(CIFAR100, "train_list", [])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digest]])
    monkeypatch.setattr(CIFAR100, "meta", meta)
    data = load_images(f"cifar100:{tmp_path}")
    assert data.labels.tolist() == [1, 0]
    assert data.ids[0].startswith("cifar100-test-000000-")


@pytest.mark.parametrize("name", ["test_batch", "data_batch_2", "batches.meta"])
def test_an_altered_file_is_refused_and_never_unpickled(archive: Path, name: str) -> None:
    store(archive / CIFAR10.base_folder / name, RunsCode(archive / "ran"))
    with pytest.raises(
        InputError, match=r"expected the published files .* missing or damaged; write cifar10 to download"
    ):
        load_images(f"cifar10:{archive}")
    assert not (archive / "ran").exists()
    pickle.loads((archive / CIFAR10.base_folder / name).read_bytes())
    assert (archive / "ran").exists()  # so the file would have run its code


def test_a_folder_is_never_downloaded_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("tried to download"))
    with pytest.raises(InputError, match="missing or damaged"):
        load_images(f"cifar10:{tmp_path}")


def test_a_failed_download_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CIFAR10) -> None:
        raise URLError("no route")

    monkeypatch.setattr(CIFAR10, "download", fail)
    monkeypatch.setenv("IGD_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"the download failed \(<urlopen error no route>\); or give .* parquet:FILE"):
        load_images("cifar10")


def test_names_for_another_number_of_classes_are_refused(archive: Path) -> None:
    assert load_images(f"cifar10:{archive}", class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    with pytest.raises(InputError, match="has 3 classes, but 10 names were given"):
        load_images(f"cifar10:{archive}", class_names="cifar10")


def test_another_split_is_refused(archive: Path) -> None:
    with pytest.raises(InputError, match="must be one of train, test, not 'tset'; did you mean 'test'"):
        load_images(f"cifar10:{archive}", split="tset")


# The table of specs


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("digit", "did you mean 'digits'"),
        ("Folder:x", "did you mean 'folder'"),
        ("qqq", "not 'qqq'$"),
        ("", "not ''$"),
    ],
)
def test_an_unknown_spec_lists_the_forms_and_close_names(spec: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as caught:
        load_images(spec)
    for form in ("digits", "cifar10[:DIR]", "cifar100[:DIR]", "parquet:FILE", "folder:DIR"):
        assert form in str(caught.value)


def test_digits_are_a_spec_without_a_place() -> None:
    first = load_images("digits", n=5)
    assert first.ids == load_images("digits").ids[:5]
    assert load_images("digits", class_names=list("abcdefghij")).class_names == tuple("abcdefghij")
    with pytest.raises(InputError, match="write 'digits', not 'digits:here'"):
        load_images("digits:here")
    with pytest.raises(InputError, match="were asked for"):
        load_images("digits", n=10**6)
