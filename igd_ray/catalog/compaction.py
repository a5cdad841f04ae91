"""Merging small files into few: what counts changes at one moment, and nothing that a reader has opened goes away."""

import hashlib
import io
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import KEY_COLUMNS, MERGED
from igd_ray.catalog.store import Catalog, UnreadableError
from igd_ray.errors import IgdError, first_line

INDEX = "compacted"

# A merged file has hardly more than this, uncompressed.
MOST_BYTES = 256 * 2**20

# A query that listed files before a merged one was there has started to read after this long.
SECONDS_TO_SETTLE = 2.0

# The note of a compaction, and after how long without a sign it is taken for one that a killed compaction left.
NOTE = "compaction-"
SECONDS_TO_STALE = 3600.0

# A session that has not written for this long has ended.
SESSION_ENDED = timedelta(hours=1)


@dataclass(frozen=True)
class Compaction:
    """How many results were merged into how many files, and how many files, merged earlier, were deleted."""

    results: int
    files: int
    deleted: int


def compact(catalog: Catalog, *, keep_seconds: float, settle_seconds: float = SECONDS_TO_SETTLE) -> Compaction:
    """Merge the small files of every table, and delete those that were merged at least `keep_seconds` ago.

    First a merged file is written; rows in it do not count yet. Then a file in the table `compacted` announces it, and
    the small ones count no more. Killed at any point, either the small files count or the merged one, never both.
    A merged file is never deleted: one that nothing announces may be all that is left of a damaged announcement's.

    Raises:
        IgdError: if another compaction is at work, or a merged file does not hold what went into it, or a file cannot
            be read or written.
    """
    with _alone(catalog) as still_alone:
        deleted = _delete_merged(catalog, keep_seconds)
        results = files = 0
        for table in SCHEMAS:
            if table != INDEX:
                for group in _groups(catalog, table):
                    still_alone()
                    name, rows = _merge(catalog, table, group, settle_seconds)
                    still_alone()
                    catalog.commit(INDEX, name, rows)
                    results, files = results + len(rows), files + 1
    return Compaction(results, files, deleted)


@contextmanager
def _alone(catalog: Catalog) -> Iterator[Callable[[], None]]:
    """Keep other compactions out, which could merge the same results; yield what checks and shows that this one lives.

    Each writes a note and then looks for those of others. Of two at once, one sees the other's at least, in an object
    store, too; it, or both, give up.

    Raises:
        IgdError: if another is at work, or took this one for dead.
    """
    note = f"{NOTE}{secrets.token_hex(6)}"

    def still_alone() -> None:
        if catalog.read_note(note) is None:
            raise IgdError(f"this compaction of {catalog} stood still and another one has begun; nothing is lost")
        catalog.write_note(note, "")

    catalog.write_note(note, "")
    try:
        for other, age in catalog.notes().items():
            if other.startswith(NOTE) and other != note:
                if age < SECONDS_TO_STALE:
                    raise IgdError(
                        f"another compaction of {catalog} is at work; wait for it, or delete {catalog}/.{other} if it "
                        "was killed"
                    )
                catalog.delete_note(other)
        yield still_alone
    finally:
        catalog.delete_note(note)


def _groups(catalog: Catalog, table: str) -> Iterator[dict[str, pa.Table]]:
    """Yield results that are to be merged into one file."""
    single = catalog.unmerged(table)
    if table == "adversarials":
        # An attempt that was interrupted writes its points again.
        single &= catalog.keys("outcomes")
    group: dict[str, pa.Table] = {}
    size = 0
    for key in sorted(single):
        rows = catalog.read_if_whole(table, key)
        if rows is None or (table == "attempts" and _may_be_written_again(rows)):
            continue
        if table in KEY_COLUMNS and set(rows[KEY_COLUMNS[table]].to_pylist()) - {key}:
            print(f"{catalog}/{table}/{key}.parquet holds a result of another name: not read", file=sys.stderr)
            continue
        group[key] = rows
        size += rows.nbytes
        if size > MOST_BYTES:
            yield group
            group, size = {}, 0
    if len(group) > 1:
        yield group


