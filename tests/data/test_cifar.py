"""CIFAR in its binary version, on a tiny archive of the published layout; and the table of data specs."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10 as TORCHVISION_CIFAR10

from igd_ray.data import cifar, load_images
from igd_ray.data.class_names import CIFAR10, CIFAR100
from igd_ray.errors import IgdError, InputError


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)


def records(pixels: np.ndarray, *labels: list[int]) -> bytes:
    """Each image's labels, a byte each, and its pixels."""
    return np.concatenate([np.array(labels, np.uint8).T, pixels], axis=1).tobytes()


def pack(path: Path, contents: dict[str, bytes]) -> str:
    """Write an archive of these files and return its MD5 digest."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CIFAR-10 of 5 × 2 training and 3 test images, whose digest counts as the published one."""
    inside = "cifar-10-batches-bin"
    contents = {
        f"{inside}/batches.meta.txt": b"airplane",
        f"{inside}/test_batch.bin": records(rows(3, 0), [2, 0, 9]),
        # Not in the order of their names.
        **{f"{inside}/data_batch_{n}.bin": records(rows(2, n), [n, n - 1]) for n in (2, 1, 4, 3, 5)},
    }
    digest = pack(tmp_path / "cifar-10-binary.tar.gz", contents)
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, md5=digest))
    return tmp_path


def pack_cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a CIFAR-100 of 3 test images to `folder`, whose digest counts as the published one."""
    contents = {"cifar-100-binary/test.bin": records(rows(3, 4), [5, 5, 0], [1, 99, 7])}
    digest = pack(folder / "cifar-100-binary.tar.gz", contents)
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, md5=digest))


def test_pixels_labels_and_names_are_the_archive_s(folder: Path) -> None:
    data = load_images(f"cifar10:{folder}", split="train")
    expected = np.concatenate([rows(2, n) for n in range(1, 6)]).reshape(10, 3, 32, 32)
    assert data.images.is_contiguous()
    assert torch.equal(data.images, torch.from_numpy(expected) / 255)
    assert data.labels.tolist() == [1, 0, 2, 1, 3, 2, 4, 3, 5, 4]
    assert data.labels.dtype == torch.int64
    assert data.class_names == CIFAR10


def test_images_labels_and_ids_are_those_of_the_python_version(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / TORCHVISION_CIFAR10.base_folder
    python.mkdir()
    contents = {"test_batch": {"data": rows(3, 0), "labels": [2, 0, 9]}, "batches.meta": {"label_names": list(CIFAR10)}}
    for name, content in contents.items():
        (python / name).write_bytes(pickle.dumps(content))
    digest = {name: hashlib.md5((python / name).read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(TORCHVISION_CIFAR10, "test_list", [["test_batch", digest["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": digest["batches.meta"]}
    monkeypatch.setattr(TORCHVISION_CIFAR10, "train_list", [])
    monkeypatch.setattr(TORCHVISION_CIFAR10, "meta", meta)
    reference = TORCHVISION_CIFAR10(tmp_path, train=False)
    data = load_images(f"cifar10:{folder}")
    pixels = reference.data.transpose(0, 3, 1, 2)
    assert torch.equal(data.images, torch.from_numpy(np.ascontiguousarray(pixels)) / 255)
    assert data.labels.tolist() == reference.targets
    assert data.class_names == tuple(reference.classes)
    digests = [hashlib.sha256(image.tobytes()).hexdigest()[:8] for image in pixels]
    assert data.ids == tuple(f"cifar10-test-{row:06d}-{digests[row]}" for row in range(3))


def test_the_first_n_are_the_beginning_of_all(folder: Path) -> None:
    assert load_images(f"cifar10:{folder}", n=2).ids == load_images(f"cifar10:{folder}").ids[:2]


def test_the_spec_without_a_folder_reads_igd_data_or_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_images(f"cifar10:{folder}").fingerprint
    monkeypatch.setenv("IGD_DATA", str(folder))
    assert load_images("cifar10").fingerprint == expected
    monkeypatch.delenv("IGD_DATA")
    (folder / "data").mkdir()
    (folder / "cifar-10-binary.tar.gz").rename(folder / "data" / "cifar-10-binary.tar.gz")
    monkeypatch.chdir(folder)
    assert load_images("cifar10").fingerprint == expected


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_cifar100(tmp_path, monkeypatch)
    data = load_images(f"cifar100:{tmp_path}")
    assert data.labels.tolist() == [1, 99, 7]
    assert data.class_names == CIFAR100
    assert torch.equal(data.images, torch.from_numpy(rows(3, 4).reshape(3, 3, 32, 32)) / 255)
    assert data.ids[0].startswith("cifar100-test-000000-")


def test_an_altered_archive_is_refused(folder: Path) -> None:
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"published cifar-10-binary.tar.gz in .*MD5 digest is .* delete it; write"):
        load_images(f"cifar10:{folder}")


def test_the_pickles_of_the_python_version_are_never_read(tmp_path: Path) -> None:
    class RunsCode:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("test_batch", "batches.meta"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(InputError, match=r"No such file .*write cifar10 to download it.* pickles, is never read"):
        load_images(f"cifar10:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_a_download_gets_its_name_when_it_is_complete(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    content = (folder / "cifar-10-binary.tar.gz").read_bytes()

    def download(url: str, path: Path) -> None:
        assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        assert path != empty / "cifar-10-binary.tar.gz"
        path.write_bytes(content)

    monkeypatch.setattr("igd_ray.data.cifar.transfer", download)
    monkeypatch.setenv("IGD_DATA", str(empty))
    assert len(load_images("cifar10")) == 3
    assert [path.name for path in empty.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_folder_is_never_downloaded_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igd_ray.data.cifar.transfer", lambda *_: pytest.fail("tried to download"))
    with pytest.raises(InputError, match="No such file"):
        load_images(f"cifar10:{tmp_path}")


def test_a_failed_download_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_url: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise IgdError("no route")

    monkeypatch.setattr("igd_ray.data.cifar.transfer", fail)
    monkeypatch.setenv("IGD_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"failed \(no route\); .* parquet:FILE"):
        load_images("cifar10")
    assert list(tmp_path.iterdir()) == []


def test_names_for_another_number_of_classes_are_refused(folder: Path) -> None:
    assert load_images(f"cifar10:{folder}", class_names=list("abcdefghij")).class_names == tuple("abcdefghij")
    with pytest.raises(InputError, match="has 10 classes, but 100 names were given"):
        load_images(f"cifar10:{folder}", class_names="cifar100")


def test_another_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="must be one of train, test, not 'tset'; did you mean 'test'"):
        load_images(f"cifar10:{folder}", split="tset")


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
