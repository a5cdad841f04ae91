"""`igd bench`: what leasing a unit costs, and how work scales with actors."""

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa

from igd_ray.catalog import Catalog
from igd_ray.cluster.bench import dispatch_seconds, parallel_capacity, run_seconds
from igd_ray.commands.flags import add_study_flags, given_settings
from igd_ray.commands.output import show
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.pipeline.setup import ImageArrays, WorkerSetup
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.verbs import plan_evaluation_of

# Units of APGD on this many images, with few steps: a second or so each on the CIFAR model.
SHARD_IMAGES, ATTACK = 8, "apgd-ce-20"
NO_OPS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("what", choices=["scaling", "dispatch"], help="units of APGD, or units without work")
    add_study_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print one row a number of actors."""
    given = {name: value for name, value in given_settings(arguments).items() if name not in ("what", "catalog")}
    rows = []
    with tempfile.TemporaryDirectory(prefix="igd-bench-") as folder:
        catalog = str(Path(folder) / "results")
        settings = load_settings(
            EvaluateSettings,
            file=arguments.config,
            given={"n": 128, **given, "catalog": catalog, "attacks": ATTACK, "shard_size": SHARD_IMAGES},
        )
        most = settings.actors or 2
        with Study(settings) as study:
            units = [cell.unit for cell in plan_evaluation_of(study, settings).plan.cells]
            images = {"test": ImageArrays.of(study.test)}
            for actors in (1, most):
                # A catalog each, so that nothing is reused.
                setup = WorkerSetup(study.source, f"{catalog}-{actors}", images)
                Catalog(setup.catalog).create()
                if arguments.what == "dispatch":
                    seconds = dispatch_seconds(setup, NO_OPS, actors=actors)
                    rows.append({"actors": actors, "units": NO_OPS, "ms_per_unit": round(1000 * seconds, 3)})
                else:
                    seconds = run_seconds(setup, units, actors=actors)
                    rows.append({"actors": actors, "units": len(units) - actors, "seconds_per_unit": seconds})
    if arguments.what == "scaling":
        for row in rows:
            row["speedup"] = round(rows[0]["seconds_per_unit"] / row["seconds_per_unit"], 2)
            row["machine"] = round(parallel_capacity(int(row["actors"])), 2)
            row["seconds_per_unit"] = round(row["seconds_per_unit"], 3)
    show(pa.Table.from_pylist(rows), as_json=arguments.json)
    return 0
