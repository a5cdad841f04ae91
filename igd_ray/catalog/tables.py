"""The Parquet files of a catalog's tables: which are there, what rows they hold, and which of them are damaged."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from igd_ray.arrow import pa, pq
from igd_ray.catalog.places import Place
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS, UNSEALED_VERSION
from igd_ray.catalog.sealed import DamagedError, SealedFile, UnavailableError, sealed_parquet
from igd_ray.catalog.sources import KEY, KEY_COLUMNS, MERGED
from igd_ray.errors import IgdError, InputError, did_you_mean, first_line

Found = TypeVar("Found")
Rows: TypeAlias = "pa.Table | Sequence[Mapping[str, object]]"

_KEY = re.compile(KEY)

# The zero-row file that lets a pattern over a table without results succeed.
EMPTY = "_empty"

# In the names of copies that Syncthing makes, which are keys otherwise.
CONFLICT = ".sync-conflict-"

# Where damaged files go, out of the way of every query.
QUARANTINE = "quarantine"


class UnreadableError(InputError):
    """A result that is not committed, or whose file is damaged."""


class TableFiles:
    """Files ``<table>/<name>.parquet`` of one place.

    Args:
        place: where they are.
        title: what messages call it.
    """

    def __init__(self, place: Place, title: str) -> None:
        self.place = place
        self._title = title
        self._damaged: dict[str, str] = {}
        self._said: set[str] = set()

    def names(self, table: str) -> list[str]:
        """Return the names of the Parquet files of `table`, damaged or not, that igd-ray may have written.

        One of another name, as of the copy that a synchronising tool makes, is said on stderr once.
        """
        ours = []
        for name in self.place.names(known(table)):
            if not name.endswith(".parquet") or name.startswith("."):
                continue
            if is_key(name.removesuffix(".parquet")) and CONFLICT not in name:
                ours.append(name)
            else:
                self.say(f"{self._title}/{table}/{name} is not a result of igd-ray: not read")
        return ours

    def keys(self, table: str) -> set[str]:
        """Return the keys of the results of `table` that have a file each of their own, whether it counts or not."""
        return {name.removesuffix(".parquet") for name in self.names(table) if not name.startswith(MERGED)} - {EMPTY}

    def load(self, table: str, file: str, take: Callable[[pq.ParquetFile], Found]) -> Found:
        """Return what `take` finds in a file of `table`, every byte verified.

        Raises:
            FileNotFoundError: if there is none.
            UnreadableError: if it is damaged.
            IgdError: if it cannot be read, though it may be later.
        """

        def taken(sealed: SealedFile) -> Found:
            with pq.ParquetFile(pa.PythonFile(sealed, "r")) as parquet:
                _require_schema(table, parquet, sealed)
                return take(parquet)

        return self._verified(f"{table}/{file}", taken)

    def content(self, table: str, file: str) -> tuple[bytes, bytes]:
        """Return the data of a file of `table`, and its footer, every byte verified and none decoded.

        Raises:
            FileNotFoundError, UnreadableError, IgdError: as `load` does.
        """
        return self._verified(
            f"{table}/{file}", lambda sealed: (sealed.read_at(0, sealed.footer.data), sealed.footer.tail)
        )

    def _verified(self, name: str, take: Callable[[SealedFile], Found]) -> Found:
        try:
            with self.open(name) as sealed:
                return take(sealed)
        except DamagedError as error:
            raise UnreadableError(f"{self._title}/{name} is damaged: {error}") from error
        except UnavailableError as error:
            raise self.unavailable(name, error) from error
        except (FileNotFoundError, pa.ArrowMemoryError):
            raise
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(f"{self._title}/{name} is damaged: {first_line(error)}") from error

    def open(self, name: str) -> SealedFile:
        """Open a file whose end is verified now, and the rest as it is read.

        Raises:
            FileNotFoundError: if there is none.
            DamagedError: if it is damaged.
            UnavailableError: if it cannot be read, though it may be later.
        """
        try:
            source = self.place.open(name)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise UnavailableError(first_line(error)) from error
        return SealedFile(source, name)

    def unavailable(self, name: str, error: Exception) -> IgdError:
        """Return the one-line error for a file that could not be read."""
        return IgdError(f"cannot read {self._title}/{name}: {first_line(error)}; try again")

    def fault(self, table: str, file: str) -> str | None:
        """Return what is wrong with a file, all of which is read, or None if it is sound.

        Raises:
            FileNotFoundError: if there is none.
            IgdError: if it cannot be read, though it may be later.
        """
        name = f"{table}/{file}"
        try:
            with self.open(name) as opened:
                opened.verify()
                if opened.footer.digests is None:
                    self.load(table, file, lambda parquet: require_own(table, file, parquet))
                elif f"{table}/{SCHEMA_VERSION}".encode() not in opened.footer.tail:
                    return "it has another schema"
        except (DamagedError, UnreadableError) as error:
            return str(error).removeprefix(f"{self._title}/{name} is damaged: ")
        except UnavailableError as error:
            raise self.unavailable(name, error) from error
        return None

    def is_sound(self, table: str, file: str) -> bool:
        """Tell whether a file is there and undamaged; what is damaged is said on stderr once, and left where it is.

        Raises:
            IgdError: if it cannot be read, though it may be later.
        """
        try:
            why = self.fault(table, file)
        except FileNotFoundError:
            return False
        if why is None:
            self._damaged.pop(f"{table}/{file}", None)
            return True
        self.leave_out(table, file, why)
        return False

    def leave_out(self, table: str, file: str, why: str) -> None:
        """Note that a file is damaged: its rows count nowhere."""
        self._damaged[f"{table}/{file}"] = why
        self.say(f"{self._title}/{table}/{file} is damaged, not read: {why}")

    def is_left_out(self, table: str, file: str) -> bool:
        """Tell whether a file was found damaged and still is; others are not looked at."""
        return f"{table}/{file}" in self._damaged and not self.is_sound(table, file)

    def say(self, line: str) -> None:
        """Print a line on stderr, once."""
        if line not in self._said:
            self._said.add(line)
            print(line, file=sys.stderr)

    def set_aside(self, table: str, file: str) -> None:
        """Move a damaged file to the folder `quarantine`; make one without rows anew.

        Raises:
            InputError: if it cannot be moved.
        """
        name = f"{table}/{file}"
        self._damaged.pop(name, None)
        try:
            if file == f"{EMPTY}.parquet":
                self.place.write(name, empty_parquet(table))
            elif table == "compacted":
                # Its number stays taken, or a merge that is at work could write it a second time.
                self.place.make([f"{QUARANTINE}/{table}"])
                self.place.write(f"{QUARANTINE}/{name}", self.place.read(name))
                self.place.write(name, sealed_parquet(name, [], SCHEMAS[table]))
            else:
                self.place.move(name, f"{QUARANTINE}/{name}")
        except FileNotFoundError:
            return  # another process has set it aside
        except (OSError, IgdError) as error:
            raise InputError(
                f"{self._title}/{name} is damaged; move it away or delete it and run the same command again, which "
                "computes it anew"
            ) from error
        self.say(f"{self._title}/{name} was damaged: now in {QUARANTINE}")


def empty_parquet(table: str) -> bytes:
    """Return the file of a table without rows."""
    return sealed_parquet(f"{table}/{EMPTY}.parquet", [], SCHEMAS[table])


def _require_schema(table: str, parquet: pq.ParquetFile, sealed: SealedFile) -> None:
    version = SCHEMA_VERSION if sealed.footer.digests is not None else UNSEALED_VERSION
    expected = SCHEMAS[table].with_metadata({"igd_schema": f"{table}/{version}"})
    if not parquet.schema_arrow.equals(expected, check_metadata=True):
        raise DamagedError("it has another schema")


def require_own(table: str, file: str, parquet: pq.ParquetFile) -> None:
    """Verify that a file without a seal, which may be another result's under this name, holds rows of its own.

    Raises:
        DamagedError: if it does not.
    """
    key = KEY_COLUMNS.get(table)
    sealed = b"igd_seal" in (parquet.metadata.metadata or {})
    if sealed or not key or file.startswith(MERGED) or file == f"{EMPTY}.parquet":
        return
    if set(parquet.read([key])[key].to_pylist()) - {file.removesuffix(".parquet")}:
        raise DamagedError("it holds a result of another name")


def is_key(text: str) -> bool:
    """Tell whether `text` can be a result's key."""
    return _KEY.fullmatch(text) is not None


