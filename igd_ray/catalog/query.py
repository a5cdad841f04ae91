"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from igd_ray.catalog.duckdb_files import PROTOCOL, CatalogFiles
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import definitions, named_in
from igd_ray.catalog.store import Catalog
from igd_ray.errors import IgdError, InputError

Answer = TypeVar("Answer")

# How often a question is asked anew, each time because other files are found to be damaged or gone.
TRIES = 40

# What says of each image of a run what became of it; each after what it needs.
_KEPT = ("numbered_verdicts", "worst_case_images", "audit_images")

# What lists the views there are, instead of naming one.
_LISTING = re.compile(r"^\s*desc\b|\b(show|describe|duckdb_\w+|information_schema|pg_\w+|sqlite_\w+)\b", re.IGNORECASE)

# What may stand before an explained statement: words, and no comments, so that nothing but DuckDB's parser reads those.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+|\([\w\s,]*\)\s*)?", re.IGNORECASE | re.ASCII)

# A SELECT of DuckDB 2 can also write: WITH x AS (COPY …) SELECT 1. These are the nodes of those that only read.
_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_NODES = """
SELECT DISTINCT value ->> '$' FROM (SELECT json_serialize_sql($1::VARCHAR) AS parsed), json_tree(parsed)
WHERE key = 'type' AND ends_with(value ->> '$', '_NODE')"""


class Reader:
    """A connection to a catalog that makes the views when a question names them.

    What several views ask again and again, such as which cells of a run are whole, it makes a table of, once.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: CatalogFiles):
        """Read `files` through `connection`, DuckDB in memory."""
        self.connection = connection
        self._files = files
        self._pending = {definition.name: definition for definition in definitions()}
        # The tables that no view reads yet.
        self._unread = {f"stored_{table}": table for table in SCHEMAS}

    def table(self, sql: str, *parameters: object) -> pa.Table:
        """Return the answer to a SELECT or EXPLAIN; what stands behind `$1`, `$2` comes after it."""
        self._make(named_in(sql, {*self._pending, *self._unread}))
        if _LISTING.search(sql):
            self.make_all()
        try:
            return self._answer(sql, parameters)
        except duckdb.CatalogException:
            # It may mean a view by another way than by its name.
            if not self._pending:
                raise
            self.make_all()
            return self._answer(sql, parameters)

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Return the answer to a SELECT, a dictionary for each row."""
        return rows_of(self.table(sql, *parameters))

    def keep(self, run_id: str) -> None:
        """Make tables of what all attacks of a run say of each image.

        From then on the views that build on these know of no other run. They must not have been asked for before.
        """
        for name in _KEPT:
            self.keep_one(name, run_id)

    def keep_one(self, name: str, run_id: str) -> None:
        """Make a table of what the view `name` says of a run, in its place; it must not have been asked for before."""
        run = run_id.replace("'", "''")
        self._make([name])
        self.connection.execute(f"CREATE TEMP TABLE {name} AS FROM main.{name} WHERE run_id = '{run}'")

    def _answer(self, sql: str, parameters: Sequence[object]) -> pa.Table:
        return self.connection.sql(sql, params=list(parameters)).to_arrow_table()

    def make_all(self) -> None:
        """Make all that is left of the views."""
        self._make([*self._unread, *self._pending])

    def _make(self, names: Collection[str]) -> None:
        asked = Counter(names)
        for name, definition in reversed(self._pending.items()):
            if name in asked:
                asked.update(definition.needs)
        for name in [name for name in self._unread if name in asked]:
            self.connection.execute(f"CREATE VIEW {name} AS {self._files.relation(self._unread[name])}")
            del self._unread[name]
        for definition in [each for name, each in self._pending.items() if name in asked]:
            as_table = definition.once or (definition.once_for_several and asked[definition.name] > 1)
            self.connection.execute(definition.statement(as_table=as_table))
            del self._pending[definition.name]


