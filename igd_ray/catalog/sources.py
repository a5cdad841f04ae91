"""Where the SQL of views and named queries lies, and the text that makes every view over a folder."""

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import AUDIT_PREFIX, NINE_ATTACKS, TRANSFER_PREFIX
from igd_ray.statistics import SIGNIFICANCE, Z_95

# A file name that no shell, URL or pattern reads as anything else; a leading dot would hide the file.
KEY = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"

# How the names of merged files start.
MERGED = "_merged-"

# Where a column holds the key of the result that a row belongs to, a row of a folder's file counts only in the file of
# that name. So a copy under another name counts nowhere, and what was merged twice counts once.
KEY_COLUMNS = {
    "runs": "run_id",
    "outcomes": "unit_key",
    "adversarials": "unit_key",
    "noise": "unit_key",
    "measurements": "unit_key",
    "rankings": "ranking_id",
    "arrays": "unit_key",
    "searches": "search_id",
    "refinements": "search_id",
    "splits": "unit_key",
}


def _folder(name: str) -> Path:
    """Return the folder `name` of SQL files: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "sql" / name
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "catalog" / name


def named_queries() -> dict[str, str]:
    """Return the text of every query that is shipped, by its name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(_folder("queries").glob("*.sql"))}


def named_query(name: str) -> str:
    """Return the text of the shipped query `name`.

    Raises:
        InputError: if there is none of this name.
    """
    queries = named_queries()
    if name not in queries:
        raise InputError(f"no query named {name!r}; there are {', '.join(queries)}{did_you_mean(name, queries)}")
    return queries[name]


class Definition(NamedTuple):
    """A view, or a macro.

    Attributes:
        name: of the view or macro.
        query: what follows ``CREATE OR REPLACE VIEW name AS``; of a macro, the whole statement without its end.
        needs: the definitions that the text names; all of them come before it.
        is_macro: whether it is a macro.
        once: whether a connection of igd-ray makes a table of it, because others ask it again and again.
        once_for_several: whether it does so where more than one of what is made asks it.
        whole: the definition that says the same where all cells are whole; None if that is not shorter.
    """

    name: str
    query: str
    needs: frozenset[str]
    is_macro: bool = False
    once: bool = False
    once_for_several: bool = False
    whole: "Definition | None" = None

    def statement(self, *, as_table: bool = False) -> str:
        """Return the SQL that makes the view, or a temporary table of its rows."""
        if self.is_macro:
            return f"{self.query};"
        kind = "TEMP TABLE" if as_table else "VIEW"
        return f"CREATE OR REPLACE {kind} {self.name} AS {self.query};"


@cache
def definitions() -> tuple[Definition, ...]:
    """Return every view and macro over the relations ``stored_<table>``, each after what it needs."""
    texts = [
        _protocol(),
        *(path.read_text(encoding="utf-8") for path in sorted(_folder("views").glob("*.sql"))),
        _nine_accuracies(),
    ]
    found: list[Definition] = []
    for text in texts:
        found += _parsed(text, {*(f"stored_{table}" for table in SCHEMAS), *(each.name for each in found)})
    return tuple(found)


def view_statements(root: str) -> str:
    """Return the SQL that makes every view over the tables in the folder `root`, for any program that has DuckDB."""
    folder = as_pattern(root).replace("'", "''")
    stored = [f"CREATE OR REPLACE VIEW stored_{table} AS {_rows(folder, table)};" for table in SCHEMAS]
    return (
        "\n".join([_merged_results(folder), *stored, *(definition.statement() for definition in definitions())]) + "\n"
    )


def _protocol() -> str:
    """Return macros of what SQL needs to know of the protocol and of the statistics."""
    direct = [attack for attack in NINE_ATTACKS if not attack.startswith(TRANSFER_PREFIX)]
    return f"""
CREATE OR REPLACE MACRO z_95() AS {Z_95!r};
CREATE OR REPLACE MACRO significance() AS {SIGNIFICANCE!r};
CREATE OR REPLACE MACRO is_nine(attack) AS attack IN {NINE_ATTACKS};
CREATE OR REPLACE MACRO number_of_nine() AS {len(NINE_ATTACKS)};
CREATE OR REPLACE MACRO is_direct(attack) AS attack IN {tuple(direct)};
CREATE OR REPLACE MACRO number_of_direct() AS {len(direct)};
CREATE OR REPLACE MACRO transfer_of(attack) AS '{TRANSFER_PREFIX}' || attack;
CREATE OR REPLACE MACRO is_audit(attack) AS starts_with(attack, '{AUDIT_PREFIX}');
"""


