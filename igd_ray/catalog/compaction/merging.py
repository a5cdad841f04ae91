"""Merging small files into few: what counts changes at one moment, and nothing that a reader needs goes away.

First merged files are written, which do not count yet. Then one entry of the log (`igd_ray.catalog.merged`) announces
them, and the small files count no more. Killed at any point, either the small files count or the merged ones, never
both. Several merges may run at once: only one writes the entry, the others throw away what they made.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.compaction.deleting import delete_merged
from igd_ray.catalog.compaction.joined import joined_parquet
from igd_ray.catalog.compaction.results import LargeResult, Result, large_results_of, results_of
from igd_ray.catalog.merged import INDEX, merged_name
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import sealed_parquet
from igd_ray.catalog.sources import KEY_COLUMNS
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import UnreadableError, same_rows
from igd_ray.errors import IgdError

# Rows of a row group, of whole results: few enough to be skipped, many enough to be packed well.
ROWS_OF_A_GROUP = 100_000

# A merged file with this many rows, or bytes, is not merged again.
ROWS_OF_A_FILE = 1_000_000
BYTES_OF_A_FILE = 2**28

# This many smaller merged files of a table are merged into one.
MERGED_FILES = 8

# Each result has large rows, and a row group of its own, which is copied as it is.
LARGE = {"adversarials", "arrays"}

# A query that listed files before a merged one was there has started to read after this long.
SECONDS_TO_SETTLE = 2.0

# How often a merge begins anew when another has come first.
TRIES = 3

# How long what was merged stays for whoever reads it without igd-ray, unless `igd compact` is told otherwise.
KEEP_SECONDS = 3600.0

# While a run goes on, its files are merged whenever this many units have finished; at its end, where a table has that
# many small files.
UNITS_OF_A_MERGE, FILES_OF_A_MERGE = 500, 64

Some = TypeVar("Some", Result, LargeResult)


@dataclass(frozen=True)
class Compaction:
    """How many results were merged into how many files, and how many files, merged earlier, were deleted."""

    results: int
    files: int
    deleted: int


@dataclass
class _Batch:
    """Merged files that one entry announces."""

    number: int
    files: list[str] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    written: float = 0.0


def compact(
    catalog: Catalog, *, keep_seconds: float, settle_seconds: float = SECONDS_TO_SETTLE, least: int = 2
) -> Compaction:
    """Merge the small files of every table, and delete those that were merged at least `keep_seconds` ago.

    Args:
        catalog: where.
        keep_seconds: how long what was merged stays for whoever reads it without igd-ray.
        settle_seconds: how long a merged file is there before it is announced.
        least: small files of a table that are worth merging.

    Raises:
        IgdError: if other merges came first again and again, or a merged file does not hold what went into it, or a
            file cannot be read or written.
    """
    for file in catalog.tables.names(INDEX):
        if not catalog.tables.is_sound(INDEX, file):
            catalog.tables.set_aside(INDEX, file)
    deleted = delete_merged(catalog, keep_seconds)
    for _ in range(TRIES):
        batch = _Batch(catalog.merged.next_number())
        catalog.merged.forget()
        for table in SCHEMAS:
            if table != INDEX:
                _merge_table(catalog, table, batch, least)
        if not batch.rows:
            break
        time.sleep(max(0.0, batch.written + settle_seconds - time.monotonic()))
        if catalog.merged.append(batch.number, batch.rows):
            break
        for file in batch.files:
            catalog.place.delete(file)
    else:
        raise IgdError(f"other merges of {catalog} came first {TRIES} times; nothing is lost, run the command again")
    return Compaction(len(batch.rows), len(batch.files), deleted)


def _merge_table(catalog: Catalog, table: str, batch: _Batch, least: int) -> None:
    """Write merged files of what is small in `table`, and note them in `batch`."""
    single = catalog.unmerged(table)
    if table == "adversarials":
        # Points without verdicts are of an attempt that is not finished.
        single &= catalog.keys("outcomes")
        single = {key for key in sorted(single) if catalog.finish_unit((table, "outcomes"), key)}
    small = [
        file
        for file in catalog.merged.files(table)
        if table not in LARGE and _rows(catalog, table, file) < ROWS_OF_A_FILE
    ]
    again = small if len(small) >= MERGED_FILES else []
    if len(single) < least and not again:
        return
    if len(single) + len(again) < 2:
        return
    if table in LARGE:
        for pieces in _files_worth(large_results_of(catalog, table, sorted(single))):
            if len(pieces) > 1:
                _write_joined(catalog, table, pieces, batch)
        return
    for results in _files_worth(results_of(catalog, table, sorted(single), again)):
        if len(results) > 1:
            _write(catalog, table, results, batch)


def _rows(catalog: Catalog, table: str, file: str) -> int:
    try:
        return catalog.tables.load(table, file, lambda parquet: int(parquet.metadata.num_rows))
    except (FileNotFoundError, UnreadableError):
        return ROWS_OF_A_FILE


def _files_worth(results: Iterable[Some]) -> Iterator[list[Some]]:
    """Yield results for one file each."""
    file: list[Some] = []
    size, rows = 0.0, 0
    for result in results:
        file.append(result)
        size, rows = size + result.size, rows + result.number_of_rows
        if size > BYTES_OF_A_FILE or rows > ROWS_OF_A_FILE:
            yield file
            file, size, rows = [], 0.0, 0
    yield file


def _groups(table: str, results: Sequence[Result]) -> Iterator[list[Result]]:
    """Yield the results of each row group, in order; one without rows is in none."""
    filled = [result for result in results if len(result.rows)]
    if table not in KEY_COLUMNS:
        yield from ([result] for result in filled)
        return
    group: list[Result] = []
    rows = 0
    for result in sorted(filled, key=lambda result: result.order):
        group.append(result)
        rows += len(result.rows)
        if rows >= ROWS_OF_A_GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _write(catalog: Catalog, table: str, results: Sequence[Result], batch: _Batch) -> None:
    """Write a merged file, verify that it holds what went into it, and note it."""
    file = merged_name(batch.number, secrets.token_hex(8))
    groups = list(_groups(table, results))
    tables = [pa.concat_tables(result.rows for result in group).combine_chunks() for group in groups]
    content = sealed_parquet(f"{table}/{file}", tables, SCHEMAS[table], dictionary=True)

    def holds(parquet: pq.ParquetFile) -> bool:
        return parquet.num_row_groups == len(tables) and all(
            same_rows(parquet.read_row_group(number), rows) for number, rows in enumerate(tables)
        )

    places: dict[str, int | None] = dict.fromkeys(result.key for result in results)
    places |= {result.key: number for number, group in enumerate(groups) for result in group}
    _add(catalog, table, file, content, places, holds, batch)


def _write_joined(catalog: Catalog, table: str, results: Sequence[LargeResult], batch: _Batch) -> None:
    """Do the same with large results, whose bytes are copied: each has a row group of its own."""
    file = merged_name(batch.number, secrets.token_hex(8))
    content = joined_parquet(f"{table}/{file}", [result.piece for result in results], SCHEMAS[table])
    filled = [result for result in results if result.number_of_rows]
    keys = [result.key for result in filled for _ in range(result.number_of_rows)]

    def holds(parquet: pq.ParquetFile) -> bool:
        return (
            parquet.num_row_groups == len(filled)
            and (table not in KEY_COLUMNS or parquet.read([KEY_COLUMNS[table]])[0].to_pylist() == keys)
            and catalog.place.read(f"{table}/{file}") == content
        )

    places: dict[str, int | None] = dict.fromkeys(result.key for result in results)
    places |= {result.key: number for number, result in enumerate(filled)}
    _add(catalog, table, file, content, places, holds, batch)


def _add(
    catalog: Catalog,
    table: str,
    file: str,
    content: bytes,
    places: Mapping[str, int | None],
    holds: Callable[[pq.ParquetFile], bool],
    batch: _Batch,
) -> None:
    """Write a merged file whose results are in the row groups of `places`, if, read again, it holds what it is to."""
    name = f"{table}/{file}"
    catalog.place.write(name, content)
    batch.files.append(name)
    batch.written = time.monotonic()
    try:
        is_right = catalog.tables.load(table, file, holds)
    except (FileNotFoundError, UnreadableError):
        is_right = False
    if not is_right:
        raise IgdError(f"{catalog}/{name} does not hold what was written; nothing was replaced")
    batch.rows += [
        {"table_name": table, "key": key, "file": file, "row_group": row_group} for key, row_group in places.items()
    ]
