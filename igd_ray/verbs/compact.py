"""`igd compact`: merge a catalog's small files."""

import argparse

from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import KEEP_SECONDS, compact
from igd_ray.errors import InputError
from igd_ray.verbs.flags import add_catalog_flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "A run merges its own files at its end, and while it goes on. This merges all that is left, and brings a "
        "catalog that an earlier igd-ray wrote to this one's form. Queries, runs and other merges may go on meanwhile."
    )
    add_catalog_flag(parser)
    parser.add_argument(
        "--keep",
        type=float,
        metavar="SECONDS",
        default=KEEP_SECONDS,
        help="delete files that were merged this long ago, of use to whoever reads them without igd-ray "
        f"(default: {KEEP_SECONDS:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge, and say what was done."""
    if not arguments.keep >= 0:
        raise InputError(f"--keep must be at least 0 seconds, not {arguments.keep:g}")
    catalog = Catalog(arguments.catalog)
    catalog.check()
    catalog.create()
    done = compact(catalog, keep_seconds=arguments.keep)
    print(f"merged {done.results} results into {done.files} files, deleted {done.deleted} files merged earlier")
    return 0
