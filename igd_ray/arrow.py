"""pyarrow, imported when something of it is first asked for, and its tables as values of Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Answer", "LazyModule", "answer_of", "fs", "moment_of", "pa", "pc", "pq", "printable"]


class LazyModule:
    """Stands for a module; `TYPE_CHECKING` imports the module itself, so that types are known.

    >>> LazyModule("math").sqrt(16)
    4.0
    """

    def __init__(self, name: str) -> None:
        """Stand for the module of this full name."""
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        """Import the module and return what it has of this name."""
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.fs as fs
    import pyarrow.parquet as pq
else:
    # A tenth of a second, for which a question to DuckDB need not wait.
    pa, fs = LazyModule("pyarrow"), LazyModule("pyarrow.fs")
    pc, pq = LazyModule("pyarrow.compute"), LazyModule("pyarrow.parquet")


@dataclass(frozen=True)
class Answer:
    """The rows that a question was answered with.

    Attributes:
        names: of the columns; two may be equal.
        rows: the values of each row.
    """

    names: list[str]
    rows: list[tuple[Any, ...]]

    def dictionaries(self) -> list[dict[str, Any]]:
        """Return a dictionary for each row."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


def answer_of(table: pa.Table) -> Answer:
    """Return what `table` holds as values of Python, after `printable`."""
    columns = [_values(column) for column in printable(table).columns]
    return Answer(table.column_names, list(zip(*columns, strict=True)))


def printable(table: pa.Table) -> pa.Table:
    """Return `table`, with DuckDB's text for columns that hold intervals, infinite times or those of distant years."""
    for number, column in enumerate(table.columns):
        if not _has_values(column):
            table = table.set_column(number, table.column_names[number], _texts(column))
    return table


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import duckdb

    with duckdb.connect(":memory:", config={"python_enable_replacements": False}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("told", pa.table({"value": column}))
        return connection.sql("SELECT value::VARCHAR AS value FROM told").to_arrow_table()["value"]


def _has_values(column: pa.ChunkedArray) -> bool:
    """Return whether Python has values for all of `column`."""
    if pa.types.is_interval(column.type):
        return False
    if not (pa.types.is_temporal(column.type) or pa.types.is_nested(column.type)):
        return True
    try:
        _values(column)
    except (OverflowError, ValueError):
        return False
    return True


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python has them; for moments pyarrow itself would import pandas."""
    if not pa.types.is_timestamp(column.type):
        values: list[Any] = column.to_pylist()
        return values
    zone = None if column.type.tz is None else UTC
    # Nanoseconds are rounded down; an infinite number of seconds must not become an earlier moment.
    precise = column.type.unit == "ns"
    moments = column.cast(pa.timestamp("us", column.type.tz), safe=not precise).cast(pa.int64()).to_pylist()
    return [moment_of(moment, zone) for moment in moments]


def moment_of(microseconds: int | None, zone: tzinfo | None) -> datetime | None:
    """Return the moment that lies so many microseconds after the begin of 1970.

    Raises:
        OverflowError: if it lies outside the years 1 to 9999.
    """
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=zone) + timedelta(microseconds=microseconds)
