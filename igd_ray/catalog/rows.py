"""Rows as a table's schema has them."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sources import KEY_COLUMNS
from igd_ray.errors import InputError, first_line

Rows: TypeAlias = "pa.Table | Sequence[Mapping[str, object]]"


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
