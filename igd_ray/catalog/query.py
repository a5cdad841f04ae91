"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

import re
from collections.abc import Callable
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset

from igd_ray.catalog.places import Bucket
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import as_pattern, view_statements
from igd_ray.catalog.store import Catalog
from igd_ray.errors import InputError

Answer = TypeVar("Answer")

# What may stand before an explained statement: words, and no comments, so that nothing but DuckDB's parser reads those.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+|\([\w\s,]*\)\s*)?", re.IGNORECASE | re.ASCII)

# A SELECT of DuckDB 2 can also write: WITH x AS (COPY …) SELECT 1. These are the nodes of those that only read.
_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_NODES = """
SELECT DISTINCT value ->> '$' FROM (SELECT json_serialize_sql($1::VARCHAR) AS parsed), json_tree(parsed)
WHERE key = 'type' AND ends_with(value ->> '$', '_NODE')"""


def connect(catalog: Catalog) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with every view over `catalog`, shut off from all other files.

    Raises:
        InputError: if `catalog` is not there, or is of another schema version.
        IgdError: if what was merged cannot be read.
        duckdb.Error: if a file is half-written.
    """
    catalog.check()
    catalog.merged()  # sets aside what announces a merged file that is gone, before SQL goes by it
    # An empty temporary folder: DuckDB would allow reading and writing there.
    connection = duckdb.connect(":memory:", config={"temp_directory": "", "python_enable_replacements": False})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        root, place = catalog.address, catalog.place
        remote: dict[str, pa.Table | pyarrow.dataset.Dataset] = {
            table: SCHEMAS[table].empty_table() for table in SCHEMAS if not _is_there(catalog, table)
        }
        folders = []
        if isinstance(place, Bucket):
            # DuckDB has no way to an object store of its own here: pyarrow reads.
            remote |= {table: _dataset(catalog, place, table) for table in SCHEMAS if table not in remote}
        else:
            # DuckDB compares the pattern of a path, not only what it matches, to the allowed folders.
            folders = [f"'{_quoted(folder)}'" for folder in sorted({root, as_pattern(root)})]
        for table, rows in remote.items():
            connection.register(f"remote_{table}", rows)
        connection.execute(view_statements(root, remote))
        for setting in (
            f"allowed_directories = [{', '.join(folders)}]",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
    except duckdb.Error:
        connection.close()
        raise
    return connection


def _is_there(catalog: Catalog, table: str) -> bool:
    """Tell whether `catalog` has a file of `table`: one that was made before there was such a table has none."""
    return bool(catalog.names(table))


def _dataset(catalog: Catalog, place: Bucket, table: str) -> pyarrow.dataset.Dataset:
    form = pyarrow.dataset.ParquetFileFormat()
    files = [
        form.make_fragment(f"{place.base}/{table}/{name}", place.filesystem, row_groups=groups)
        for name, groups in catalog.files(table).items()
    ]
    return pyarrow.dataset.FileSystemDataset(files, SCHEMAS[table], form, place.filesystem)


def ask(catalog: Catalog, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
    """Return what `question` finds over `catalog`; half-written and foreign files are set aside, not fatal.

    Raises:
        InputError: if there is no catalog of this schema version, or for what DuckDB refuses.
        IgdError: if a file cannot be read, which may pass.
    """
    for again in (True, False):
        connected = False
        try:
            with connect(catalog) as connection:
                connected = True
                return question(connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if _is_about_the_statement(error, connected) or not again or not catalog.quarantine():
                raise _one_line(error) from error
    raise AssertionError("unreachable")


def run_query(catalog: Catalog, sql: str) -> pa.Table:
    """Return the answer of `catalog` to one SELECT or EXPLAIN statement.

    Raises:
        InputError: for any other statement or several, and for what DuckDB refuses.
    """

    def question(connection: duckdb.DuckDBPyConnection) -> pa.Table:
        _require_reading(connection, sql)
        return connection.sql(sql).to_arrow_table()

    return ask(catalog, question)


def _is_about_the_statement(error: Exception, connected: bool) -> bool:
    # An unknown column may be one that a foreign file has not, but only until the views are made.
    return isinstance(error, duckdb.ParserException | duckdb.CatalogException | duckdb.PermissionException) or (
        connected and isinstance(error, duckdb.BinderException)
    )


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


def _one_line(error: Exception) -> InputError:
    """Return `error` with DuckDB's hint, which is on its next lines, but without the excerpt of the statement."""
    message = str(error).split("\nLINE ")[0]
    return InputError(f"SQL: {' '.join(message.split())}")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
