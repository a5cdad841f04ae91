"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

import re
import sys
from collections.abc import Callable
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset

from igd_ray.catalog.places import Bucket
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import as_pattern, view_statements
from igd_ray.catalog.store import QUARANTINE, Catalog
from igd_ray.errors import InputError

Answer = TypeVar("Answer")

# EXPLAIN runs what it explains when asked to ANALYZE, so what follows this prefix is checked by itself.
_EXPLAIN = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b(?:\s*ANALY[ZS]E\b|\s*\([^()]*\))?", re.IGNORECASE | re.DOTALL
)


def connect(catalog: Catalog) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with every view over `catalog`, shut off from all other files.

    Raises:
        InputError: if `catalog` is not there, or is of another schema version.
        duckdb.Error: if a file is half-written.
    """
    catalog.check()
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
    return any(name.endswith(".parquet") for name in catalog.place.names(table))


def _dataset(catalog: Catalog, place: Bucket, table: str) -> pyarrow.dataset.Dataset:
    files = [f"{place.base}/{table}/{name}" for name in catalog.files(table)]
    return pyarrow.dataset.dataset(files, schema=SCHEMAS[table], filesystem=place.filesystem, format="parquet")


def ask(catalog: Catalog, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
    """Return what `question` finds over `catalog`; half-written and foreign files are set aside, not fatal.

    Raises:
        InputError: if there is no catalog of this schema version, or for what DuckDB refuses.
    """
    for again in (True, False):
        try:
            with connect(catalog) as connection:
                return question(connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            moved = [] if _is_about_the_statement(error) or not again else catalog.quarantine()
            if not moved:
                raise _one_line(error) from error
            for name in moved:
                print(f"{catalog}/{name} was half-written or not from igd-ray: now in {QUARANTINE}", file=sys.stderr)
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


def _is_about_the_statement(error: Exception) -> bool:
    return isinstance(error, duckdb.ParserException | duckdb.CatalogException | duckdb.PermissionException)


def _require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all but one SELECT or EXPLAIN of a SELECT, as DuckDB's own parser sees it."""
    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        explained = _EXPLAIN.sub("", sql, count=1)
        kinds = [statement.type for statement in connection.extract_statements(explained)]
    if kinds != [duckdb.StatementType.SELECT]:
        came = " and ".join(kind.name for kind in kinds) or "none"
        raise InputError(f"the SQL must be one SELECT or EXPLAIN SELECT statement, not {came}")


def _one_line(error: Exception) -> InputError:
    """Return `error` with DuckDB's hint, which is on its next lines, but without the excerpt of the statement."""
    message = str(error).split("\nLINE ")[0]
    return InputError(f"SQL: {' '.join(message.split())}")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
