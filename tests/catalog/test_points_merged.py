"""Points are merged by copying: no value is decoded, and their bytes stay as they were."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.sealed import sealed_parquet
from tests.toys.catalog_rows import row


def points(key: str, images: int, values: int = 12) -> pa.Table:
    """Points as attacks leave them: each pixel at ± epsilon of one of 256 levels."""
    chance = np.random.default_rng(len(key) + int(key[1:]))
    levels = chance.integers(0, 256, (images, values)) / 255 + chance.choice([-8 / 255, 8 / 255], (images, values))
    rows = [
        {"unit_key": key, "image_id": f"image-{n}", "point": "returned", "shape": [3, 2, values // 6], "pixels": pixels}
        for n, pixels in enumerate(levels.clip(0, 1).astype(np.float32))
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["adversarials"])


def add(catalog: Catalog, key: str, rows: pa.Table) -> None:
    catalog.commit("adversarials", key, rows)
    catalog.commit("outcomes", key, [])


def merged_file(catalog: Catalog) -> Path:
    (file,) = (catalog.root / "adversarials").glob("_merged-*.parquet")
    return file


def test_each_unit_is_a_row_group_with_the_pages_that_it_had(catalog: Catalog) -> None:
    sizes = {"u0": 3, "u1": 0, "u2": 5, "u3": 1}
    expected = {key: points(key, images) for key, images in sizes.items()}
    pages = []
    for key, rows in expected.items():
        add(catalog, key, rows)
        if len(rows):
            file = catalog.root / "adversarials" / f"{key}.parquet"
            columns = [pq.read_metadata(file).row_group(0).column(number) for number in range(5)]
            begin = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
            length = sum(column.total_compressed_size for column in columns)
            pages.append(file.read_bytes()[begin : begin + length])
    for _ in range(2):
        compact(catalog, keep_seconds=0, settle_seconds=0)
    fresh = Catalog(catalog.root)
    assert {key: fresh.read("adversarials", key) for key in sizes} == expected
    assert not (catalog.root / "adversarials" / "u0.parquet").exists()
    content = merged_file(catalog).read_bytes()
    assert content.startswith(b"PAR1" + b"".join(pages)), "byte by byte"
    together = pa.concat_tables(expected.values())
    with pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True) as file:
        assert file.num_row_groups == 3
        assert file.read() == together
    rows = duckdb.sql(f"SELECT unit_key, image_id, pixels FROM '{merged_file(catalog)}'").fetchall()
    assert rows == [tuple(each[name] for name in ("unit_key", "image_id", "pixels")) for each in together.to_pylist()]


def test_what_is_stored_in_another_way_is_written_anew(catalog: Catalog) -> None:
    for key in ("u0", "u1"):
        add(catalog, key, points(key, 4))
    name = "adversarials/u1.parquet"
    halves = [points("u1", 4).slice(0, 2), points("u1", 4).slice(2)]
    (catalog.root / name).write_bytes(sealed_parquet(name, halves, SCHEMAS["adversarials"]))
    compact(catalog, keep_seconds=0, settle_seconds=0)
    assert pq.read_metadata(merged_file(catalog)).num_row_groups == 2
    assert Catalog(catalog.root).read("adversarials", "u1") == points("u1", 4)


def test_arrays_are_copied_too(catalog: Catalog) -> None:
    for key in ("u0", "u1"):
        values = {"name": "x", "dtype": "<f4", "shape": [1], "data": b"\0\0\0?"}
        catalog.commit("arrays", key, [row("arrays", unit_key=key, **values)])
    compact(catalog, keep_seconds=0, settle_seconds=0)
    assert Catalog(catalog.root).read("arrays", "u1")["data"].to_pylist() == [b"\0\0\0?"]


@pytest.mark.slow
def test_merging_points_costs_less_than_decoding_and_encoding_them(catalog: Catalog) -> None:
    """Although it verifies each file, writes the merged one and seals it, beside the other tables."""
    for number in range(60):
        add(catalog, f"u{number}", points(f"u{number}", 64, 3072))
    files = sorted((catalog.root / "adversarials").glob("u*.parquet"))

    def written_anew() -> None:
        for file in files:
            pq.write_table(pq.read_table(file), io.BytesIO(), compression="zstd")

    writing = min(processor_seconds(written_anew) for _ in range(3))
    assert processor_seconds(lambda: compact(catalog, keep_seconds=0, settle_seconds=0)) < writing


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
