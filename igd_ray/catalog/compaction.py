"""Merging small files into few: what counts changes at one moment, and nothing that a reader needs goes away.

First merged files are written, which do not count yet. Then one entry of the log (`igd_ray.catalog.merged`) announces
them, and the small files count no more. Killed at any point, either the small files count or the merged ones, never
both. Several merges may run at once: only one writes the entry, the others throw away what they made.
"""

import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igd_ray.catalog.duckdb_files import CatalogFiles
from igd_ray.catalog.merged import INDEX, merged_name, number_of
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import sealed_parquet
from igd_ray.catalog.sources import KEY_COLUMNS
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import QUARANTINE, UnreadableError, require_own, same_rows
from igd_ray.errors import IgdError

# Rows of a row group, of whole results: few enough to be skipped, many enough to be packed well.
ROWS_OF_A_GROUP = 100_000

# A merged file with this many rows, or bytes, is not merged again.
ROWS_OF_A_FILE = 1_000_000
BYTES_OF_A_FILE = 2**28

# This many smaller merged files of a table are merged into one.
MERGED_FILES = 8

# Each result has large rows, and a row group of its own.
LARGE = {"adversarials", "arrays"}

# What is asked about together lies together: the columns of a result's first row by which results are sorted.
SORTED_BY = ("model", "dataset", "norm", "epsilon", "method", "defense", "attack", "image_id")

# Small files that are read together, where there are many.
MANY_FILES, FILES_AT_ONCE = 32, 1000

# A query that listed files before a merged one was there has started to read after this long.
SECONDS_TO_SETTLE = 2.0

# How often a merge begins anew when another has come first.
TRIES = 3

# How long what was merged stays for whoever reads it without igd-ray, unless `igd compact` is told otherwise.
KEEP_SECONDS = 3600.0

# While a run goes on, its files are merged whenever this many units have finished; at its end, where a table has that
# many small files.
UNITS_OF_A_MERGE, FILES_OF_A_MERGE = 500, 64

# A session that has not written for this long has ended.
SESSION_ENDED = timedelta(hours=1)


@dataclass(frozen=True)
class Compaction:
    """How many results were merged into how many files, and how many files, merged earlier, were deleted."""

    results: int
    files: int
    deleted: int


class Result(NamedTuple):
    """A result to be merged.

    Attributes:
        key: its key.
        rows: its rows.
        size: about how many bytes these take.
        order: by what results are sorted.
    """

    key: str
    rows: pa.Table
    size: float
    order: tuple[tuple[bool, str], ...]


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
    deleted = _delete_merged(catalog, keep_seconds)
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
    for results in _files_worth(_results(catalog, table, sorted(single), again)):
        if len(results) > 1:
            _write(catalog, table, results, batch)


def _rows(catalog: Catalog, table: str, file: str) -> int:
    try:
        return catalog.tables.load(table, file, lambda parquet: int(parquet.metadata.num_rows))
    except (FileNotFoundError, UnreadableError):
        return ROWS_OF_A_FILE


def _results(catalog: Catalog, table: str, single: Sequence[str], merged: Sequence[str]) -> Iterator[Result]:
    """Yield the results of small files and of merged ones; damaged files are set aside."""

    def read(key: str) -> pa.Table | None:
        file = f"{key}.parquet"
        try:
            return catalog.tables.load(table, file, lambda parquet: _own_rows(table, file, parquet))
        except (FileNotFoundError, UnreadableError):
            return None

    if table in KEY_COLUMNS and table not in LARGE and len(single) >= MANY_FILES:
        single = yield from _read_together(catalog, table, single)
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(read, single) if len(single) >= MANY_FILES else map(read, single)
        for key, rows in zip(single, found, strict=True):
            if rows is None:
                if not catalog.tables.is_sound(table, f"{key}.parquet"):
                    catalog.tables.set_aside(table, f"{key}.parquet")
            elif table != "attempts" or not _may_be_written_again(rows):
                yield from _results_in(rows, [key], [len(rows)])
    places = catalog.merged.of(table)
    for key in sorted(key for key, where in places.items() if where.file in merged):
        merged_rows = catalog.read_if_whole(table, key)
        if merged_rows is not None:
            yield from _results_in(merged_rows, [key], [len(merged_rows)])


def _read_together(catalog: Catalog, table: str, keys: Sequence[str]) -> Generator[Result, None, list[str]]:
    """Yield the results of small files, hundreds of which DuckDB reads at once; return the keys it could not read."""
    left: list[str] = []
    for start in range(0, len(keys), FILES_AT_ONCE):
        some = keys[start : start + FILES_AT_ONCE]
        files = CatalogFiles(catalog)
        try:
            with duckdb.connect(config={"temp_directory": ""}) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.register_filesystem(files)
                rows = connection.sql(files.select(table, [f"{key}.parquet" for key in some])).to_arrow_table()
            rows = rows.combine_chunks().cast(SCHEMAS[table])
        except (duckdb.Error, pa.ArrowException):
            left += some  # one of them is damaged, or gone
            continue
        runs = pc.run_end_encode(rows[KEY_COLUMNS[table]].combine_chunks())
        stops = dict(zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True))
        if len(stops) != len(runs.values) or not stops.keys() <= set(some):
            left += some
            continue
        ends, end = [], 0
        for key in some:
            end = stops.get(key, end)
            ends.append(end)
        yield from _results_in(rows, some, ends)
    return left