def connect(catalog: Catalog) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with every view over `catalog`, shut off from all other files.

    Raises:
        InputError: if `catalog` is not there, or is of another schema version.
        IgdError: if what was merged cannot be read.
        duckdb.Error: if a file cannot be read, is damaged, or was merged and deleted in between.
    """
    reader = open_reader(catalog, CatalogFiles(catalog))
    try:
        reader.make_all()
    except duckdb.Error:
        reader.connection.close()
        raise
    return reader.connection


def open_reader(catalog: Catalog, files: CatalogFiles) -> Reader:
    """Return a reader of `catalog`, shut off from all other files; whoever opens it closes its connection.

    Args:
        catalog: whose.
        files: through which the connection reads, and which knows what went wrong.

    Raises:
        InputError: if `catalog` is not there, or is of another schema version.
    """
    catalog.check()
    # An empty temporary folder: DuckDB would allow reading and writing there.
    connection = duckdb.connect(":memory:", config={"temp_directory": "", "python_enable_replacements": False})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register_filesystem(files)
        for setting in (
            f"allowed_directories = ['{PROTOCOL}://']",
            "parquet_metadata_cache = true",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
    except duckdb.Error:
        connection.close()
        raise
    return Reader(connection, files)


def ask(catalog: Catalog, question: Callable[[Reader], Answer]) -> Answer:
    """Return what `question` finds over `catalog`; damaged files are said on stderr and left out.

    It is asked again where a file was found damaged, or was merged and deleted in between.

    Raises:
        InputError: if there is no catalog of this schema version, or for what DuckDB refuses.
        IgdError: if a file cannot be read, which may pass.
    """
    for _ in range(TRIES):
        files = CatalogFiles(catalog)
        reader = open_reader(catalog, files)
        try:
            return question(reader)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if not files.can_do_better():
                raise _told(error) from error
        finally:
            reader.connection.close()
    raise IgdError(f"files of {catalog} went away {TRIES} times while they were read; ask again")


def run_query(catalog: Catalog, sql: str) -> pa.Table:
    """Return the answer of `catalog` to one SELECT or EXPLAIN statement.

    Raises:
        InputError: for any other statement or several, and for what DuckDB refuses.
    """

    def question(reader: Reader) -> pa.Table:
        _require_reading(reader.connection, sql)
        return reader.table(sql)

    return ask(catalog, question)


def _require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all but one SELECT or EXPLAIN of a SELECT that only reads, as DuckDB's own parser sees it."""
    kinds = [statement.type for statement in connection.extract_statements(sql)]
    came = " and ".join(kind.name for kind in kinds) or "none"
    if kinds == [duckdb.StatementType.EXPLAIN]:
        # EXPLAIN ANALYZE runs what it explains, and DuckDB does not tell the kind of that.
        prefix = _EXPLAIN.match(sql)
        sql = sql[prefix.end() :] if prefix else ""
        kinds = [statement.type for statement in connection.extract_statements(sql)]
        came = "EXPLAIN of anything else, or after a comment"
    if kinds == [duckdb.StatementType.SELECT]:
        nodes = {node for (node,) in connection.execute(_NODES, [sql]).fetchall()}
        if nodes and nodes <= _READING:
            return
        came = f"SELECT with {', '.join(sorted(nodes - _READING)) or 'what cannot be checked'}"
    raise InputError(f"the SQL must be one SELECT or EXPLAIN SELECT statement, not {came}")


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of `table`, a dictionary for each."""
    columns = [_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python has them; for moments pyarrow itself would import pandas."""
    if not pa.types.is_timestamp(column.type):
        values: list[Any] = column.to_pylist()
        return values
    start = datetime(1970, 1, 1, tzinfo=None if column.type.tz is None else UTC)
    moments = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_pylist()
    return [None if moment is None else start + timedelta(microseconds=moment) for moment in moments]


def _told(error: Exception) -> IgdError:
    """Return `error` with DuckDB's hint, which is on its next lines, but without the excerpt of the statement."""
    message = " ".join(str(error).split("\nLINE ")[0].split())
    if isinstance(error, OSError | duckdb.IOException):
        return IgdError(f"cannot read the catalog: {message}; try again")
    return InputError(f"SQL: {message}")
