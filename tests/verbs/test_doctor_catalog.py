"""`igd doctor` on the catalog: it says "can be written" only of what it has written to."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from igd_ray.cli import main

Look = Callable[[str], tuple[str, str, str]]


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """What doctor says of the catalog at an address: state, finding, advice."""

    def look_at(address: str) -> tuple[str, str, str]:
        main(["doctor", "--json", "--catalog", address])
        (row,) = (row for row in json.loads(capsys.readouterr().out) if row["what"] == "catalog")
        return row["state"], row["found"], row["advice"]

    return look_at


def test_a_bucket_is_written_to_and_left_as_it_was(look: Look, bucket: Path) -> None:
    assert look("s3://bucket") == ("ok", "s3://bucket can be written", "")
    assert list(bucket.iterdir()) == []


def test_a_bucket_that_is_not_there(look: Look, bucket: Path) -> None:
    state, found, advice = look("s3://nowhere/results")
    assert state == "problem"
    assert found.startswith("s3://nowhere/results: cannot write s3://nowhere/results/.igd-doctor-")
    assert "choose another place with --catalog" in advice


def test_a_bucket_that_keeps_what_it_should_delete(look: Look, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igd_ray.catalog.buckets.Bucket.delete", lambda _place, _name: None)
    state, found, advice = look("s3://bucket")
    assert state == "problem"
    assert "cannot be deleted" in found
    assert "delete" in advice


def test_a_bucket_without_a_filesystem(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_uri: str) -> None:
        raise OSError("no such host")

    monkeypatch.setattr("igd_ray.catalog.buckets.filesystem_of", refused)
    state, found, advice = look("s3://bucket")
    assert (state, "no such host" in found, advice != "") == ("problem", True, True)


def test_a_folder_that_is_not_there_yet_is_not_made(look: Look, tmp_path: Path) -> None:
    assert look(str(tmp_path / "new" / "results"))[0] == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["ftp://host/results", "http://host/results", ""])
def test_an_address_of_another_kind(look: Look, address: str) -> None:
    state, _, advice = look(address)
    assert (state, advice != "") == ("problem", True)


def test_a_folder_of_something_else_is_no_place_for_results(look: Look, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    state, found, _ = look(str(tmp_path))
    assert (state, "neither empty nor a catalog" in found) == ("problem", True)
