"""The catalog's files as DuckDB reads them: verified, from a folder or an object store alike."""

import io
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from igd_ray.catalog.merged import INDEX, Announced
from igd_ray.catalog.schemas import COLUMNS
from igd_ray.catalog.sealed import BytesSource, DamagedError, SealedFile, UnavailableError
from igd_ray.catalog.sources import KEY_COLUMNS, MERGED
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import UnreadableError
from igd_ray.errors import first_line

PROTOCOL = "igd"

# Files up to this size are read once for all questions of a connection, as long as all of them take no more than that.
SMALL_BYTES, MOST_BYTES = 2**18, 2**26

# Larger files that stay open.
OPEN_FILES = 64


class CatalogFiles(AbstractFileSystem):  # type: ignore[misc]
    """Serves a catalog's files under ``igd://<table>/<file>``, to be read only.

    DuckDB turns what goes wrong here into an error of its own; `problem` has the cause, and `name` whose.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog
        self._small: OrderedDict[str, SealedFile] = OrderedDict()
        self._small_bytes = 0
        self._large: OrderedDict[str, SealedFile] = OrderedDict()
        self.problem: Exception | None = None
        self.name = ""

    def relation(self, table: str, keys: Collection[str] | None = None) -> str:
        """Return the SELECT of the rows of `table` that count, from exactly the files that hold them now.

        Given `keys`, files that hold none of these results are left out; others of theirs stay.
        """
        files = self._catalog.files(table)
        if keys is not None:
            merged = self._catalog.merged.known(table)
            holding = {merged[key].file if key in merged else f"{key}.parquet" for key in keys}
            files = {file: others for file, others in files.items() if file in holding}
        if not files:
            columns = ", ".join(f'NULL::{column.kind} AS "{column.name}"' for column in COLUMNS[table])
            return f"SELECT {columns} WHERE false"
        doubles = [(file, key) for file, keys in files.items() for key in sorted(keys)]
        if not doubles or table not in KEY_COLUMNS:
            return self.select(table, list(files))
        pairs = ", ".join(f"('{file}', '{key}')" for file, key in doubles)
        return (
            f"SELECT * EXCLUDE (filename) FROM read_parquet([{_names(table, list(files))}], filename = true) "
            f"WHERE (parse_filename(filename), {KEY_COLUMNS[table]}) NOT IN (VALUES {pairs})"
        )

    def select(self, table: str, files: Sequence[str]) -> str:
        """Return the SELECT of all rows of files of `table`, in the order of the files."""
        return f"SELECT * FROM read_parquet([{_names(table, files)}])"

    def open(self, path: str, mode: str = "rb", **_options: Any) -> io.RawIOBase:
        """Open a file, every byte of which is verified before DuckDB has it."""
        name = self._strip_protocol(path)
        try:
            if mode != "rb":
                raise PermissionError(f"{name} is opened for reading only")
            return _Handle(self._opened(name), self, name)
        except Exception as error:
            self.note(name, error)
            raise

    def _opened(self, name: str) -> SealedFile:
        if name in self._small:
            return self._small[name]
        if name in self._large:
            self._large.move_to_end(name)
            return self._large[name]
        table, _, file = name.partition("/")
        opened = self._catalog.tables.open(name)
        if opened.footer.digests is None and not file.startswith(MERGED) and table in KEY_COLUMNS:
            # A file without a seal may be another result's under this name.
            self._require_own(table, file)
        if opened.size <= SMALL_BYTES:
            content = opened.read_at(0, opened.size)
            opened.close()
            self._small[name] = SealedFile(BytesSource(content), name, opened.footer)
            self._small_bytes += opened.size
            while self._small_bytes > MOST_BYTES:
                self._small_bytes -= self._small.popitem(last=False)[1].size
            return self._small[name]
        self._large[name] = opened
        if len(self._large) > OPEN_FILES:
            self._large.popitem(last=False)
        return opened

    def _require_own(self, table: str, file: str) -> None:
        if (why := self._catalog.tables.fault(table, file)) is not None:
            raise DamagedError(why)

    def note(self, name: str, error: Exception) -> None:
        """Remember the first thing that went wrong."""
        if self.problem is None:
            self.problem, self.name = error, name

    def announced(self, connection: duckdb.DuckDBPyConnection, file: str) -> list[Announced]:
        """Return the rows of an entry of the merge log, read by `connection`.

        Raises:
            FileNotFoundError: if there is none.
            UnreadableError: if it is damaged.
            IgdError: if it cannot be read, which may pass.
        """
        columns = ", ".join(Announced._fields)
        try:
            found = connection.execute(f"SELECT {columns} FROM read_parquet([{_names(INDEX, [file])}])").fetchall()
        except duckdb.Error as error:
            problem, self.problem = self.problem, None
            if isinstance(problem, FileNotFoundError):
                raise problem from error
            if problem is not None and not isinstance(problem, DamagedError):
                raise self._catalog.tables.unavailable(f"{INDEX}/{file}", problem) from error
            why = str(problem) if problem else first_line(error)
            raise UnreadableError(f"{self._catalog}/{INDEX}/{file} is damaged: {why}") from error
        return [Announced(*row) for row in found]

    def can_do_better(self) -> bool:
        """Tell whether asking anew can go better: damaged files are left out now, and files that are gone were merged.

        Raises:
            IgdError: if a file could not be read, though it may be later.
        """
        if self.problem is None:
            return False
        if isinstance(self.problem, FileNotFoundError):
            self._catalog.merged.forget()
            return True
        if not isinstance(self.problem, DamagedError):
            raise self._catalog.tables.unavailable(self.name, self.problem) from self.problem
        table, _, damaged = self.name.partition("/")
        self._catalog.tables.leave_out(table, damaged, str(self.problem))
        for file in self._catalog.files(table):
            self._catalog.tables.is_sound(table, file)
        return True

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Return the name and size of a file."""
        name = self._strip_protocol(path)
        with self.open(path) as file:
            return {"name": name, "size": file.size, "type": "file"}  # type: ignore[attr-defined]

    def glob(self, path: str, **_options: Any) -> list[str]:
        """Return `path`: DuckDB is given names, not patterns."""
        return [self._strip_protocol(path)]

    def exists(self, path: str, **_options: Any) -> bool:
        """Tell that a file is there: DuckDB is given only such."""
        return True

    def isfile(self, path: str) -> bool:
        """Tell that a path is that of a file."""
        return True

    def modified(self, path: str) -> Any:
        """Return the same time for every file: while a connection is open, none of them changes."""
        from datetime import UTC, datetime

        return datetime(2000, 1, 1, tzinfo=UTC)


def _names(table: str, files: Sequence[str]) -> str:
    return ", ".join(f"'{PROTOCOL}://{table}/{file}'" for file in files)


class _Handle(io.RawIOBase):
    """One position in a file that several readers share."""

    def __init__(self, file: SealedFile, files: CatalogFiles, name: str) -> None:
        self._file, self._files, self._name = file, files, name
        self._position = 0
        self.size = file.size

    def read(self, length: int = -1) -> bytes:
        """Return the next `length` bytes, or all that follow."""
        try:
            found = self._file.read_at(self._position, self.size - self._position if length < 0 else length)
        except (DamagedError, UnavailableError, OSError) as error:
            self._files.note(self._name, error)
            raise
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position and return it."""
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True
