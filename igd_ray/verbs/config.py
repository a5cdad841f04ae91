"""`igd config show RUN`: the settings of a run from its record, as `--config` takes them."""

import argparse

import yaml

from igd_ray.catalog import Catalog, ask
from igd_ray.config import SETTINGS
from igd_ray.errors import InputError
from igd_ray.report.results import find_run
from igd_ray.verbs.flags import add_catalog_flag
from igd_ray.verification.stored_runs import StoredRun, recorded_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("what", choices=["show"], help="print the settings of a run")
    parser.add_argument("run_id", nargs="?", metavar="RUN", default=None, help="default: the latest evaluation")
    add_catalog_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings that differ from the defaults, as YAML."""
    catalog = Catalog(arguments.catalog)
    catalog.check()
    row = ask(catalog, lambda reader: find_run(reader, arguments.run_id))
    verb = row["verb"]
    if verb not in SETTINGS:
        raise InputError(f"run {row['run_id']!r} is of the verb {verb!r}, which this igd does not have")
    stored = StoredRun(row["run_id"], str(row["model_id"]), row["config"] or "")
    settings = recorded_settings(stored, SETTINGS[verb])
    print(f"# Run {stored.run_id}; to repeat it: igd {verb} --config FILE")
    print(yaml.safe_dump(settings, sort_keys=True, allow_unicode=True) if settings else "{}", end="")
    return 0
