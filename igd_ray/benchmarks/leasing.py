"""What leasing a unit to a Ray actor costs, and how work scales with actors."""

from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.cluster.bench import NoOpUnit, dispatch_seconds, parallel_capacity, run_seconds
from igd_ray.cluster.simulated import loop_cost
from igd_ray.config import EvaluateSettings
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.units.replica import ImageArrays, WorkerSetup

# Units of APGD on this many images: a second or so each on the CIFAR model.
SHARD_IMAGES, ATTACK = 8, "apgd-ce"

# Units without work: leased to actors, and to as many simulated workers as a cluster may have.
NO_OPS, SIMULATED_NO_OPS, SIMULATED_WORKERS = 1000, (1000, 10_000), 64


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
