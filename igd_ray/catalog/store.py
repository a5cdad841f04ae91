"""The store of results: one Parquet file for each committed unit, whole or absent."""

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.files import cannot_write, write_whole
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS
from igd_ray.catalog.sources import view_statements
from igd_ray.errors import InputError, did_you_mean, first_line

# A file name that no shell, URL or pattern reads as anything else; a leading dot would hide the file.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

# The zero-row file that lets a pattern over a table without results succeed.
_EMPTY = "_empty"


class Catalog:
    """A folder ``<root>/<table>/<key>.parquet`` that any number of processes may read and commit to at once."""

    def __init__(self, root: str | Path) -> None:
        """Point to the folder `root`, which need not exist yet.

        Raises:
            InputError: if `root` is empty, or an address rather than a folder.
        """
        if not str(root).strip():  # as a path it would mean the working folder
            raise InputError("the catalog has no name; name a folder, as in --catalog results")
        if "://" in str(root):
            raise InputError(f"the catalog must be a local or mounted folder, not {str(root)!r}")
        self._root = Path(root)

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def __repr__(self) -> str:
        return f"Catalog({str(self._root)!r})"

    def create(self) -> None:
        """Make the folder, its tables without rows and `views.sql`, unless they exist; commits stay as they are.

        Raises:
            InputError: if the folder holds something else, or a catalog of another schema version.
            IgdError: if it cannot be written.
        """
        self.check_usable()
        marker = self._root / "catalog.json"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            # The marker goes first, so that a second process that creates the catalog too recognises it.
            if not marker.exists():
                write_whole(marker, json.dumps({"schema_version": SCHEMA_VERSION}).encode() + b"\n")
            for table in SCHEMAS:
                (self._root / table).mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self._root, error) from error
        for table, schema in SCHEMAS.items():
            empty = self._root / table / f"{_EMPTY}.parquet"
            if not empty.exists():
                write_whole(empty, _parquet(schema.empty_table()))
        views = self._root / "views.sql"
        statements = view_statements(".").encode()
        if not views.exists() or views.read_bytes() != statements:
            write_whole(views, statements)

    def check_usable(self) -> None:
        """Verify, without writing, that the folder is a catalog of this schema version or can become one.

        Raises:
            InputError: if the folder holds something else, or a catalog of another schema version.
        """
        if self._root.exists() and not self._root.is_dir():
            raise InputError(f"{self._root} is a file, not a folder for a catalog; name another path")
        # Looked at before the marker: what another process makes meanwhile comes after its marker.
        used = self._root.is_dir() and any(not path.name.startswith(".") for path in self._root.iterdir())
        if (self._root / "catalog.json").exists():
            self.check()
        elif used:
            raise InputError(f"{self._root} is neither empty nor a catalog; name an empty or a new folder")

    def check(self) -> None:
        """Verify that the folder is a catalog of this schema version.

        Raises:
            InputError: if it is not, with both versions and what to do.
        """
        marker = self._root / "catalog.json"
        try:
            found = json.loads(marker.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"no catalog at {self._root} (it has no catalog.json); check the path") from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {marker}: {error}") from error
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"the catalog {self._root} has schema version {version}, this igd-ray reads and writes version "
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
        path = self._path(table, key)
        if path.exists() and not replace:
            return False
        # Two processes may both come here: equal keys mean equal results, so either file is right.
        write_whole(path, _parquet(_conform(table, rows)))
        return True

    def has(self, table: str, key: str) -> bool:
        """Tell whether the result `key` of `table` is committed, whole or in parts."""
        if self._path(table, key).exists():
            return True
        parts = self.parts(key)
        return bool(parts) and all(self.has(table, part) for part in parts)

    def parts(self, key: str) -> tuple[str, ...]:
        """Return the keys of the parts that the unit `key` was split into; none if it was not."""
        if not self._path("splits", key).exists():
            return ()
        return tuple(self.read("splits", key)["part_key"].to_pylist())

    def write_note(self, name: str, text: str) -> None:
        """Write `text` beside the tables under a hidden `name`, over an earlier one.

        Raises:
            IgdError: if it cannot be written.
        """
        write_whole(self._root / f".{name}", text.encode())

    def read_note(self, name: str) -> str | None:
        """Return the text of the note `name`, or None if there is none to be read."""
        try:
            return (self._root / f".{name}").read_text()
        except OSError:
            return None

    def delete_note(self, name: str) -> None:
        """Delete the note `name`, if it is there."""
        with contextlib.suppress(OSError):
            (self._root / f".{name}").unlink()

    def keys(self, table: str) -> set[str]:
        """Return the keys of all committed results of `table`."""
        folder = self._root / _known(table)
        names = (path.name for path in folder.glob("*.parquet"))
        return {name.removesuffix(".parquet") for name in names if not name.startswith(".")} - {_EMPTY}

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of the result `key` of `table`; of a unit that was split, those of its parts.

        Raises:
            InputError: if it is not committed, or the file is half-written or from elsewhere.
        """
        path = self._path(table, key)
        if not path.exists():
            parts = self.parts(key) if table != "splits" else ()
            if parts:
                return pa.concat_tables(self.read(table, part) for part in parts)
            raise InputError(f"the catalog {self._root} has no {key!r} in {table}")
        with open_file(path, table) as file:
            try:
                return file.read()
            except (OSError, pa.ArrowException) as error:
                raise _unusable(path) from error

    def _path(self, table: str, key: str) -> Path:
        if not _KEY.fullmatch(key) or key == _EMPTY:
            raise InputError(f"a key is 1 to 200 letters, digits, '.', '_' or '-' and starts with no dot, not {key!r}")
        return self._root / _known(table) / f"{key}.parquet"


def open_file(path: Path, table: str) -> pq.ParquetFile:
    """Return the file at `path`, verified from its end to be whole and to have the schema of `table`.

    Raises:
        InputError: if it is half-written or from elsewhere.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unusable(path) from error
    if not file.schema_arrow.equals(SCHEMAS[table], check_metadata=True):
        file.close()
        raise _unusable(path)
    return file


def _unusable(path: Path) -> InputError:
    """Return the error for a file in a table's folder that is not a whole Parquet file of that table."""
    return InputError(
        f"{path} is half-written or not from igd-ray; move it away or delete it and run the same command again, "
        "which computes it anew"
    )


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
