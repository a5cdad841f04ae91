"""`igd report`: one HTML file of a run."""

import argparse
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.report.html import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", default="results", help="folder of results (default: results)")
    parser.add_argument("--run-id", metavar="ID", default=None, help="default: the latest run")
    parser.add_argument("--output", metavar="FILE", default=None, help="default: report.html in the catalog's folder")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    catalog = Catalog(arguments.catalog)
    catalog.check()
    path = write_report(catalog, arguments.run_id, Path(arguments.output or catalog.root / "report.html"))
    print(f"report: {path}")
    return 0
