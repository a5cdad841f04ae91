"""A file that is downloaded once, and checked ever after."""

import hashlib
from pathlib import Path

import pytest

from igd_ray.downloads import fetched
from igd_ray.errors import IgdError, InputError


def serve(content: bytes):
    return lambda path: path.write_bytes(content)


def fail(_path: Path) -> None:
    raise AssertionError("nothing was to be downloaded")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_checksum_is_written_as_sha256sum_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pt"
    assert fetched(path, serve(b"weights")) == path
    assert path.read_bytes() == b"weights"
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (tmp_path / "new" / "model.pt.sha256").read_text() == f"{digest}  model.pt\n"
    assert files(tmp_path / "new") == {"model.pt", "model.pt.sha256"}
    fetched(path, fail)


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fetched(path, serve(b"weights"))
    path.write_bytes(b"wEights")
    with pytest.raises(InputError, match=r"model.pt has changed since it was downloaded.*delete the file"):
        fetched(path, fail)
    path.unlink()
    fetched(path, serve(b"weights"))
    fetched(path, fail)


def test_a_download_that_is_another_than_before_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fetched(path, serve(b"weights"))
    path.unlink()
    with pytest.raises(InputError, match=r"not the file that was downloaded before.*delete .*model.pt.sha256"):
        fetched(path, serve(b"other weights"))
    assert files(tmp_path) == {"model.pt.sha256"}
    (tmp_path / "model.pt.sha256").unlink()
    fetched(path, serve(b"other weights"))


def test_a_file_without_a_checksum_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    fetched(path, fail)
    path.write_bytes(b"wEights")
    with pytest.raises(InputError, match="has changed"):
        fetched(path, fail)


@pytest.mark.parametrize(
    ("download", "error"),
    [
        (lambda path: None, "nothing came"),
        (serve(b"\n<!DOCTYPE html><title>quota</title>"), "a web page came"),
    ],
)
def test_what_is_no_download_leaves_nothing(tmp_path: Path, download, error: str) -> None:
    with pytest.raises(IgdError, match=error):
        fetched(tmp_path / "model.pt", download)
    assert files(tmp_path) == set()


def test_an_interrupted_download_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        path.write_bytes(b"wei")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(tmp_path / "model.pt", interrupted)
    assert files(tmp_path) == set()


def test_a_download_that_fails_takes_its_new_folders_along(tmp_path: Path) -> None:
    def breaks(_path: Path) -> None:
        raise IgdError("no connection")

    with pytest.raises(IgdError, match="no connection"):
        fetched(tmp_path / "data" / "cifar" / "archive", breaks)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_leaves_what_others_have_put_into_its_folder(tmp_path: Path) -> None:
    def breaks(_path: Path) -> None:
        (tmp_path / "data" / "other").touch()
        raise IgdError("no connection")

    with pytest.raises(IgdError, match="no connection"):
        fetched(tmp_path / "data" / "cifar" / "archive", breaks)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["other"]