def _nine_accuracies() -> str:
    """Return the view of robust accuracies in percent under the nine attacks, a column for each, in their order.

    One over other images than the worst case is NULL.
    """
    columns = ",\n    ".join(
        f"round(100 * any_value(robust_accuracy) FILTER (attack = '{attack}'), 2) AS \"{attack}\""
        for attack in NINE_ATTACKS
    )
    query = f"""
SELECT
    run_id, defense,
    {columns}
FROM accuracy
SEMI JOIN (SELECT run_id, defense, count(*) AS n FROM worst_case_images GROUP BY ALL) AS images
    USING (run_id, defense, n)
GROUP BY run_id, defense"""
    return f"CREATE OR REPLACE VIEW nine_accuracies AS {query};\n"


_STATEMENT = re.compile(r"^CREATE OR REPLACE (VIEW|MACRO) (\w+)(?: AS)?\b(.*?);[ ]*$", re.DOTALL | re.MULTILINE)
_ONCE, _ONCE_FOR_SEVERAL = "-- Once a connection.\n", "-- Once for several.\n"
_NOT_WHOLE = "-- Where cells are not whole:\n"


def _parsed(text: str, known: set[str]) -> list[Definition]:
    """Return the definitions in a text of SQL, each with those it needs of `known` and of those before it."""
    found = []
    end = 0
    for match in _STATEMENT.finditer(text):
        kind, name, query = match.groups()
        is_macro = kind == "MACRO"
        once, several = (remark in text[end : match.start()] for remark in (_ONCE, _ONCE_FOR_SEVERAL))

        def defined(
            query: str, name: str = name, is_macro: bool = is_macro, once: bool = once, several: bool = several
        ) -> Definition:
            words = named_in(re.sub(r"--[^\n]*", "", query), known)
            return Definition(name, query.strip(), words, is_macro, once, several)

        definition = defined(match[0].rstrip()[:-1] if is_macro else query)
        if _NOT_WHOLE in query:
            definition = definition._replace(whole=defined(query.partition(_NOT_WHOLE)[0]))
        found.append(definition)
        known.add(name)
        end = match.end()
    return found


def named_in(sql: str, names: Collection[str]) -> frozenset[str]:
    """Return those of `names` that are words of `sql`, in any case, whatever they mean there."""
    return frozenset(names) & {word.lower() for word in re.findall(r"\w+", sql)}


def _merged_results(folder: str) -> str:
    """Return the view of where each result is that was merged: a later entry of the log overrides an earlier one."""
    return f"""
CREATE OR REPLACE VIEW merged_results AS
SELECT *
FROM (
    SELECT table_name, key, arg_max(file, (regexp_full_match(entry, '[0-9]{{8}}'), entry)) AS file
    FROM (
        SELECT *, left(parse_filename(filename), -8) AS entry
        FROM read_parquet('{folder}/compacted/*.parquet', filename = true)
    )
    WHERE regexp_full_match(entry, '{KEY}')
    GROUP BY table_name, key
)
WHERE starts_with(file, '{MERGED}');
"""


def _rows(folder: str, table: str) -> str:
    """Return the SQL of a table's rows: from merged files that are announced, and from files that none replaces."""
    if table == "compacted":
        return f"""
SELECT * EXCLUDE (filename) FROM read_parquet('{folder}/compacted/*.parquet', filename = true)
WHERE regexp_full_match(left(parse_filename(filename), -8), '{KEY}')"""
    file = "parse_filename(filename)"
    name = f"left({file}, -8)"
    if table in KEY_COLUMNS:
        key = KEY_COLUMNS[table]
        in_merged = f"({key}, {file}) IN (SELECT (key, file) FROM merged)"
        in_single = f"{key} = {name} AND {key} NOT IN (SELECT key FROM merged)"
    else:
        in_merged = f"{file} IN (SELECT file FROM merged)"
        in_single = f"regexp_full_match({name}, '{KEY}') AND {name} NOT IN (SELECT key FROM merged)"
    return f"""
WITH merged AS MATERIALIZED (
    SELECT key, file FROM merged_results WHERE table_name = '{table}'
)
SELECT * EXCLUDE (filename) FROM read_parquet('{folder}/{table}/*.parquet', filename = true)
WHERE CASE WHEN starts_with({file}, '{MERGED}') THEN {in_merged} ELSE {in_single} END"""


def as_pattern(path: str) -> str:
    """Return the pattern by which DuckDB finds exactly `path`: ``*``, ``?`` and ``[`` are ordinary in brackets."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
