"""The store of results: one Parquet file for each committed unit, whole or absent."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.places import Folder, place_of
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS
from igd_ray.catalog.sources import KEY, MERGED, view_statements
from igd_ray.errors import IgdError, InputError, did_you_mean, first_line

Found = TypeVar("Found")

_KEY = re.compile(KEY)

# The zero-row file that lets a pattern over a table without results succeed.
_EMPTY = "_empty"

_MARKER, _VIEWS = "catalog.json", "views.sql"

# Where half-written and foreign files go, out of the way of every query.
QUARANTINE = "quarantine"


class UnreadableError(InputError):
    """A result that is not committed, or whose file was damaged."""


class Catalog:
    """Files ``<root>/<table>/<key>.parquet`` that any number of processes may read and commit to at once."""

    def __init__(self, root: str | Path) -> None:
        """Point to `root`, a folder or ``s3://BUCKET/FOLDER`` or ``gs://…``, which need not exist yet.

        Raises:
            InputError: if `root` is empty, or an address of another kind.
        """
        if not str(root).strip():  # as a path it would mean the working folder
            raise InputError("the catalog has no name; name a folder, as in --catalog results")
        self._name = str(root)
        self.place = place_of(root)
        self._merged_by: set[str] | None = None
        self._merged: dict[tuple[str, str], tuple[str, int | None]] = {}
        self._foreign: set[str] = set()

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            InputError: if it is in an object store.
        """
        if not isinstance(self.place, Folder):
            raise InputError(f"the catalog {self._name} is no folder of this machine; give a path for files")
        return self.place.root

    @property
    def address(self) -> str:
        """What another process finds it by: an absolute path, or the URI."""
        return self.place.address

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"Catalog({self._name!r})"

    def create(self) -> None:
        """Make the folder, its tables without rows and `views.sql`, unless they exist; commits stay as they are.

        Raises:
            InputError: if the folder holds something else, or a catalog of another schema version.
            IgdError: if it cannot be written.
        """
        self.check_usable()
        self.place.make([""])
        # The marker goes first, so that a second process that creates the catalog too recognises it.
        if not self.place.exists(_MARKER):
            self.place.write(_MARKER, json.dumps({"schema_version": SCHEMA_VERSION}).encode() + b"\n")
        self.place.make(list(SCHEMAS))
        for table, schema in SCHEMAS.items():
            empty = f"{table}/{_EMPTY}.parquet"
            if not self.place.exists(empty):
                self.place.write(empty, _parquet(schema.empty_table()))
        statements = view_statements(".").encode()
        if not self.place.exists(_VIEWS) or self.place.read(_VIEWS) != statements:
            self.place.write(_VIEWS, statements)

    def check_usable(self) -> None:
        """Verify, without writing, that the folder is a catalog of this schema version or can become one.

        Raises:
            InputError: if the folder holds something else, or a catalog of another schema version.
        """
        # Looked at before the marker: what another process makes meanwhile comes after its marker.
        used = self.place.is_used()
        if self.place.exists(_MARKER):
            self.check()
        elif used:
            raise InputError(f"{self} is neither empty nor a catalog; name an empty or a new folder")

    def check(self) -> None:
        """Verify that the folder is a catalog of this schema version.

        Raises:
            InputError: if it is not, with both versions and what to do.
        """
        try:
            found = json.loads(self.place.read(_MARKER))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"no catalog at {self} (it has no {_MARKER}); check the path") from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {self}/{_MARKER}: {error}") from error
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"the catalog {self} has schema version {version}, this igd-ray reads and writes version "
                f"{SCHEMA_VERSION}; use the igd-ray that wrote it, or name a new folder for new results"
            )

    def commit(
        self, table: str, key: str, rows: pa.Table | Sequence[Mapping[str, object]], *, replace: bool = False
    ) -> bool:
        """Write `rows` as the result `key` of `table`, once: True if written, False if it was there before.

        Args:
            table: one of `SCHEMAS`.
            key: letters, digits, ``.``, ``_`` and ``-``; not hidden, at most 200 characters.
            rows: exactly the table's columns, in any order; values are cast where nothing is lost.
            replace: write also if it is there, for what an interrupted attempt left.

        Raises:
            InputError: for an unknown table, a bad key, or rows that do not fit the schema.
            IgdError: if it cannot be written; nothing half-written is left.
        """
        name = _file_name(table, key)
        if (self.place.exists(name) and not replace) or (table, key) in self.merged():
            return False
        # Two processes may both come here: equal keys mean equal results, so either file is right.
        self.place.write(name, _parquet(_conform(table, rows)))
        return True

    def has(self, table: str, key: str) -> bool:
        """Tell whether the result `key` of `table` is committed; of a unit that was split, whether its parts are."""
        parts = self.parts(key) if table != "splits" else ()
        if parts:
            return all(self.has(table, part) for part in parts)
        return self.place.exists(_file_name(table, key)) or (table, key) in self.merged()

    def parts(self, key: str) -> tuple[str, ...]:
        """Return the keys of the parts that the unit `key` was split into; none if it was not."""
        if not self.place.exists(_file_name("splits", key)) and ("splits", key) not in self.merged():
            return ()
        return self._parts(key)

    def _parts(self, key: str) -> tuple[str, ...]:
        rows = self.read_if_whole("splits", key)
        return () if rows is None else tuple(rows["part_key"].to_pylist())

    def whole(self, table: str, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` whose results in `table` are committed, as `has` tells, by listing, not asking.

        In a folder the end of each file is read as well, as a disk may lose what it said was written; damaged ones are
        set aside. An object is seen whole or not at all, so that in an object store its name is enough.

        Raises:
            IgdError: if a file cannot be read.
        """
        # In this order: a small file is deleted only after it is merged.
        single, merged, split = self.single_keys(table), self.merged(), self.keys("splits")

        @cache
        def sound(file: str) -> bool:
            return not isinstance(self.place, Folder) or self._is_sound(table, file)

        def is_whole(key: str) -> bool:
            parts = self._parts(key) if key in split else ()
            if parts:
                return all(is_whole(part) for part in parts)
            if (table, key) in merged and sound(merged[table, key][0]):
                return True
            return key in single and sound(f"{key}.parquet")

        return {key for key in keys if is_whole(key)}

    def write_note(self, name: str, text: str) -> None:
        """Write `text` beside the tables under a hidden `name`, over an earlier one.

        Raises:
            IgdError: if it cannot be written.
        """
        self.place.write(f".{name}", text.encode())

    def read_note(self, name: str) -> str | None:
        """Return the text of the note `name`, or None if there is none to be read."""
        try:
            return self.place.read(f".{name}").decode()
        except (OSError, UnicodeDecodeError):
            return None

    def delete_note(self, name: str) -> None:
        """Delete the note `name`, if it is there."""
        self.place.delete(f".{name}")

    def notes(self) -> dict[str, float]:
        """Return how many seconds ago each note was written, by name."""
        names = [name.removeprefix(".") for name in self.place.names("") if name.startswith(".")]
        return {name: self.place.age(f".{name}") for name in names}

    def keys(self, table: str) -> set[str]:
        """Return the keys of all committed results of `table`."""
        return self.single_keys(table) | {key for merged_table, key in self.merged() if merged_table == table}

    def files(self, table: str) -> dict[str, list[int] | None]:
        """Return the files of `table` whose rows count, each with the row groups that do; None for all."""
        single = self.unmerged(table)
        groups: dict[str, list[int]] = {}
        for (merged_table, _), (file, group) in self.merged().items():
            if merged_table == table and group is not None:
                groups.setdefault(file, []).append(group)
        return {**groups, **{f"{key}.parquet": None for key in sorted(single)}}

    def merged(self) -> Mapping[tuple[str, str], tuple[str, int | None]]:
        """Return where the results are that `igd compact` has merged: (table, key) → (file, row group).

        A result in several merged files counts in the first of them by name. What announces a merged file that is gone
        or damaged is set aside, so that its results count where they still are, or are computed anew.

        Raises:
            IgdError: if a file cannot be read.
        """
        announced = self.single_keys("compacted")
        if announced != self._merged_by:
            found: list[tuple[str, str, str, int | None]] = []
            for name in sorted(announced):
                announcement = self.read_if_whole("compacted", name)
                rows = [] if announcement is None else announcement.to_pylist()
                if all(self._is_sound(*file) for file in sorted({(row["table_name"], row["file"]) for row in rows})):
                    found += [(row["file"], row["table_name"], row["key"], row["row_group"]) for row in rows]
                else:
                    self._drop(f"compacted/{name}.parquet", "announced a merged file that is gone or damaged")
            self._merged = {}
            for file, table_name, key, group in sorted(found, key=lambda each: each[0]):
                self._merged.setdefault((table_name, key), (file, group))
            self._merged_by = announced
        return self._merged

    def names(self, table: str) -> list[str]:
        """Return the names of the Parquet files of `table`, whole or not, that igd-ray may have written.

        One of another name, as of the copy that a synchronising tool makes, is said on stderr once.
        """
        ours = []
        for name in self.place.names(_known(table)):
            if not name.endswith(".parquet") or name.startswith("."):
                continue
            if _KEY.fullmatch(name.removesuffix(".parquet")):
                ours.append(name)
            elif f"{table}/{name}" not in self._foreign:
                self._foreign.add(f"{table}/{name}")
                print(f"{self}/{table}/{name} is no result of igd-ray: not read", file=sys.stderr)
        return ours

    def unmerged(self, table: str) -> set[str]:
        """Return the keys of the results of `table` that have a file each of their own, and count there."""
        # In this order: a small file is deleted only after it is merged.
        single, merged = self.single_keys(table), self.merged()
        return {key for key in single if (table, key) not in merged}

    def single_keys(self, table: str) -> set[str]:
        """Return the keys of the results of `table` that have a file each of their own, whether it counts or not."""
        return {name.removesuffix(".parquet") for name in self.names(table) if not name.startswith(MERGED)} - {_EMPTY}

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of the result `key` of `table`; of a unit that was split, those of its parts.

        Raises:
            UnreadableError: if it is not committed, or the file is half-written or from elsewhere; it is then moved to
                the folder `quarantine`.
            IgdError: if it cannot be read, which may pass.
        """
        name = _file_name(table, key)
        try:
            return self.load(table, name, pq.ParquetFile.read)
        except FileNotFoundError:
            pass
        except UnreadableError as error:
            self._set_aside(name)
            raise UnreadableError(
                f"{self}/{name} was half-written or not from igd-ray and is in {QUARANTINE} now; run the same command "
                "again, which computes it anew"
            ) from error
        if table != "compacted" and (table, key) in self.merged():
            file, group = self.merged()[table, key]
            return self._read_group(table, file, group)
        parts = self.parts(key) if table not in ("splits", "compacted") else ()
        if not parts:
            raise UnreadableError(f"the catalog {self} has no {key!r} in {table}")
        return pa.concat_tables(self.read(table, part) for part in parts)

    def read_if_whole(self, table: str, key: str) -> pa.Table | None:
        """Return the rows of the result `key` of `table`, or None, with a line on stderr, if its file was damaged."""
        try:
            return self.read(table, key)
        except UnreadableError as error:
            print(str(error).partition(";")[0], file=sys.stderr)
            return None

    def _read_group(self, table: str, file: str, group: int | None) -> pa.Table:
        if group is None:
            return SCHEMAS[table].empty_table()
        try:
            return self.load(table, f"{table}/{file}", lambda merged: merged.read_row_group(group))
        except (FileNotFoundError, UnreadableError) as error:
            raise UnreadableError(
                f"{self}/{table}/{file} is damaged: {first_line(error)}; restore it from a copy"
            ) from error

    def quarantine(self) -> list[str]:
        """Move every half-written or foreign file of a table to `quarantine`, said on stderr; return what is gone now.

        Raises:
            InputError: naming a file that cannot be moved.
            IgdError: naming a file that cannot be read, which may pass.
        """
        moved = [
            f"{table}/{file}"
            for table in SCHEMAS
            for file in self.place.names(table)
            # Hidden and foreign names are seen by patterns, too, but not what a writer has not finished.
            if file.endswith(".parquet") and not self._is_sound(table, file)
        ]
        self.merged()  # what announced one of them is moved as well
        return moved

    def _is_sound(self, table: str, file: str) -> bool:
        """Tell whether the end of a file is that of a file of `table`; one that is damaged is set aside."""
        name = f"{table}/{file}"
        try:
            self.load(table, name, lambda _: None)
        except FileNotFoundError:
            return False
        except UnreadableError:
            self._drop(name, "was half-written or not from igd-ray")
            return False
        return True

    def load(self, table: str, name: str, take: Callable[[pq.ParquetFile], Found]) -> Found:
        """Return what `take` finds in the file `name` of `table`.

        An error on the way proves nothing: the storage may be out of reach. A file is damaged only if all of its bytes
        came and they are no Parquet of this table.

        Raises:
            FileNotFoundError: if there is none.
            UnreadableError: if it is damaged.
            IgdError: if it cannot be read, which may pass.
        """
        try:
            return _take(table, self.place.open_parquet(name), take)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException):
            content = self._content(name)
        try:
            return _take(table, pq.ParquetFile(pa.BufferReader(content)), take)
        except pa.ArrowMemoryError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(first_line(error)) from error

    def _content(self, name: str) -> bytes:
        try:
            return self.place.read(name)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise IgdError(f"cannot read {self}/{name}: {first_line(error)}; try again") from error

    def _drop(self, name: str, why: str) -> None:
        self._set_aside(name)
        print(f"{self}/{name} {why}: now in {QUARANTINE}", file=sys.stderr)

    def _set_aside(self, name: str) -> None:
        self._merged_by = None  # it may be a file that announces, or one that was merged
        try:
            if name.endswith(f"/{_EMPTY}.parquet"):
                table = name.partition("/")[0]
                self.place.write(name, _parquet(SCHEMAS[table].empty_table()))
            else:
                self.place.move(name, f"{QUARANTINE}/{name}")
        except FileNotFoundError:
            return  # another process has set it aside
        except (OSError, IgdError) as error:
            raise InputError(
                f"{self}/{name} is half-written or not from igd-ray; move it away or delete it and run the same "
                "command again, which computes it anew"
            ) from error


def _take(table: str, file: pq.ParquetFile, take: Callable[[pq.ParquetFile], Found]) -> Found:
    """Return what `take` finds in an open file, verified to have the schema of `table`, and close it.

    Raises:
        OSError, pyarrow.ArrowException: if it has another schema, or is damaged where `take` looks.
    """
    with file:
        if not file.schema_arrow.equals(SCHEMAS[table], check_metadata=True):
            raise pa.ArrowInvalid("it has another schema")
        return take(file)


def _file_name(table: str, key: str) -> str:
    if not _KEY.fullmatch(key) or key == _EMPTY or key.startswith(MERGED):
        raise InputError(f"a key is 1 to 200 letters, digits, '.', '_' or '-' and starts with no dot, not {key!r}")
    return f"{_known(table)}/{key}.parquet"


def _known(table: str) -> str:
    if table not in SCHEMAS:
        raise InputError(f"no table {table!r}; there are {', '.join(SCHEMAS)}{did_you_mean(table, SCHEMAS)}")
    return table


def _conform(table: str, rows: pa.Table | Sequence[Mapping[str, object]]) -> pa.Table:
    """Return `rows` with exactly the columns, order and types of `table`'s schema."""
    schema = SCHEMAS[table]
    named = [set(rows.column_names)] if isinstance(rows, pa.Table) else [set(row) for row in rows]
    for names in named:
        _require_columns(table, names)
    try:
        if isinstance(rows, pa.Table):
            conformed = rows.select(schema.names).replace_schema_metadata(None).cast(schema)
        else:
            columns = [_column(field, [row[field.name] for row in rows]) for field in schema]
            conformed = pa.Table.from_arrays(columns, schema=schema)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputError(f"rows do not fit the schema of {table}: {first_line(error)}") from error
    for field in schema:
        if not field.nullable and conformed.column(field.name).null_count:
            raise InputError(f"rows do not fit the schema of {table}: {field.name} must not be NULL")
    return conformed


def _column(field: pa.Field, values: list[object]) -> pa.Array:
    if pa.types.is_integer(field.type):
        # Given the type, pyarrow would cut 1.5 to 1 without a word; a cast refuses.
        return pa.array(values).cast(field.type)
    return pa.array(values, field.type)


def _require_columns(table: str, names: set[str]) -> None:
    expected = set(SCHEMAS[table].names)
    problems = [
        f"{what} {', '.join(sorted(columns))}"
        for what, columns in (("missing", expected - names), ("unknown", names - expected))
        if columns
    ]
    if problems:
        raise InputError(f"rows do not fit the schema of {table}: {'; '.join(problems)}")


def _parquet(rows: pa.Table) -> bytes:
    """Return `rows` as the bytes of a zstd-compressed Parquet file."""
    # In memory first: whatever fails on the way to the disk is then an ordinary OSError.
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()
