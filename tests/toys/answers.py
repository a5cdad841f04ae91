"""What a catalog answers to every view and query, by igd-ray and by DuckDB on its own, to be compared."""

from collections.abc import Collection

import duckdb
import pyarrow as pa

from igd_ray.catalog import Catalog, ask, named_queries
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.query import Reader
from igd_ray.catalog.sources import definitions, view_statements

# Views of which others are made, and which nobody asks.
INNER = {
    *("planned", "counted_outcomes", "unit_parts", "reported_parts", "cells", "whole_outcomes", "other_outcomes"),
    *("numbered_verdicts", "nine_accuracies"),
}
QUESTIONS = {
    **{each.name: f"FROM {each.name}" for each in definitions() if not each.is_macro and each.name not in INNER},
    **named_queries(),
}

# Asked of DuckDB on its own, which keeps no table of what several views ask, and takes its time.
PLAIN = ("runs", "worst_case", "accuracy", "outcomes", "progress", "adversarials", "rankings")

Answers = dict[str, list[str]]


def comparable(table: pa.Table) -> list[str]:
    """The rows in one order; sums of seconds to nine digits, as they depend on theirs."""
    return sorted(
        str([float(f"{value:.9g}") if isinstance(value, float) else value for value in each.values()])
        for each in table.to_pylist()
    )


def answers(catalog: Catalog) -> Answers:
    """What igd-ray answers."""

    def question(reader: Reader) -> Answers:
        return {name: comparable(reader.table(sql)) for name, sql in QUESTIONS.items()}

    return ask(catalog, question)


def plain_answers(catalog: Catalog, names: Collection[str]) -> Answers:
    """What DuckDB on its own answers, by the statements of `views.sql`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(view_statements(str(catalog.root)))
        return {name: comparable(connection.sql(QUESTIONS[name]).to_arrow_table()) for name in names}


def require_equal_by_merging(catalog: Catalog, plain: Collection[str] = PLAIN) -> None:
    """Check that every view and query answers alike before and after merging, and after the small files are gone.

    Those in `plain` also by DuckDB on its own.
    """
    before = answers(catalog)
    expected = {name: before[name] for name in plain}
    assert plain_answers(catalog, plain) == expected
    for deleted in (False, True):
        done = compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)
        assert (done.deleted > 0) == deleted, done
        after = answers(Catalog(catalog.root))
        assert not [name for name in before if after[name] != before[name]]
        assert plain_answers(catalog, plain) == expected
