"""Questions to the catalog in SQL, without a way to change anything or to look elsewhere."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC
from functools import partial
from typing import Any, TypeVar

import duckdb

from igd_ray.arrow import Answer, answer_of, moment_of, pa
from igd_ray.catalog.duckdb_files import PROTOCOL, CatalogFiles
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import definitions, named_in
from igd_ray.catalog.store import Catalog
from igd_ray.errors import IgdError, InputError

Found = TypeVar("Found")

# How often a question is asked anew, each time because other files are found to be damaged or gone.
TRIES = 40

# What says of each image of a run what became of it; each after what it needs.
_KEPT = ("numbered_verdicts", "worst_case_images", "audit_images")

# Views of which a run's rows follow from what it planned, whatever other runs did.
_OF_RUNS = {
    *("accuracy", "attacked", "audit", "audit_attacks", "audit_images", "cells", "nine_accuracies", "noise_failures"),
    *("outcomes", "pace", "progress", "run_units", "unit_states", "verdicts", "worst_case", "worst_case_images"),
}

# What says which cells are whole.
_CELLS = "reported_parts"

# What lists the views there are, instead of naming one.
_LISTING = re.compile(r"^\s*desc\b|\b(show|describe|duckdb_\w+|information_schema|pg_\w+|sqlite_\w+)\b", re.IGNORECASE)

# What may stand before an explained statement: words, and no comments, so that nothing but DuckDB's parser reads those.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+|\([\w\s,]*\)\s*)?", re.IGNORECASE | re.ASCII)

# A SELECT of DuckDB 2 can also write: WITH x AS (COPY …) SELECT 1. These are the nodes of those that only read.
_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_NODES = """
SELECT DISTINCT value ->> '$' FROM (SELECT json_serialize_sql($1::VARCHAR) AS parsed), json_tree(parsed)
WHERE key = 'type' AND ends_with(value ->> '$', '_NODE')"""


# Types of columns, or of lists, whose values DuckDB gives as Arrow does; and that of moments, which it does not.
_PLAIN = {"VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UBIGINT", "FLOAT", "DOUBLE", "BLOB"}
_MOMENT = "TIMESTAMP WITH TIME ZONE"

# More microseconds than Python's moments have: DuckDB itself says NULL of a moment that is infinite.
_INFINITE = 2**62


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
        self._run_id: str | None = None

    def table(self, sql: str, *parameters: object) -> pa.Table:
        """Return the answer to a SELECT or EXPLAIN; what stands behind `$1`, `$2` comes after it."""
        return self._ask(sql, parameters).to_arrow_table()

    def answer(self, sql: str, *parameters: object, most: int | None = None) -> Answer:
        """Return the same as values of Python, for which nobody waits for Arrow where DuckDB itself has them.

        Of the rows only the first `most`, if that is given.
        """
        relation = self._ask(sql, parameters)
        if most is not None:
            relation = relation.limit(most)
        try:
            return self._plain_answer(relation)
        except (OverflowError, duckdb.ConversionException):  # a moment that Python has no value for
            return answer_of(relation.to_arrow_table())

    def _plain_answer(self, relation: duckdb.DuckDBPyRelation) -> Answer:
        kinds = [str(kind) for kind in relation.types]
        if not all(kind.partition("[")[0] in _PLAIN or kind == _MOMENT for kind in kinds):
            return answer_of(relation.to_arrow_table())
        moments = [number for number, kind in enumerate(kinds) if kind == _MOMENT]
        names = list(relation.columns)
        if moments:
            # DuckDB itself would ask for pytz.
            columns = (
                f"coalesce(epoch_us(#{column}), CASE WHEN isinf(#{column}) THEN {_INFINITE} END)"
                if column - 1 in moments
                else f"#{column}"
                for column in range(1, len(kinds) + 1)
            )
            relation = relation.project(", ".join(columns))
        rows = relation.fetchall()
        if moments:
            rows = [
                tuple(moment_of(value, UTC) if number in moments else value for number, value in enumerate(row))
                for row in rows
            ]
        return Answer(names, rows)

    def _ask(self, sql: str, parameters: Sequence[object]) -> duckdb.DuckDBPyRelation:
        self._make(named_in(sql, {*self._pending, *self._unread}))
        if _LISTING.search(sql):
            self.make_all()
        try:
            return self.connection.sql(sql, params=list(parameters))
        except duckdb.CatalogException:
            # It may mean a view by another way than by its name.
            if not self._pending:
                raise
            self.make_all()
            return self.connection.sql(sql, params=list(parameters))

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Return the answer to a SELECT, a dictionary for each row."""
        return self.answer(sql, *parameters).dictionaries()

    def only(self, run_id: str) -> None:
        """Have what is planned, and all that follows from it, be of one run; of other runs nothing needs to be read.

        No view that builds on it must have been asked for before.
        """
        self._run_id = run_id

    def keep(self, run_id: str) -> None:
        """Make tables of what all attacks of a run say of each image.

        From then on the views that build on these know of no other run. They must not have been asked for before.
        """
        for name in _KEPT:
            self.keep_one(name, run_id)

    def keep_one(self, name: str, run_id: str) -> None:
        """Make a table of what the view `name` says of a run, in its place; it must not have been asked for before."""
        self._make([name])
        self.connection.execute(f"CREATE TEMP TABLE {name} AS FROM main.{name} WHERE run_id = {_quoted(run_id)}")

    def make_all(self) -> None:
        """Make all that is left of the views."""
        self._make([*self._unread, *self._pending])

    def _stored(self, table: str) -> str:
        if self._run_id is None or table not in ("run_units", "outcomes"):
            return self._files.relation(table)
        if table == "run_units":
            return f"FROM ({self._files.relation(table)}) WHERE run_id = {_quoted(self._run_id)}"
        parts = self.connection.execute("SELECT part_key FROM unit_parts").fetchall()
        return self._files.relation(table, [key for (key,) in parts])

    def _make(self, names: Collection[str]) -> None:
        asked = self._asked(names)
        if self._run_id is not None and "stored_outcomes" in asked and "unit_parts" in self._pending:
            # They say which files hold outcomes of the run.
            self._make_all_of(self._asked(["unit_parts"]))
            asked = self._asked(names)
        if _CELLS in asked and _CELLS in self._pending and any(each.whole for each in self._pending.values()):
            self._make_all_of(self._asked([_CELLS]))
            if not self.connection.execute(f"SELECT 1 FROM {_CELLS} WHERE NOT whole LIMIT 1").fetchall():
                self._pending = {name: each.whole or each for name, each in self._pending.items()}
            asked = self._asked(names)
        self._make_all_of(asked)

    def _asked(self, names: Collection[str]) -> Counter[str]:
        """Count by how many of what is to be made each view is asked that is to be made for `names`."""
        asked = Counter(names)
        for name, definition in reversed(self._pending.items()):
            if name in asked:
                asked.update(definition.needs)
        return asked

    def _make_all_of(self, asked: Counter[str]) -> None:
        for name in [name for name in self._unread if name in asked]:
            relation = self._stored(self._unread[name])
            self.connection.execute(f"CREATE VIEW {name} AS {relation}")
            del self._unread[name]
        for definition in [each for name, each in self._pending.items() if name in asked]:
            as_table = definition.once or (definition.once_for_several and asked[definition.name] > 1)
            self.connection.execute(definition.statement(as_table=as_table))
            del self._pending[definition.name]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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


