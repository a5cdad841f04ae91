"""`igd report`: a run's tables, figures and checks, as a page or as text."""

import argparse
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.report.html import write_comparison, write_report
from igd_ray.verbs.clean_images import clean_images
from igd_ray.verbs.flags import add_catalog_flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_catalog_flag(parser)
    parser.add_argument("--run-id", metavar="ID", default=None, help="default: the latest run")
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="RUN",
        default=None,
        help="set these runs beside each other instead: ID, CATALOG#ID of another catalog, CATALOG# for its latest; "
        "each defense is compared with the same one of the first run",
    )
    parser.add_argument(
        "--format",
        choices=["html", "md", "tex", "json"],
        default="html",
        help="a page, or the same numbers as Markdown, as tables for LaTeX (booktabs), or as JSON (default: html)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        default=None,
        help="default: report.html, comparison.html, report.md, … in --catalog",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    catalog = Catalog(arguments.catalog)
    kind = "report" if arguments.compare is None else "comparison"
    name = f"{kind}.{arguments.format}"
    target = Path(arguments.output or catalog.root / name)
    places = _places(arguments) if arguments.compare is not None else None
    if places is None:
        catalog.check()
    _require_no_folder(target, name)
    if places is None:
        path = write_report(catalog, arguments.run_id, target, form=arguments.format, clean_images=clean_images)
    else:
        path = write_comparison(places, target, form=arguments.format)
    print(f"{kind}: {path}")
    return 0


def _require_no_folder(target: Path, name: str) -> None:
    try:
        is_folder = target.is_dir()
    except OSError as error:
        raise InputError(f"--output: {error.strerror}; name another file") from None
    if is_folder:
        raise InputError(f"--output {target} is a folder; name a file in it, such as {target / name}")


def _places(arguments: argparse.Namespace) -> list[tuple[str, Catalog, str | None]]:
    """Return the label, the catalog and the id of each run to compare."""
    if arguments.run_id is not None:
        raise InputError("--run-id is for one run; name all runs behind --compare")
    words = arguments.compare
    if len(words) < 2 or len(set(words)) < len(words):
        raise InputError(f"--compare needs two or more runs, each once, not {' '.join(words)}")
    places = []
    for word in words:
        folder, mark, run_id = word.rpartition("#")
        catalog = Catalog(folder if mark and folder else arguments.catalog)
        catalog.check()
        places.append((word, catalog, run_id or None))
    return places
