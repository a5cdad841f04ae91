"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

import re

import duckdb
import pyarrow as pa

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import as_pattern, view_statements
from igd_ray.catalog.store import Catalog, open_file
from igd_ray.errors import InputError

# EXPLAIN runs what it explains when asked to ANALYZE, so what follows this prefix is checked by itself.
_EXPLAIN = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b(?:\s*ANALY[ZS]E\b|\s*\([^()]*\))?", re.IGNORECASE | re.DOTALL
)


def connect(catalog: Catalog) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with every view over `catalog`, shut off from all other files.

    Raises:
        InputError: if `catalog` is not there, is of another schema version, or holds a half-written file.
    """
    catalog.check()
    root = str(catalog.root.resolve())
    # An empty temporary folder: DuckDB would allow reading and writing there.
    connection = duckdb.connect(":memory:", config={"temp_directory": "", "python_enable_replacements": False})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(view_statements(root))
        # DuckDB compares the pattern of a path, not only what it matches, to the allowed folders.
        folders = ", ".join(f"'{_quoted(folder)}'" for folder in sorted({root, as_pattern(root)}))
        for setting in (
            f"allowed_directories = [{folders}]",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
    except duckdb.Error as error:
        connection.close()
        raise as_input_error(catalog, error) from error
    return connection


def run_query(catalog: Catalog, sql: str) -> pa.Table:
    """Return the answer of `catalog` to one SELECT or EXPLAIN statement.

    Raises:
        InputError: for any other statement or several, for what DuckDB refuses, and for a half-written file.
    """
    with connect(catalog) as connection:
        try:
            _require_reading(connection, sql)
            return connection.sql(sql).to_arrow_table()
        except (duckdb.ParserException, duckdb.CatalogException, duckdb.BinderException) as error:
            raise _one_line(error) from error
        except duckdb.Error as error:
            raise as_input_error(catalog, error) from error


def as_input_error(catalog: Catalog, error: duckdb.Error) -> InputError:
    """Return what to tell of `error`: the unusable file of `catalog` behind it, or else itself in one line."""
    return _unusable_file(catalog) or _one_line(error)


def _require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all but one SELECT or EXPLAIN of a SELECT, as DuckDB's own parser sees it."""
    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        explained = _EXPLAIN.sub("", sql, count=1)
        kinds = [statement.type for statement in connection.extract_statements(explained)]
    if kinds != [duckdb.StatementType.SELECT]:
        came = " and ".join(kind.name for kind in kinds) or "none"
        raise InputError(f"the SQL must be one SELECT or EXPLAIN SELECT statement, not {came}")


def _unusable_file(catalog: Catalog) -> InputError | None:
    """Return the error that names the first half-written or foreign file of `catalog`, if there is one."""
    for table in SCHEMAS:
        for path in sorted((catalog.root / table).glob("*.parquet")):
            try:
                open_file(path, table).close()
            except InputError as unusable:
                return unusable
    return None


def _one_line(error: duckdb.Error) -> InputError:
    """Return `error` with DuckDB's hint, which is on its next lines, but without the excerpt of the statement."""
    message = str(error).split("\nLINE ")[0]
    return InputError(f"SQL: {' '.join(message.split())}")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
