"""The published tables are what their queries give over the committed rows."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.documents import blocks
from tests.published.published import REPOSITORY, catalog_of, printed
from tests.toys.answers import require_equal_by_merging

TABLES = {"cifar10-defenses": "defenses", "cifar10-worst-case": "table8"}


@pytest.mark.parametrize("name", TABLES)
def test_a_page_prints_what_the_query_gives(tmp_path: Path, name: str) -> None:
    rows = pq.read_table(REPOSITORY / "docs" / "results" / f"{name}.parquet").to_pylist()
    table = printed(catalog_of(rows, tmp_path), TABLES[name])
    assert table in [block.text for block in blocks("text")], f"a page should print:\n{table}"


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_merging_changes_no_answer_about_the_published_rows(tmp_path: Path, name: str) -> None:
    rows = pq.read_table(REPOSITORY / "docs" / "results" / f"{name}.parquet").to_pylist()
    require_equal_by_merging(catalog_of(rows, tmp_path))


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_are_few_and_complete(name: str) -> None:
    path = REPOSITORY / "docs" / "results" / f"{name}.parquet"
    assert path.stat().st_size < 500_000
    table = pq.read_table(path)
    assert set(table["status"].to_pylist()) <= {"robust", "broken", "misclassified", "skipped"}
    columns = [table[column].to_pylist() for column in ("defense", "attack", "image_id", "run_id")]
    keys = list(zip(*columns, strict=True))
    assert len(keys) == len(set(keys))
