"""The tables that README and the pages of docs/ print, and the committed rows that they come from."""

import io
from pathlib import Path

import duckdb
from rich.console import Console

from igd_ray.report.terminal import print_table

REPOSITORY = Path(__file__).resolve().parents[2]


# Rows of APGD with EoT on the base model as published, 20 gradients a step though there they are equal: kept to compare
# costs, and of no run.
PUBLISHED_EOT = "published-eot"

# Every run there is finished.
PROGRESS = f"""
CREATE VIEW progress AS
SELECT DISTINCT run_id, 1 AS planned, 1 AS done, 0 AS running, 0 AS quarantined, 0 AS failed
FROM outcomes
WHERE run_id <> '{PUBLISHED_EOT}'
"""


def printed(rows: Path, query: str) -> str:
    """What `igd sql --file` prints for the query of that name over the outcome rows of one Parquet file."""
    connection = duckdb.connect()
    for statements in ("catalog/views/10_macros.sql",):
        connection.execute((REPOSITORY / statements).read_text())
    connection.from_parquet(str(rows)).create_view("outcomes")
    connection.execute(PROGRESS)
    table = connection.sql((REPOSITORY / "catalog" / "queries" / f"{query}.sql").read_text()).to_arrow_table()
    text = io.StringIO()
    print_table(table, console=Console(file=text, force_terminal=False))
    return text.getvalue()
