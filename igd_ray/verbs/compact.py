"""`igd compact`: merge a catalog's small files."""

import argparse

from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import compact
from igd_ray.errors import InputError

KEEP_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", default="results", help="folder of results (default: results)")
    parser.add_argument(
        "--keep",
        type=float,
        metavar="SECONDS",
        default=KEEP_SECONDS,
        help=f"delete files that were merged this long ago, for queries still reading (default: {KEEP_SECONDS:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge, and say what was done."""
    if not arguments.keep >= 0:
        raise InputError(f"--keep must be at least 0 seconds, not {arguments.keep:g}")
    catalog = Catalog(arguments.catalog)
    catalog.check()
    done = compact(catalog, keep_seconds=arguments.keep)
    print(f"merged {done.results} results into {done.files} files, deleted {done.deleted} files merged earlier")
    return 0
