"""Where the SQL of views and named queries lies, and the text that makes every view over a folder."""

from collections.abc import Collection
from pathlib import Path

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.errors import InputError, did_you_mean

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
    return {path.stem: path.read_text() for path in sorted(_folder("queries").glob("*.sql"))}


def named_query(name: str) -> str:
    """Return the text of the shipped query `name`.

    Raises:
        InputError: if there is none of this name.
    """
    queries = named_queries()
    if name not in queries:
        raise InputError(f"no query named {name!r}; there are {', '.join(queries)}{did_you_mean(name, queries)}")
    return queries[name]


def view_statements(root: str, remote: Collection[str] = ()) -> str:
    """Return the SQL that makes every view over the tables in the folder `root` ("." for the working folder).

    The tables `remote` are not read from there, but from relations ``remote_<table>`` that the connection has.
    """
    folder = as_pattern(root).replace("'", "''")
    # First of all what was merged, on which the rows of every other table depend.
    tables = ["compacted", *(table for table in SCHEMAS if table != "compacted")]
    stored = [f"CREATE OR REPLACE VIEW stored_{table} AS {_rows(folder, table, remote)};" for table in tables]
    views = [path.read_text().strip() for path in sorted(_folder("views").glob("*.sql"))]
    return "\n".join(stored) + "\n\n" + "\n\n".join(views) + "\n"


def _rows(folder: str, table: str, remote: Collection[str]) -> str:
    """Return the SQL of a table's rows: from merged files that are announced, and from files that none replaces."""
    if table in remote:
        return f"SELECT * FROM remote_{table}"
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
    SELECT key, min(file) AS file FROM stored_compacted WHERE table_name = '{table}' GROUP BY key
)
SELECT * EXCLUDE (filename) FROM read_parquet('{folder}/{table}/*.parquet', filename = true)
WHERE CASE WHEN starts_with({file}, '{MERGED}') THEN {in_merged} ELSE {in_single} END"""


def as_pattern(path: str) -> str:
    """Return the pattern by which DuckDB finds exactly `path`: ``*``, ``?`` and ``[`` are ordinary in brackets."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
