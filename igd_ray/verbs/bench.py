"""`igd bench`: what leasing a unit costs, how work scales with actors, and how fast a large catalog answers."""

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa

from igd_ray.benchmarks.catalog import IMAGES, bench_catalog
from igd_ray.benchmarks.made_up_catalog import Size
from igd_ray.catalog import Catalog
from igd_ray.cluster.bench import NoOpUnit, dispatch_seconds, parallel_capacity, run_seconds
from igd_ray.cluster.simulated import loop_cost
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.errors import InputError
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.units.replica import ImageArrays, WorkerSetup
from igd_ray.verbs.flags import add_workspace_flags, given_settings
from igd_ray.verbs.output import show

# Units of APGD on this many images: a second or so each on the CIFAR model.
SHARD_IMAGES, ATTACK = 8, "apgd-ce"

# Units without work: leased to actors, and to as many simulated workers as a cluster may have.
NO_OPS, SIMULATED_NO_OPS, SIMULATED_WORKERS = 1000, (1000, 10_000), 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "scaling: seconds for a unit of APGD, actors of one thread each; `machine` is how much more pure computing "
        "as many processes do here than one. dispatch: milliseconds from leasing a unit without work to its report; "
        "simulated workers are none at all, so that what remains is the lease loop's own processor time and memory. "
        "catalog: whole processes of igd on a catalog of made-up runs, each of 5 defenses, 9 attacks and --n images "
        f"(default: {IMAGES}), beside a fresh Python in which DuckDB reduces the same rows, in one sorted file, to the "
        "worst case: how many times as long they take, and their memory."
    )
    parser.add_argument(
        "what", choices=["scaling", "dispatch", "catalog"], help="units of APGD, units without work, or a large catalog"
    )
    parser.add_argument("--runs", type=int, metavar="N", default=1, help="of catalog: how many (default: 1)")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="of catalog: of timing (default: 5)")
    add_workspace_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print one row per number of actors, or per process."""
    not_settings = ("what", "catalog", "runs", "rounds")
    given = {name: value for name, value in given_settings(arguments).items() if name not in not_settings}
    if arguments.what == "catalog":
        if unused := given.keys() - {"n"}:
            raise InputError(f"bench catalog takes --n, --runs, --rounds and --json, not --{min(unused)}")
        size = Size(arguments.runs, arguments.n if "n" in arguments else IMAGES)
        show(pa.Table.from_pylist(bench_catalog(size, arguments.rounds)), as_json=arguments.json)
        return 0
    with tempfile.TemporaryDirectory(prefix="igd-bench-") as name:
        folder = Path(name)
        settings = load_settings(
            EvaluateSettings,
            file=arguments.config,
            given={
                "n": 128,
                **given,
                "catalog": str(folder / "results"),
                "attacks": ATTACK,
                "shard_size": SHARD_IMAGES,
            },
        )
        measure = scaling if arguments.what == "scaling" else dispatch
        rows = measure(Workspace(settings), folder)
    show(pa.Table.from_pylist(rows), as_json=arguments.json)
    return 0


def scaling(workspace: Workspace[EvaluateSettings], folder: Path) -> list[dict[str, object]]:
    """Return what a unit of APGD takes with one actor, and with as many as the settings say."""
    units = [cell.unit for cell in plan_evaluation(workspace).cells]
    seconds = {
        actors: run_seconds(worker_setup(workspace, folder / f"{actors}"), units, actors=actors)
        for actors in (1, workspace.settings.actors or 2)
    }
    return [
        {
            "actors": actors,
            "units": len(units) - actors,
            "seconds_per_unit": round(taken, 3),
            "speedup": round(seconds[1] / taken, 2),
            "machine": round(parallel_capacity(actors), 2),
        }
        for actors, taken in seconds.items()
    ]


def dispatch(workspace: Workspace[EvaluateSettings], folder: Path) -> list[dict[str, object]]:
    """Return what leasing a unit takes with one actor, with as many as the settings say, and with simulated workers."""
    rows: list[dict[str, object]] = []
    for actors in (1, workspace.settings.actors or 2):
        seconds = dispatch_seconds(worker_setup(workspace, folder / f"{actors}"), NO_OPS, actors=actors)
        rows.append({"workers": f"{actors} on Ray", "units": NO_OPS, "ms_per_unit": round(1000 * seconds, 3)})
    for number in SIMULATED_NO_OPS:
        units = [NoOpUnit(index) for index in range(number)]
        cost = loop_cost(folder / f"simulated-{number}", units, slots=SIMULATED_WORKERS)
        rows.append(
            {
                "workers": f"{SIMULATED_WORKERS} simulated",
                "units": cost.units,
                "ms_per_unit": round(1000 * cost.seconds_per_unit, 3),
                "memory_MiB": round(cost.bytes / 2**20, 1),
            }
        )
    columns = ("workers", "units", "ms_per_unit", "memory_MiB")
    return [{column: row.get(column) for column in columns} for row in rows]


def worker_setup(workspace: Workspace[EvaluateSettings], folder: Path) -> WorkerSetup:
    """Return what actors are built from, with a catalog of its own so that nothing is reused."""
    setup = WorkerSetup(workspace.source, str(folder), {"test": ImageArrays.of(workspace.test)})
    Catalog(setup.catalog).create()
    return setup