def _may_be_written_again(attempts: pa.Table) -> bool:
    seen = [moment for moment in attempts["seen_at"].to_pylist() if moment is not None]
    return not seen or max(seen) > datetime.now(UTC) - SESSION_ENDED


def _merge(
    catalog: Catalog, table: str, group: Mapping[str, pa.Table], settle_seconds: float
) -> tuple[str, list[dict[str, object]]]:
    """Write the merged file of `group`, a row group a result, and verify it; return the announcement's key and rows."""
    digest = hashlib.sha256("\n".join([table, *group]).encode()).hexdigest()[:32]
    file = f"{MERGED}{digest}.parquet"
    row_groups: dict[str, int | None] = {}
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMAS[table], compression="zstd") as writer:
        number = 0
        for key, rows in group.items():
            row_groups[key] = None
            if len(rows):
                writer.write_table(rows, row_group_size=len(rows))
                row_groups[key], number = number, number + 1
    catalog.place.write(f"{table}/{file}", buffer.getvalue())
    time.sleep(settle_seconds)
    if len(_held(catalog, table, file, row_groups, group.get)) < len(group):
        raise IgdError(f"{catalog}/{table}/{file} does not hold what was written; nothing was replaced")
    return f"{table}-{digest}", [
        {"table_name": table, "key": key, "file": file, "row_group": row_group} for key, row_group in row_groups.items()
    ]


def _delete_merged(catalog: Catalog, keep_seconds: float) -> int:
    """Delete small files that have not counted for `keep_seconds`, each if the merged file that counts has its rows."""
    small = {table: catalog.single_keys(table) for table in SCHEMAS}
    replaced: dict[tuple[str, str], dict[str, int | None]] = defaultdict(dict)
    for name in catalog.keys(INDEX):
        if catalog.place.age(f"{INDEX}/{name}.parquet") < keep_seconds:
            continue
        announcement = catalog.read_if_whole(INDEX, name)
        for row in [] if announcement is None else announcement.to_pylist():
            table, key, file, row_group = (row[column] for column in SCHEMAS[INDEX].names)
            if key in small[table] and catalog.merged().get((table, key)) == (file, row_group):
                replaced[table, file][key] = row_group
    deleted = 0
    for (table, file), row_groups in replaced.items():
        for key in _held(catalog, table, file, row_groups, partial(_rows, catalog, table)):
            catalog.place.delete(f"{table}/{key}.parquet")
            deleted += 1
    return deleted


def _rows(catalog: Catalog, table: str, key: str) -> pa.Table | None:
    """Return the rows of a small file, which need not count; None if it is gone or damaged."""
    try:
        return catalog.load(table, f"{table}/{key}.parquet", pq.ParquetFile.read)
    except (FileNotFoundError, UnreadableError):
        return None


def _held(
    catalog: Catalog,
    table: str,
    file: str,
    row_groups: Mapping[str, int | None],
    rows_of: Callable[[str], pa.Table | None],
) -> list[str]:
    """Return the keys of `row_groups`, of a merged file, where it has exactly the rows `rows_of` the key.

    Raises:
        IgdError: if the file cannot be read.
    """

    def equal(merged: pq.ParquetFile) -> list[str]:
        return [key for key, number in row_groups.items() if _equal(_row_group(merged, number), rows_of(key))]

    try:
        return catalog.load(table, f"{table}/{file}", equal)
    except (FileNotFoundError, UnreadableError) as error:
        raise IgdError(
            f"{catalog}/{table}/{file} is damaged ({first_line(error)}), no small file was deleted for it; move it "
            "away, and the small files that are still there count again"
        ) from error


def _row_group(merged: pq.ParquetFile, number: int | None) -> pa.Table:
    return merged.schema_arrow.empty_table() if number is None else merged.read_row_group(number)


def _equal(merged: pa.Table, rows: pa.Table | None) -> bool:
    # As bytes NaN equals itself.
    return rows is not None and (merged.equals(rows) or _bytes(merged) == _bytes(rows))


def _bytes(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows.combine_chunks(), buffer)
    return buffer.getvalue()
