"""The store of results: one Parquet file for each committed unit, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from errno import ELOOP, ENAMETOOLONG
from functools import cache
from pathlib import Path

from igd_ray.arrow import pa, pc, pq
from igd_ray.catalog.merged import INDEX, MergedResults, Where
from igd_ray.catalog.places import Folder, place_of
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS, UNSEALED_VERSION
from igd_ray.catalog.sealed import kept_rows, sealed_parquet
from igd_ray.catalog.sources import KEY_COLUMNS, view_statements
from igd_ray.catalog.tables import EMPTY, Rows, TableFiles, UnreadableError, conform, empty_parquet, file_of, same_rows
from igd_ray.errors import InputError

_MARKER, _VIEWS = "catalog.json", "views.sql"


class Catalog:
    """Files ``<root>/<table>/<key>.parquet`` that any number of processes may read and commit to at once.

    Reading writes, moves and deletes nothing: a damaged file is said on stderr, counts nowhere, and is set aside by
    the commit that replaces it, or by merging.
    """

    def __init__(self, root: str | Path) -> None:
        """Point to `root`, a folder or ``s3://BUCKET/FOLDER`` or ``gs://…``, which need not exist yet.

        Raises:
            InputError: if `root` is empty, or an address of another kind.
        """
        if not str(root).strip():  # as a path it would mean the working folder
            raise InputError("the catalog has no name; name a folder, as in --catalog results")
        self._name = str(root)
        self.place = place_of(root)
        self.tables = TableFiles(self.place, self._name)
        self.merged = MergedResults(self.tables)
        self._sound: set[str] = set()
        self._last_group: tuple[tuple[str, Where], pa.Table] | None = None

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            InputError: if it is in an object store.
        """
        if not isinstance(self.place, Folder):
            raise InputError(f"the catalog {self._name} is not a folder of this machine; give a path for files")
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
        if not self.place.exists(_MARKER) or self._version() == UNSEALED_VERSION:
            self.place.write(_MARKER, json.dumps({"schema_version": SCHEMA_VERSION}).encode() + b"\n")
        self.place.make(list(SCHEMAS))
        for table in SCHEMAS:
            if not self.place.exists(f"{table}/{EMPTY}.parquet"):
                self.place.write(f"{table}/{EMPTY}.parquet", empty_parquet(table))
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
        """Verify that the folder is a catalog of this schema version, or of the one before, which is read as well.

        Raises:
            InputError: if it is not, with both versions and what to do.
        """
        version = self._version()
        if version not in (SCHEMA_VERSION, UNSEALED_VERSION):
            raise InputError(
                f"the catalog {self} has schema version {version}, this igd-ray reads and writes version "
                f"{SCHEMA_VERSION}; use the igd-ray that wrote it, or name a new folder for new results"
            )

    def _version(self) -> object:
        try:
            found = json.loads(self.place.read(_MARKER))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"no catalog at {self} (it has no {_MARKER}); check the path") from None
        except (OSError, ValueError, pa.ArrowException) as why:
            if getattr(why, "errno", 0) in (ENAMETOOLONG, ELOOP) or not isinstance(why, OSError | pa.ArrowException):
                raise InputError(f"cannot read {self}/{_MARKER}: {why}") from why
            raise self.tables.unavailable(_MARKER, why) from why
        return found.get("schema_version") if isinstance(found, dict) else None

    def commit(self, table: str, key: str, rows: Rows, *, replace: bool = False) -> bool:
        """Write `rows` as the result `key` of `table`, once: True if written, False if it was there before.

        Args:
            table: one of `SCHEMAS`.
            key: letters, digits, ``.``, ``_`` and ``-``; not hidden, at most 200 characters.
            rows: exactly the table's columns, in any order; values are cast where nothing is lost.
            replace: write also if it is there; only for a key that no other process writes to.

        Raises:
            InputError: for an unknown table, a bad key, or rows that do not fit the schema.
            IgdError: if it cannot be written; nothing half-written is left.
        """
        name = f"{table}/{file_of(table, key)}"
        if not replace and self._counts(table, key):
            return False
        content = sealed_parquet(name, [conform(table, rows, key)], SCHEMAS[table])
        if replace:
            self.place.write(name, content)
            return True
        return self._create(table, key, content)

    def commit_unit(self, key: str, rows: Mapping[str, Rows]) -> bool:
        """Write a unit's rows of one or several tables, all from this call or all from an earlier one.

        The file of the first table decides: it is made by whoever makes it first, and keeps the rows of the other
        tables until these are written, by this process or by one that finds them missing.

        Returns:
            True if these rows are the unit's, False if it was there before.

        Raises:
            InputError: for an unknown table, a bad key, or rows that do not fit the schema.
            IgdError: if it cannot be written; nothing half-written is left.
        """
        (first, own), *others = ((table, conform(table, each, key)) for table, each in rows.items())
        if not others:
            return self.commit(first, key, own)
        if self.finish_unit(list(rows), key):
            return False
        self._withdraw([table for table, _ in others], key)
        name = f"{first}/{file_of(first, key)}"
        if self.place.exists(name) and self._kept(first, key) is None:
            self.tables.set_aside(first, file_of(first, key))
        content = sealed_parquet(name, [own], SCHEMAS[first], rows_of_others=dict(others))
        written = self.place.create(name, content)
        if not self.finish_unit(list(rows), key):
            raise UnreadableError(f"{self}/{name} was damaged as soon as it was written; run the same command again")
        return written

    def finish_unit(self, tables: Sequence[str], key: str) -> bool:
        """Write what an interrupted `commit_unit` has not written; tell whether the unit is committed now.

        Args:
            tables: those of the unit, in the order of `commit_unit`.
            key: the unit's.
        """
        first, *others = tables
        if others and all(key in self.merged.of(table) and self._counts(table, key) for table in tables):
            return True
        kept = self._kept(first, key) if others else None
        if kept is None or list(kept) != others:
            return all(self._counts(table, key) for table in tables)
        if key in self.merged.of(first):
            self.merged.count_alone(first, key)
        for table, rows in kept.items():
            self._put(table, key, rows)
        return True

    def _kept(self, table: str, key: str) -> dict[str, pa.Table] | None:
        """Return the rows of other tables that the file of a unit's first table keeps; None if it keeps none."""
        try:
            return self.tables.load(table, file_of(table, key), kept_rows) or None
        except (FileNotFoundError, UnreadableError):
            return None

    def _put(self, table: str, key: str, rows: pa.Table) -> None:
        """Have `rows` be the result `key` of `table`, whatever is there."""
        if self._counts(table, key) and same_rows(self.read(table, key), rows):
            return
        name = f"{table}/{file_of(table, key)}"
        content = sealed_parquet(name, [rows], SCHEMAS[table])
        if not self.place.create(name, content):
            if not self.place.exists(name):  # but something else than a file
                self.tables.set_aside(table, file_of(table, key))
            self.place.write(name, content)
        if key in self.merged.of(table):
            self.merged.count_alone(table, key)

    def _withdraw(self, tables: Sequence[str], key: str) -> None:
        """Have the result `key` count in none of `tables`, as it is of an attempt whose other rows are lost."""
        for table in tables:
            if self.place.exists(f"{table}/{file_of(table, key)}"):
                self.tables.set_aside(table, file_of(table, key))
            if key in self.merged.of(table):
                self.merged.count_alone(table, key)

    def _create(self, table: str, key: str, content: bytes) -> bool:
        file = file_of(table, key)
        name = f"{table}/{file}"
        written = self.place.create(name, content)
        if not written and not self.tables.is_sound(table, file):
            self.tables.set_aside(table, file)
            written = self.place.create(name, content)
        return written

    def _counts(self, table: str, key: str) -> bool:
        """Tell whether a result is there, all of it undamaged."""
        where = self.merged.of(table).get(key)
        if where is not None and self._is_sound_once(table, where.file):
            return True
        file = file_of(table, key)
        return self.place.exists(f"{table}/{file}") and self.tables.is_sound(table, file)

    def _is_sound_once(self, table: str, file: str) -> bool:
        """Tell whether a file that nobody writes again is undamaged; all of it is read once in this process."""
        name = f"{table}/{file}"
        if name not in self._sound and self.tables.is_sound(table, file):
            self._sound.add(name)
        return name in self._sound

    def has(self, table: str, key: str) -> bool:
        """Tell whether the result `key` of `table` is committed; of a unit that was split, whether its parts are.

        In a folder a damaged file counts as none; an object store verifies its objects itself.
        """
        parts = self.parts(key) if table != "splits" else ()
        if parts:
            return all(self.has(table, part) for part in parts)
        return self._counts(table, key) if isinstance(self.place, Folder) else self._is_there(table, key)

    def _is_there(self, table: str, key: str) -> bool:
        return self.place.exists(f"{table}/{file_of(table, key)}") or key in self.merged.of(table)

    def parts(self, key: str) -> tuple[str, ...]:
        """Return the keys of the parts that the unit `key` was split into; none if it was not."""
        return self._parts(key) if self._is_there("splits", key) else ()

    def _parts(self, key: str) -> tuple[str, ...]:
        rows = self.read_if_whole("splits", key)
        return () if rows is None else tuple(rows["part_key"].to_pylist())

    def whole(self, table: str, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` whose results in `table` are committed: one listing instead of `has` for each.

        In a folder each file is read as well, once in a process, as a disk may lose or change what it said was
        written; damaged ones are said on stderr. An object store verifies its objects itself, so that a name is enough.

        Raises:
            IgdError: if a file cannot be read.
        """
        # In this order: a small file is deleted only after it is merged.
        single, split, merged = self.tables.keys(table), self.tables.keys("splits"), self.merged.of(table)
        split |= self.merged.known("splits").keys()

        @cache
        def sound(file: str) -> bool:
            return not isinstance(self.place, Folder) or self._is_sound_once(table, file)

        def is_whole(key: str) -> bool:
            parts = self._parts(key) if key in split else ()
            if parts:
                return all(is_whole(part) for part in parts)
            if key in merged and sound(merged[key].file):
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
        single = self.tables.keys(table)  # first: a small file is deleted only after it is merged
        return single | self.merged.of(table).keys()

    def unmerged(self, table: str) -> set[str]:
        """Return the keys of the results of `table` that have a file each of their own, and count there."""
        single = self.tables.keys(table)  # first: a small file is deleted only after it is merged
        return single - self.merged.of(table).keys()

    def files(self, table: str) -> dict[str, set[str]]:
        """Return the files of `table` whose rows count, each with the keys of those of its results that do not."""
        single = self.tables.keys(table)  # first: a small file is deleted only after it is merged
        # Listed once: what a merge announces in between must not count here and there.
        merged = self.merged.files(table) if table != INDEX else {}
        counting = {f"{key}.parquet": set[str]() for key in sorted(single - self.merged.known(table).keys())}
        return {
            **merged,
            **{file: none for file, none in counting.items() if not self.tables.is_left_out(table, file)},
        }

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of the result `key` of `table`; of a unit that was split, those of its parts.

        Raises:
            UnreadableError: if it is not committed, or its file is damaged.
            IgdError: if it cannot be read, though it may be later.
        """
        file = file_of(table, key)
        for _ in range(3):  # it may be merged, and its file deleted, in between; and what was merged may be damaged
            where = self.merged.of(table).get(key) if table != INDEX else None
            try:
                return self._read_single(table, key, file) if where is None else self._read_merged(table, key, where)
            except FileNotFoundError:
                self.merged.forget()
            except UnreadableError as error:
                if where is None or not self.place.exists(f"{table}/{file}"):
                    raise
                self.tables.leave_out(table, where.file, str(error))
        parts = self.parts(key) if table not in ("splits", INDEX) else ()
        if not parts:
            raise UnreadableError(f"the catalog {self} has no {key!r} in {table}")
        return pa.concat_tables(self.read(table, part) for part in parts)

    def _read_single(self, table: str, key: str, file: str) -> pa.Table:
        try:
            rows = self.tables.load(table, file, pq.ParquetFile.read)
        except UnreadableError as error:
            raise UnreadableError(
                f"{error}; run the command again that made it, which sets it aside and computes it anew"
            ) from error
        # A file without a seal may be another result's under this name.
        if table in KEY_COLUMNS and set(rows[KEY_COLUMNS[table]].unique().to_pylist()) - {key}:
            raise UnreadableError(f"{self}/{table}/{file} holds a result of another name; move it away")
        return rows

    def read_if_whole(self, table: str, key: str) -> pa.Table | None:
        """Return the rows of the result `key` of `table`, or None, with a line on stderr, if its file is damaged."""
        try:
            return self.read(table, key)
        except UnreadableError as error:
            self.tables.say(str(error).partition(";")[0])
            return None

    def _read_merged(self, table: str, key: str, where: Where) -> pa.Table:
        if where.row_group is None:
            return SCHEMAS[table].empty_table()
        group: int = where.row_group
        place = (table, where)
        if self._last_group is None or self._last_group[0] != place:
            try:
                rows = self.tables.load(table, where.file, lambda file: file.read_row_group(group))
            except UnreadableError as error:
                raise UnreadableError(
                    f"{error}; run the command again that made {key!r}, which computes it anew, or restore the file "
                    "from a copy"
                ) from error
            self._last_group = place, rows
        rows = self._last_group[1]
        return rows.filter(pc.equal(rows[KEY_COLUMNS[table]], key)) if table in KEY_COLUMNS else rows
