"""Reading goes on while others merge, and writes nothing."""

import errno
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.places import Folder
from igd_ray.catalog.sealed import Source
from igd_ray.cli import main
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    add_run(catalog)
    add_plan(catalog, {f"u{number}": ("none", f"a{number}", "ab") for number in range(3)})
    for number in range(3):
        add_outcomes(catalog, f"u{number}", "none", f"a{number}", {"a": "robust", "b": "broken"})
    return catalog


def test_a_query_whose_files_were_merged_and_deleted_meanwhile_starts_again(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Folder.open
    merged = []

    def late(self: Folder, name: str) -> Source:
        if name.startswith("outcomes/u") and not merged:
            merged.append(name)
            for _ in range(2):
                compact(Catalog(filled.root), keep_seconds=0, settle_seconds=0)
            assert not (filled.root / name).exists()
        return whole(self, name)

    monkeypatch.setattr(Folder, "open", late)
    assert run_query(filled, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 6}]
    assert merged


def test_a_lack_of_file_descriptors_is_not_bad_input(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_self: Folder, name: str) -> Source:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Folder, "open", refused)
    assert main(["sql", "FROM outcomes", "--catalog", str(filled.root)]) == 1
    assert "Too many open files" in capsys.readouterr().err


def test_verbs_that_read_write_move_and_delete_nothing(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that a catalog on a read-only disk can be asked; some of this one is damaged as well."""
    (filled.root / "outcomes" / "u1.parquet").write_bytes(b"half")
    (filled.root / "runs" / "run (1).parquet").write_bytes(b"a copy")
    before = {path: path.stat().st_mtime_ns for path in filled.root.rglob("*")}

    def refused(*_arguments: object) -> None:
        raise AssertionError("a verb that reads has written")

    for method in ("write", "create", "move", "delete", "make"):
        monkeypatch.setattr(Folder, method, refused)
    place = ["--catalog", str(filled.root)]
    assert main(["sql", "FROM worst_case", *place]) == 0
    assert main(["status", *place]) == 0
    assert main(["report", *place, "--output", str(tmp_path / "report.html")]) == 0
    assert main(["verify", "--files", *place]) == 1
    assert {path: path.stat().st_mtime_ns for path in filled.root.rglob("*")} == before
