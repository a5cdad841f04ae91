"""A catalog that was made before a table existed is read as if the table were empty, and nothing is written to it."""

import shutil
from pathlib import Path

import pyarrow.fs
import pytest

from igd_ray.catalog import SCHEMAS, Catalog, connect, run_query
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row

RELATIONS = ("noise", "noise_failures", "unit_states", "checks", "worst_case", "attempts", "splits")


@pytest.fixture
def older(catalog: Catalog) -> Catalog:
    """A catalog with outcomes."""
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    return catalog


def answers(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    with connect(catalog) as connection:
        return {name: connection.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in RELATIONS}


@pytest.mark.parametrize("table", [table for table in SCHEMAS if table not in ("runs", "run_units", "outcomes")])
def test_any_table_may_be_missing(older: Catalog, table: str) -> None:
    before = answers(older)
    shutil.rmtree(older.root / table)
    files = sorted(older.root.rglob("*"))
    assert answers(older) == before
    assert sorted(older.root.rglob("*")) == files


def test_its_columns_have_their_types(older: Catalog) -> None:
    whole = run_query(older, "FROM noise").schema
    shutil.rmtree(older.root / "noise")
    assert run_query(older, "FROM noise").schema.types == whole.types
    assert run_query(older, "FROM noise").schema.names == whole.names == SCHEMAS["noise"].names


def test_the_table_is_there_once_something_is_to_be_written(older: Catalog) -> None:
    shutil.rmtree(older.root / "noise")
    older.create()
    values = {"unit_key": "n", "defense": "loir-2", "image_id": "a", "clean_correct": True, "draws": 10, "failures": 1}
    assert older.commit("noise", "n", [row("noise", **values)])
    assert run_query(older, "SELECT failures FROM noise").to_pylist() == [{"failures": 1}]
    assert run_query(older, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 2}]


def test_a_table_whose_empty_file_was_lost_keeps_its_rows(older: Catalog) -> None:
    (older.root / "outcomes" / "_empty.parquet").unlink()
    assert run_query(older, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 2}]


def test_in_an_object_store_too(older: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = older.root.parent

    def stand_in(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.SubTreeFileSystem(str(folder), pyarrow.fs.LocalFileSystem()), Path(uri).name

    monkeypatch.setattr("igd_ray.catalog.buckets.filesystem_of", stand_in)
    shutil.rmtree(older.root / "noise")
    stored = Catalog("s3://bucket/results")
    assert run_query(stored, "FROM noise_failures").num_rows == 0
    assert run_query(stored, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 2}]
