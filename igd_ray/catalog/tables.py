"""The Parquet files of a catalog's tables: which are there, what is in them, and which of them are damaged."""

import re
import sys
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.places import Place
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS, UNSEALED_VERSION
from igd_ray.catalog.sealed import DamagedError, SealedFile, UnavailableError, sealed_parquet
from igd_ray.catalog.sources import KEY, KEY_COLUMNS, MERGED
from igd_ray.errors import IgdError, InputError, did_you_mean, first_line

Found = TypeVar("Found")

_KEY = re.compile(KEY)

# The zero-row file that lets a pattern over a table without results succeed.
EMPTY = "_empty"

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
            if is_key(name.removesuffix(".parquet")):
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
            IgdError: if it cannot be read, which may pass.
        """
        name = f"{table}/{file}"
        try:
            with self.open(name) as sealed, pq.ParquetFile(pa.PythonFile(sealed, "r")) as parquet:
                _require_schema(table, parquet, sealed)
                return take(parquet)
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
            UnavailableError: if it cannot be read, which may pass.
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
            IgdError: if it cannot be read, which may pass.
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
            IgdError: if it cannot be read, which may pass.
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