def file_of(table: str, key: str) -> str:
    """Return the name of the file of the result `key`.

    Raises:
        InputError: for an unknown table or a bad key.
    """
    known(table)
    if not is_key(key) or key == EMPTY or key.startswith(MERGED):
        raise InputError(f"a key is 1 to 200 letters, digits, '.', '_' or '-' and starts with no dot, not {key!r}")
    return f"{key}.parquet"


def known(table: str) -> str:
    """Return `table`.

    Raises:
        InputError: if there is none of this name.
    """
    if table not in SCHEMAS:
        raise InputError(f"no table {table!r}; there are {', '.join(SCHEMAS)}{did_you_mean(table, SCHEMAS)}")
    return table


def conform(table: str, rows: Rows, key: str | None = None) -> pa.Table:
    """Return `rows` with exactly the columns, order and types of `table`'s schema.

    Raises:
        InputError: if columns are missing or unknown, a value does not fit its column's type, a required one is NULL,
            or a row is of another result than `key`, where the table says of which a row is.
    """
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
    if key is not None and table in KEY_COLUMNS:
        others = set(conformed[KEY_COLUMNS[table]].unique().to_pylist()) - {key}
        if others:
            raise InputError(f"rows do not fit the result {key!r} of {table}: {KEY_COLUMNS[table]} is {min(others)!r}")
    return conformed


def same_rows(first: pa.Table, second: pa.Table) -> bool:
    """Tell whether two tables of one schema hold the same values in the same order; NaN equals NaN."""
    # As text NaN equals itself.
    return first.equals(second) or repr(first.to_pylist()) == repr(second.to_pylist())


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