def _results_in(rows: pa.Table, keys: Sequence[str], ends: Sequence[int]) -> Iterator[Result]:
    """Yield the results that lie one after another in `rows`, each up to the row of its end."""
    # Of a table in many pieces each slice would look at all of them.
    rows = rows.combine_chunks()
    size = rows.nbytes / max(1, len(rows))
    begins = [0, *ends[:-1]]
    names = [name for name in SORTED_BY if name in rows.column_names]
    filled = pa.array([begin for begin, end in zip(begins, ends, strict=True) if begin < end], pa.int64())
    firsts = iter(zip(*(rows[name].take(filled).to_pylist() for name in names), strict=True) if names else ())
    for key, begin, end in zip(keys, begins, ends, strict=True):
        first = next(firsts, ()) if begin < end else ()
        order = (*((value is not None, str(value)) for value in first), (True, key))
        yield Result(key, rows.slice(begin, end - begin), size * (end - begin), order)


def _own_rows(table: str, file: str, parquet: pq.ParquetFile) -> pa.Table:
    require_own(table, file, parquet)
    return parquet.read()


def _may_be_written_again(attempts: pa.Table) -> bool:
    seen = [moment for moment in attempts["seen_at"].to_pylist() if moment is not None]
    return not seen or max(seen) > datetime.now(UTC) - SESSION_ENDED


def _files_worth(results: Iterable[Result]) -> Iterator[list[Result]]:
    """Yield results for one file each."""
    file: list[Result] = []
    size, rows = 0.0, 0
    for result in results:
        file.append(result)
        size, rows = size + result.size, rows + len(result.rows)
        if size > BYTES_OF_A_FILE or rows > ROWS_OF_A_FILE:
            yield file
            file, size, rows = [], 0.0, 0
    yield file


def _groups(table: str, results: Sequence[Result]) -> Iterator[list[Result]]:
    """Yield the results of each row group, in order; one without rows is in none."""
    filled = [result for result in results if len(result.rows)]
    if table not in KEY_COLUMNS or table in LARGE:
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
    name = f"{table}/{file}"
    groups = list(_groups(table, results))
    tables = [pa.concat_tables(result.rows for result in group).combine_chunks() for group in groups]
    catalog.place.write(name, sealed_parquet(name, tables, SCHEMAS[table], dictionary=table not in LARGE))
    batch.files.append(name)
    batch.written = time.monotonic()

    def differs(parquet: pq.ParquetFile) -> bool:
        return parquet.num_row_groups != len(tables) or not all(
            same_rows(parquet.read_row_group(number), rows) for number, rows in enumerate(tables)
        )

    try:
        wrong = catalog.tables.load(table, file, differs)
    except (FileNotFoundError, UnreadableError):
        wrong = True
    if wrong:
        raise IgdError(f"{catalog}/{name} does not hold what was written; nothing was replaced")
    places: dict[str, int | None] = dict.fromkeys(result.key for result in results)
    places |= {result.key: number for number, group in enumerate(groups) for result in group}
    batch.rows += [
        {"table_name": table, "key": key, "file": file, "row_group": row_group} for key, row_group in places.items()
    ]


def _delete_merged(catalog: Catalog, keep_seconds: float) -> int:
    """Delete files that have not counted for `keep_seconds`, each if what counts instead is undamaged."""
    log, deleted = catalog.merged, 0
    old = {number for number in log.numbers() if catalog.place.age(f"{INDEX}/{number:08d}.parquet") >= keep_seconds}
    for table in SCHEMAS:
        if table == INDEX:
            continue
        places = log.of(table)
        sound = set()
        # Those from before there were numbers are old, too.
        for file in sorted({where.file for where in places.values() if number_of(where.file) in {*old, None}}):
            if catalog.tables.is_sound(table, file):
                sound.add(file)
            else:
                catalog.tables.set_aside(table, file)
                log.forget()
        places = log.of(table)
        for key in sorted(catalog.tables.keys(table)):
            if key in places and places[key].file in sound:
                catalog.place.delete(f"{table}/{key}.parquet")
                deleted += 1
        _delete_abandoned(catalog, table, old)
    return deleted


def _delete_abandoned(catalog: Catalog, table: str, old: set[int]) -> None:
    """Delete the merged files of `table` that never counted and never will, or whose results are in later ones."""
    log = catalog.merged
    counting = {where.file for where in log.of(table).values()}
    # From the listing that `counting` is from: what a merge announces from now on is in neither.
    announced = log.announced()
    for file in catalog.tables.names(table):
        number = number_of(file)
        if number not in old or file in counting or catalog.tables.is_left_out(table, file):
            continue
        files = announced.get(number)
        if files is None or (f"{table}/{file}" in files and max(announced) not in old):
            continue
        if f"{number:08d}.parquet" not in catalog.place.names(f"{QUARANTINE}/{INDEX}"):
            catalog.place.delete(f"{table}/{file}")
