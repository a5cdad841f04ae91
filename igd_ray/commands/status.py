"""`igd status`: how far each run is, from the catalog alone."""

import argparse

from igd_ray.catalog import Catalog, run_query
from igd_ray.commands.output import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", default="results", help="folder of results (default: results)")
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print one row a run."""
    catalog = Catalog(arguments.catalog)
    catalog.check()
    table = run_query(
        catalog,
        """
        SELECT run_id, verb, model, dataset, n, created_at, planned, done, failed, planned - done AS left
        FROM runs JOIN progress USING (run_id) ORDER BY created_at
        """,
    )
    if len(table) == 0 and not arguments.json:
        print(f"no runs in {catalog.root} yet; start one with `igd evaluate` or `igd demo`")
        return 0
    show(table, as_json=arguments.json)
    return 0
