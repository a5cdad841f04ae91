"""Small Parquet files made to fill the memory, and large ones of which little is wanted."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igd_ray.data import load_images
from igd_ray.errors import InputError

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
MIB = 2**20


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """What Arrow allocates during the test."""
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    yield counted
    pa.set_memory_pool(before)


def write(path: Path, contents: list[bytes], *, dictionary: bool = False) -> Path:
    """One row group with these images, in pages of a few."""
    images = pa.array([{"bytes": content, "path": None} for content in contents], IMAGE_TYPE)
    table = pa.table({"img": images, "label": [0] * len(contents)})
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=dictionary,
        write_batch_size=8,
        dictionary_pagesize_limit=4 * MIB,
    )
    return path


def test_a_file_that_says_it_grows_beyond_measure_is_not_read(tmp_path: Path, pool: pa.MemoryPool) -> None:
    path = write(tmp_path / "test.parquet", [bytes(MIB)] * 40)
    size = path.stat().st_size
    assert size < MIB // 10
    before = pool.max_memory()
    with pytest.raises(InputError, match=rf"its {size} bytes grow to 419\d+ or more, .*as PNG or JPEG"):
        load_images(f"parquet:{path}", n=4)
    assert pool.max_memory() - before < MIB


def test_one_image_that_is_repeated_counts_as_often(tmp_path: Path, pool: pa.MemoryPool) -> None:
    path = write(tmp_path / "test.parquet", [bytes(MIB)] * 100, dictionary=True)
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size < 2 * MIB
    assert len(load_images(f"parquet:{path}", n=4)) == 4
    before = pool.max_memory()
    with pytest.raises(InputError, match="bytes grow to 178"):
        load_images(f"parquet:{path}")
    assert pool.max_memory() - before < 8 * MIB


def test_the_first_images_of_a_large_row_group_take_little_memory(tmp_path: Path, pool: pa.MemoryPool) -> None:
    random = np.random.default_rng(0)
    path = write(tmp_path / "test.parquet", [random.bytes(40_000) for _ in range(500)])
    assert pq.read_metadata(path).num_row_groups == 1
    assert path.stat().st_size > 19 * MIB
    counted = pa.proxy_memory_pool(pool)  # without what writing took
    pa.set_memory_pool(counted)
    assert len(load_images(f"parquet:{path}", n=4)) == 4
    assert counted.max_memory() < 4 * MIB


def test_a_set_of_many_files_is_in_memory_once(tmp_path: Path, pool: pa.MemoryPool) -> None:
    random = np.random.default_rng(0)
    for number in range(8):
        write(tmp_path / f"test-{number:05d}-of-00008.parquet", [random.bytes(40_000) for _ in range(50)])
    of_a_file = 50 * 40_000
    counted = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(counted)
    tracemalloc.start()
    assert len(load_images(f"parquet:{tmp_path}")) == 400  # not kept: Arrow's buffers must go before their pool
    peak = tracemalloc.get_traced_memory()[1] + counted.max_memory()
    tracemalloc.stop()
    assert peak < 8 * of_a_file + 2.5 * of_a_file, "all of them, and while a file is read its images once more"


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "test.parquet", [b"x"] * 11)
    monkeypatch.setattr("igd_ray.data.parquet.files.MOST_ROWS", 10)
    with pytest.raises(InputError, match="11 rows exceed the limit of 10; split the file"):
        load_images(f"parquet:{path}", n=4)
