"""`igd_ray.connect`: the views of a catalog in a connection that changes nothing."""

from pathlib import Path

import duckdb
import pytest

import igd_ray
from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run


@pytest.fixture
def made(catalog: Catalog) -> Catalog:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("loir-2", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    return catalog


def test_answers_are_arrow_and_pandas_and_null_is_not_zero(made: Catalog) -> None:
    with igd_ray.connect(str(made.root)) as db:
        asked = "SELECT defense, robust_accuracy FROM worst_case ORDER BY defense"
        assert db.sql(asked).to_arrow_table().to_pylist() == [
            {"defense": "loir-2", "robust_accuracy": None},
            {"defense": "none", "robust_accuracy": 0.5},
        ]
        frame = db.sql(asked).df() if pytest.importorskip("pandas") else None
        assert frame is not None
        assert frame["robust_accuracy"].isna().tolist() == [True, False]


def test_it_reads_and_nothing_else(made: Catalog, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in made.root.rglob("*"))
    (tmp_path / "other.csv").write_text("a\n1\n")
    with igd_ray.connect(str(made.root)) as db:
        for statement in (
            f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
            f"COPY (SELECT 1) TO '{made.root / 'outcomes' / 'x.parquet'}'",
            f"FROM '{tmp_path / 'other.csv'}'",
            "INSERT INTO stored_runs SELECT * FROM stored_runs",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                db.execute(statement)
    assert sorted((path, path.stat().st_mtime_ns) for path in made.root.rglob("*")) == before


def test_a_folder_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        igd_ray.connect(str(tmp_path / "nothing"))
