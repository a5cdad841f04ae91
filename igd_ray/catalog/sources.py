"""Where the SQL of views and named queries lies, and the text that makes every view over a folder."""

from pathlib import Path

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.errors import InputError, did_you_mean


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


def view_statements(root: str | None) -> str:
    """Return the SQL that makes every view over the tables in the folder `root` ("." for the working folder).

    Without `root`, the views are over relations ``remote_<table>`` that the connection has.
    """
    folder = None if root is None else as_pattern(root).replace("'", "''")
    stored = []
    for table in SCHEMAS:
        source = f"remote_{table}" if folder is None else f"read_parquet('{folder}/{table}/*.parquet')"
        stored.append(f"CREATE OR REPLACE VIEW stored_{table} AS SELECT * FROM {source};")
    views = [path.read_text().strip() for path in sorted(_folder("views").glob("*.sql"))]
    return "\n".join(stored) + "\n\n" + "\n\n".join(views) + "\n"


def as_pattern(path: str) -> str:
    """Return the pattern by which DuckDB finds exactly `path`: ``*``, ``?`` and ``[`` are ordinary in brackets."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
