"""`igd status`: how far each run is, how fast, and what it costs, from the catalog alone."""

import argparse
from typing import Any

from igd_ray.arrow import Answer
from igd_ray.catalog import Catalog, ask
from igd_ray.catalog.query import Reader
from igd_ray.verbs.flags import add_catalog_flag
from igd_ray.verbs.output import show

PROGRESS = """
SELECT run_id, verb, model, dataset, n, created_at, planned, done, running, failed, quarantined,
    planned - done AS left, round(units_per_minute, 2) AS units_per_minute,
    round(minutes_left, 1) AS minutes_left, round(worker_hours, 3) AS worker_hours, round(cost, 2) AS cost
FROM runs JOIN progress USING (run_id) LEFT JOIN pace USING (run_id) ORDER BY created_at
"""

GIVEN_UP = """
SELECT DISTINCT unit_key, kind, defense, attack, error FROM unit_states WHERE state = 'quarantined' ORDER BY ALL
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_catalog_flag(parser)
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print one row per run, and why units were given up."""
    catalog = Catalog(arguments.catalog)
    catalog.check()

    def question(reader: Reader) -> tuple[Answer, list[dict[str, Any]]]:
        return reader.answer(PROGRESS), [] if arguments.json else reader.rows(GIVEN_UP)

    answer, given_up = ask(catalog, question)
    if not answer.rows and not arguments.json:
        print(f"no runs in {catalog} yet; start one with `igd evaluate` or `igd demo`")
        return 0
    show(answer, as_json=arguments.json)
    for unit in given_up:
        what = " / ".join(part for part in (unit["defense"], unit["attack"]) if part) or unit["kind"]
        print(f"unit {unit['unit_key'][:12]} ({what}) {unit['error']}")
    return 0
