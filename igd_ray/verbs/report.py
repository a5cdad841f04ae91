"""`igd report`: a run's tables, figures and checks, as a page or as text."""

import argparse
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.report.html import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", default="results", help="folder of results (default: results)")
    parser.add_argument("--run-id", metavar="ID", default=None, help="default: the latest run")
    parser.add_argument(
        "--format",
        choices=["html", "md", "tex", "json"],
        default="html",
        help="a page, or the same numbers as Markdown, as tables for LaTeX (booktabs), or as JSON (default: html)",
    )
    parser.add_argument(
        "--output", metavar="FILE", default=None, help="default: report.html, report.md, … in the catalog's folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    catalog = Catalog(arguments.catalog)
    catalog.check()
    target = Path(arguments.output or catalog.root / f"report.{arguments.format}")
    print(f"report: {write_report(catalog, arguments.run_id, target, form=arguments.format)}")
    return 0
