"""Merging small files into few: what counts changes at one moment, and nothing that a reader has opened goes away."""

import hashlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import MERGED
from igd_ray.catalog.store import Catalog
from igd_ray.errors import IgdError

INDEX = "compacted"

# A merged file has at most this much, uncompressed, and at least two results.
MOST_BYTES = 256 * 2**20

# A query that listed files before a merged one was there has started to read after this long.
SECONDS_TO_SETTLE = 2.0

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

    First the merged file is written; rows in it do not count yet. Then a file in the table `compacted` announces it,
    and the small ones count no more. Killed at any point, either the small files count or the merged one, never both.

    Raises:
        IgdError: if a merged file does not hold what went into it, or cannot be written.
    """
    deleted = _delete_merged(catalog, keep_seconds)
    announcements: list[tuple[str, list[dict[str, object]]]] = []
    for table in SCHEMAS:
        if table != INDEX:
            for group in _groups(catalog, table):
                announcements.append(_merge(catalog, table, group))
    if announcements:
        time.sleep(settle_seconds)
    results = files = 0
    for name, rows in announcements:
        if any((row["table_name"], row["key"]) in catalog.merged() for row in rows):
            continue  # another compaction was faster; what was merged here never counts, and is deleted later
        catalog.commit(INDEX, name, rows)
        results, files = results + len(rows), files + 1
    return Compaction(results, files, deleted)


def _groups(catalog: Catalog, table: str) -> Iterator[dict[str, pa.Table]]:
    """Yield results that are to be merged into one file."""
    single = {name.removesuffix(".parquet") for name in catalog.files(table) if not name.startswith("_")}
    if table == "adversarials":
        # An attempt that was interrupted writes its points again.
        single &= catalog.keys("outcomes")
    group: dict[str, pa.Table] = {}
    size = 0
    for key in sorted(single):
        rows = catalog.read(table, key)
        if table == "attempts" and _may_be_written_again(rows):
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


def _merge(catalog: Catalog, table: str, group: dict[str, pa.Table]) -> tuple[str, list[dict[str, object]]]:
    """Write the merged file of `group`, a row group a result; return the announcement's key and rows."""
    digest = hashlib.sha256("\n".join([table, *group]).encode()).hexdigest()[:32]
    file = f"{MERGED}{digest}.parquet"
    announcement: list[dict[str, object]] = []
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMAS[table], compression="zstd") as writer:
        number = 0
        for key, rows in group.items():
            held = None
            if len(rows):
                writer.write_table(rows, row_group_size=len(rows))
                held, number = number, number + 1
            announcement.append({"table_name": table, "key": key, "file": file, "row_group": held})
    catalog.place.write(f"{table}/{file}", buffer.getvalue())
    with catalog.place.open_parquet(f"{table}/{file}") as written:
        for row in announcement:
            if row["row_group"] is not None and not written.read_row_group(row["row_group"]).equals(
                group[str(row["key"])]
            ):
                raise IgdError(f"{catalog}/{table}/{file} does not hold what was written; nothing was replaced")
    return f"{table}-{digest}", announcement


def _delete_merged(catalog: Catalog, keep_seconds: float) -> int:
    """Delete files whose rows have not counted for `keep_seconds`, and merged ones that were never announced."""
    deleted = 0
    old = [
        name
        for name in catalog.place.names(INDEX)
        if name[0] not in "._" and catalog.place.age(f"{INDEX}/{name}") >= keep_seconds
    ]
    for name in old:
        for row in catalog.read(INDEX, name.removesuffix(".parquet")).to_pylist():
            small = f"{row['table_name']}/{row['key']}.parquet"
            if catalog.place.exists(small):
                catalog.place.delete(small)
                deleted += 1
    announced = {(table, file) for (table, _), (file, _) in catalog.merged().items()}
    for table in SCHEMAS:
        for name in catalog.place.names(table):
            unannounced = name.startswith(MERGED) and (table, name) not in announced
            if unannounced and catalog.place.age(f"{table}/{name}") >= keep_seconds:
                catalog.place.delete(f"{table}/{name}")
                deleted += 1
    return deleted
