"""Whether every file of a catalog holds what igd-ray wrote into it."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.merged import INDEX
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import kept_rows
from igd_ray.catalog.sources import KEY_COLUMNS
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import UnreadableError, same_rows


class Fault(NamedTuple):
    """A file, as ``table/file``, and what is wrong with it."""

    name: str
    why: str


def check_files(catalog: Catalog) -> tuple[int, list[Fault]]:
    """Read and verify every file of every table; nothing is written.

    Returns:
        how many files were read, and what is wrong with some of them.

    Raises:
        IgdError: if a file cannot be read, though it may be later.
    """
    files, faults = 0, []
    for table in SCHEMAS:
        merged = {} if table == INDEX else catalog.merged.of(table)
        for file in catalog.tables.names(table):
            files += 1
            try:
                why = catalog.tables.fault(table, file)
                if why is None and table in KEY_COLUMNS:
                    announced = {key for key, where in merged.items() if where == (file, where.row_group)}
                    why = _missing(
                        catalog, table, file, {key for key in announced if merged[key].row_group is not None}
                    )
                if why is None and table == "adversarials":
                    why = _other_attempt(catalog, table, file)
            except FileNotFoundError:
                continue  # merged meanwhile
            if why is not None:
                faults.append(Fault(f"{table}/{file}", why))
    return files, faults


def _missing(catalog: Catalog, table: str, file: str, announced: set[str]) -> str | None:
    """Say that a merged file lacks results that are to be in it."""
    if not announced:
        return None
    column = KEY_COLUMNS[table]
    held = catalog.tables.load(table, file, lambda parquet: set(parquet.read([column])[column].unique().to_pylist()))
    lacking = announced - held
    return f"it lacks {len(lacking)} results, first {min(lacking)}" if lacking else None


def _other_attempt(catalog: Catalog, table: str, file: str) -> str | None:
    """Say that a unit's points are of another attempt than its rows in another table."""
    kept: dict[str, pa.Table] = catalog.tables.load(table, file, kept_rows)
    for other, rows in kept.items():
        try:
            found = catalog.tables.load(other, file, pq.ParquetFile.read)
        except (FileNotFoundError, UnreadableError):
            continue  # merged, or told of itself
        if not same_rows(found, rows):
            return f"{other}/{file} is of another attempt at the unit"
    return None