def ask(catalog: Catalog, question: Callable[[Reader], Found]) -> Found:
    """Return what `question` finds over `catalog`; damaged files are said on stderr and left out.

    It is asked again where a file was found damaged, or was merged and deleted in between.

    Raises:
        InputError: if there is no catalog of this schema version, or for what DuckDB refuses.
        IgdError: if a file cannot be read, though it may be later.
    """
    for _ in range(TRIES):
        files = CatalogFiles(catalog)
        reader = open_reader(catalog, files)
        catalog.merged.read_entry = partial(files.announced, reader.connection)
        try:
            return question(reader)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if not files.can_do_better():
                raise _told(error) from error
        finally:
            catalog.merged.read_by_arrow()
            reader.connection.close()
    raise IgdError(f"files of {catalog} went away {TRIES} times while they were read; ask again")


def run_query(catalog: Catalog, sql: str) -> pa.Table:
    """Return the answer of `catalog` to one SELECT or EXPLAIN statement as an Arrow table.

    Raises:
        InputError: for any other statement or several, and for what DuckDB refuses.
    """
    return ask(catalog, lambda reader: _reading(reader, sql).table(sql))


def query_rows(catalog: Catalog, sql: str) -> Answer:
    """Return the same as values of Python.

    Raises:
        InputError: as `run_query` does.
    """
    return ask(catalog, lambda reader: answer_to(reader, sql))


def answer_to(reader: Reader, sql: str, *, most: int | None = None) -> Answer:
    """Return the same through a reader that is open, of the rows only the first `most`, if that is given."""
    return _reading(reader, sql).answer(sql, most=most)


def _reading(reader: Reader, sql: str) -> Reader:
    _require_reading(reader.connection, sql)
    if (run_id := only_run(reader.connection, sql)) is not None:
        reader.only(run_id)
    return reader


def only_run(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Return the run that a question about one view of planned images, WHERE run_id = '…' AND …, is about, if any."""
    ((text,),) = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()
    statements = json.loads(text).get("statements", [])
    if len(statements) != 1 or text.count("SELECT_NODE") != 1:
        return None
    node = statements[0]["node"]
    source, where = node.get("from_table") or {}, node.get("where_clause") or {}
    is_plain = source.get("type") == "BASE_TABLE" and not source.get("sample") and not source.get("column_name_alias")
    if not is_plain or source.get("table_name", "").lower() not in _OF_RUNS:
        return None
    for each in where.get("children", []) if where.get("type") == "CONJUNCTION_AND" else [where]:
        if each.get("type") == "COMPARE_EQUAL" and each["left"].get("column_names", [""])[-1].lower() == "run_id":
            # As text in DuckDB 2, as a value before.
            constant = each["right"].get("literal") or each["right"].get("value") or {}
            run_id = constant.get("text", constant.get("value"))
            return run_id if isinstance(run_id, str) else None
    return None


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
