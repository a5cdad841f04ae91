"""The results that are merged, as their files have them."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igd_ray.catalog.compaction.joined import NotJoinedError, Piece, piece_of
from igd_ray.catalog.duckdb_files import CatalogFiles
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import BytesSource, read_footer, sealed_parquet
from igd_ray.catalog.sources import KEY_COLUMNS
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import UnreadableError, require_own

# What is asked about together lies together: the columns of a result's first row by which results are sorted.
SORTED_BY = ("model", "dataset", "norm", "epsilon", "method", "defense", "attack", "image_id")

# Small files that are read together, where there are many.
MANY_FILES, FILES_AT_ONCE = 32, 1000

# A session that has not written for this long has ended.
SESSION_ENDED = timedelta(hours=1)


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

    @property
    def number_of_rows(self) -> int:
        """How many rows it has."""
        return len(self.rows)


class LargeResult(NamedTuple):
    """A result whose rows are merged as they are stored.

    Attributes:
        key: its key.
        piece: its file.
    """

    key: str
    piece: Piece

    @property
    def size(self) -> float:
        """How many bytes its rows take."""
        return len(self.piece.data)

    @property
    def number_of_rows(self) -> int:
        """How many rows it has."""
        return self.piece.rows


def results_of(catalog: Catalog, table: str, single: Sequence[str], merged: Sequence[str]) -> Iterator[Result]:
    """Yield the results of small files and of merged ones; damaged files are set aside."""

    def read(key: str) -> pa.Table | None:
        file = f"{key}.parquet"
        try:
            return catalog.tables.load(table, file, lambda parquet: _own_rows(table, file, parquet))
        except (FileNotFoundError, UnreadableError):
            return None

    if table in KEY_COLUMNS and len(single) >= MANY_FILES:
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


def large_results_of(catalog: Catalog, table: str, keys: Sequence[str]) -> Iterator[LargeResult]:
    """Yield large results as their files have them; damaged files are set aside."""
    for key in keys:
        file = f"{key}.parquet"
        try:
            yield LargeResult(key, _piece(catalog, table, file))
        except FileNotFoundError:
            continue
        except UnreadableError:
            if not catalog.tables.is_sound(table, file):
                catalog.tables.set_aside(table, file)


def _piece(catalog: Catalog, table: str, file: str) -> Piece:
    try:
        return piece_of(*catalog.tables.content(table, file), SCHEMAS[table])
    except NotJoinedError:
        rows = catalog.tables.load(table, file, lambda parquet: _own_rows(table, file, parquet))
        content = sealed_parquet(f"{table}/{file}", [rows.combine_chunks()], SCHEMAS[table])
        footer = read_footer(BytesSource(content), f"{table}/{file}")
        return piece_of(content[: footer.data], footer.tail, SCHEMAS[table])
