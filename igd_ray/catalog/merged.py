"""Where merged results are: a log of numbered entries, each written once.

An entry ``compacted/NNNNNNNN.parquet`` says of results in which merged file they are from now on; a later entry
overrides an earlier one. Whoever writes the next number first has written it, on any node and without a clock: of two
merges at once one finds its number taken, and what it merged never counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from igd_ray.arrow import pq
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import sealed_parquet
from igd_ray.catalog.sources import MERGED
from igd_ray.catalog.tables import QUARANTINE, TableFiles, UnreadableError, conform, is_key

INDEX = "compacted"

_NUMBER = re.compile("[0-9]{8}")
# With the number of the entry that announces it; older ones have a digest.
_MERGED_FILE = re.compile(rf"{MERGED}(?:([0-9]{{8}})-[0-9a-f]{{16}}|[0-9a-f]{{32}})\.parquet")


class Where(NamedTuple):
    """Where the rows of a merged result are.

    Attributes:
        file: the merged file.
        row_group: the row group that holds them; None for a result without rows.
    """

    file: str
    row_group: int | None


class Announced(NamedTuple):
    """A row of an entry."""

    table_name: str
    key: str
    file: str
    row_group: int | None


class MergedResults:
    """The results of a catalog that were merged.

    Args:
        tables: the catalog's files.

    Attributes:
        read_entry: what returns the rows of the entry in a file, and raises FileNotFoundError, UnreadableError if the
            file is damaged, or IgdError if it cannot be read just then. Whoever has DuckDB at hand reads by that.
    """

    def __init__(self, tables: TableFiles) -> None:
        self._tables = tables
        self._entries: dict[str, list[Announced] | None] = {}
        self.read_by_arrow()
        self._listed: set[str] | None = None
        self._all: dict[str, list[tuple[str, Where]]] = {}
        self._of: dict[str, dict[str, Where]] = {}
        self._files: dict[str, set[str]] = {}

    def of(self, table: str) -> Mapping[str, Where]:
        """Return where each merged result of `table` is, by key; those in a file that is gone or damaged are not.

        Raises:
            IgdError: if an entry cannot be read, though it may be later.
        """
        self._refresh()
        return self.known(table)

    def known(self, table: str) -> Mapping[str, Where]:
        """Return the same by the entries that were there when `of` was last asked, without listing them anew."""
        found = self._of.get(table)
        if found is None or any(self._tables.is_left_out(table, file) for file in self._files.get(table, ())):
            found = self._of[table] = self._resolve(table)
            self._files[table] = {where.file for where in found.values()}
        return found

    def files(self, table: str) -> dict[str, set[str]]:
        """Return the merged files of `table` that count, each with the keys of those of its results that do not."""
        counting = self.of(table)
        files: dict[str, set[str]] = {where.file: set() for where in counting.values()}
        for key, where in self._all.get(table, ()):
            if where.file in files and (key not in counting or counting[key].file != where.file):
                files[where.file].add(key)
        return files

    def forget(self) -> None:
        """Look anew at what is there."""
        self._listed = None

    def numbers(self) -> list[int]:
        """Return the numbers of the log's entries."""
        return sorted(int(name) for name in self._tables.keys(INDEX) if _NUMBER.fullmatch(name))

    def announced(self) -> dict[int, set[str] | None]:
        """Return the merged files, as ``table/file``, that each entry names by its number; None if it cannot be read.

        By the entries that were there when `of` was last asked.
        """
        return {
            int(name): None if rows is None else {f"{row.table_name}/{row.file}" for row in rows}
            for name, rows in self._entries.items()
            if _NUMBER.fullmatch(name)
        }

    def next_number(self) -> int:
        """Return a number that neither an entry nor a merged file has or had."""
        taken = self.numbers()
        for folder in (INDEX, f"{QUARANTINE}/{INDEX}"):
            stems = (name.removesuffix(".parquet") for name in self._tables.place.names(folder))
            taken += [int(stem) for stem in stems if _NUMBER.fullmatch(stem)]
        return max(taken, default=0) + 1

    def append(self, number: int, rows: Sequence[Mapping[str, object]]) -> bool:
        """Write the entry `number`, unless there is one; True if this call wrote it.

        Raises:
            IgdError: if it cannot be written.
        """
        name = f"{INDEX}/{number:08d}.parquet"
        content = sealed_parquet(name, [conform(INDEX, rows)], SCHEMAS[INDEX])
        return self._tables.place.create(name, content)

    def count_alone(self, table: str, key: str) -> None:
        """Write that the result `key` of `table` counts in a file of its own from now on, merged or not."""
        rows = [{"table_name": table, "key": key, "file": f"{key}.parquet", "row_group": None}]
        while not self.append(self.next_number(), rows):
            pass

    def read_by_arrow(self) -> None:
        """Read entries by Arrow from now on."""
        self.read_entry: Callable[[str], list[Announced]] = self._read_by_arrow

    def _refresh(self) -> None:
        keys = self._tables.keys(INDEX)
        if keys == self._listed:
            return
        numbered = {name for name in keys if _NUMBER.fullmatch(name)}
        # Those from before there were numbers come first; of these the first by name overrides the others.
        names = (*sorted(keys - numbered, reverse=True), *sorted(numbered))
        self._entries = {name: self._entries[name] if name in self._entries else self._read(name) for name in names}
        self._all, self._of, self._listed = {}, {}, keys

    def _read(self, name: str) -> list[Announced] | None:
        file = f"{name}.parquet"
        try:
            rows = self.read_entry(file)
        except FileNotFoundError:
            return None
        except UnreadableError as error:
            self._tables.leave_out(INDEX, file, str(error).partition(" is damaged: ")[2])
            return None
        if not all(map(_is_generated, rows)):
            self._tables.leave_out(INDEX, file, "it names what igd-ray never names")
            return None
        return rows

    def _read_by_arrow(self, file: str) -> list[Announced]:
        rows = self._tables.load(INDEX, file, pq.ParquetFile.read)
        columns = (rows[name].to_pylist() for name in Announced._fields)
        return [Announced(*row) for row in zip(*columns, strict=True)]

    def _resolve(self, table: str) -> dict[str, Where]:
        """Return where the results of `table` are, the latest entry first whose file is there and undamaged."""
        rows = [(key, where) for name in self._entries for key, where in self._rows(name, table)]
        self._all[table] = rows
        if not rows:
            return {}
        present = set(self._tables.names(table))
        sound = {
            file: file in present and not self._tables.is_left_out(table, file)
            for file in {where.file for _, where in rows}
            if _MERGED_FILE.fullmatch(file)
        }
        found: dict[str, Where] = {}
        for key, where in rows:
            if where.file not in sound:  # it counts alone
                found.pop(key, None)
            elif sound[where.file]:
                found[key] = where
        return found

    def _rows(self, name: str, table: str) -> Iterator[tuple[str, Where]]:
        for row in self._entries.get(name) or ():
            if row.table_name == table:
                yield row.key, Where(row.file, row.row_group)


def merged_name(number: int, token: str) -> str:
    """Return the name of a merged file that the entry `number` is to announce."""
    return f"{MERGED}{number:08d}-{token}.parquet"


def number_of(file: str) -> int | None:
    """Return the number of the entry that a merged file was made for; None for an older or another file."""
    found = _MERGED_FILE.fullmatch(file)
    return int(found[1]) if found and found[1] else None


def _is_generated(row: Announced) -> bool:
    return (
        isinstance(row.key, str)
        and isinstance(row.file, str)
        and row.table_name in SCHEMAS
        and row.table_name != INDEX
        and is_key(row.key)
        and (_MERGED_FILE.fullmatch(row.file) is not None or row.file == f"{row.key}.parquet")
        and (row.row_group is None or row.row_group >= 0)
    )
