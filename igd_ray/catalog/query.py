"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

import re
from collections.abc import Callable
from typing import TypeVar

import duckdb
import pyarrow as pa

from igd_ray.catalog.duckdb_files import PROTOCOL, CatalogFiles
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import view_statements
from igd_ray.catalog.store import Catalog
from igd_ray.errors import IgdError, InputError

Answer = TypeVar("Answer")

# How often a question is asked anew, each time because other files are found to be damaged or gone.
TRIES = 40

# What may stand before an explained statement: words, and no comments, so that nothing but DuckDB's parser reads those.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+|\([\w\s,]*\)\s*)?", re.IGNORECASE | re.ASCII)

# A SELECT of DuckDB 2 can also write: WITH x AS (COPY …) SELECT 1. These are the nodes of those that only read.
_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_NODES = """
SELECT DISTINCT value ->> '$' FROM (SELECT json_serialize_sql($1::VARCHAR) AS parsed), json_tree(parsed)
WHERE key = 'type' AND ends_with(value ->> '$', '_NODE')"""


def connect(catalog: Catalog, files: CatalogFiles | None = None) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with every view over `catalog`, shut off from all other files.

    Args:
        catalog: whose.
        files: through which the connection reads, and which knows what went wrong.

    Raises:
        InputError: if `catalog` is not there, or is of another schema version.
        IgdError: if what was merged cannot be read.
        duckdb.Error: if a file cannot be read, is damaged, or was merged and deleted in between.
    """
    catalog.check()
    files = files or CatalogFiles(catalog)
    # An empty temporary folder: DuckDB would allow reading and writing there.
    connection = duckdb.connect(":memory:", config={"temp_directory": "", "python_enable_replacements": False})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register_filesystem(files)
        for table in SCHEMAS:
            connection.execute(f"CREATE VIEW remote_{table} AS {files.relation(table)}")
        connection.execute(view_statements(catalog.address, SCHEMAS))
        for setting in (
            f"allowed_directories = ['{PROTOCOL}://']",
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


def ask(catalog: Catalog, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
    """Return what `question` finds over `catalog`; damaged files are said on stderr and left out.

    It is asked again where a file was found damaged, or was merged and deleted in between.

    Raises:
        InputError: if there is no catalog of this schema version, or for what DuckDB refuses.
        IgdError: if a file cannot be read, which may pass.
    """
    for _ in range(TRIES):
        files = CatalogFiles(catalog)
        try:
            with connect(catalog, files) as connection:
                return question(connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if not files.can_do_better():
                raise _told(error) from error
    raise IgdError(f"files of {catalog} went away {TRIES} times while they were read; ask again")


def run_query(catalog: Catalog, sql: str) -> pa.Table:
    """Return the answer of `catalog` to one SELECT or EXPLAIN statement.

    Raises:
        InputError: for any other statement or several, and for what DuckDB refuses.
    """

    def question(connection: duckdb.DuckDBPyConnection) -> pa.Table:
        _require_reading(connection, sql)
        return connection.sql(sql).to_arrow_table()

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


def _told(error: Exception) -> IgdError:
    """Return `error` with DuckDB's hint, which is on its next lines, but without the excerpt of the statement."""
    message = " ".join(str(error).split("\nLINE ")[0].split())
    if isinstance(error, OSError | duckdb.IOException):
        return IgdError(f"cannot read the catalog: {message}; try again")
    return InputError(f"SQL: {message}")
