"""Measures on this machine what leasing a unit costs, and how work scales with actors."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from igd_ray.cluster.executor import RayExecutor
from igd_ray.errors import IgdError
from igd_ray.identity import content_hash
from igd_ray.units.base import Rows, Shard, Unit
from igd_ray.units.replica import Context, WorkerSetup


@dataclass(frozen=True)
class NoOpUnit(Unit):
    """A unit that computes and commits nothing, to measure the cost of leasing it."""

    number: int

    kind = "no-op"
    tables = ()
    shard = Shard("test", 0, 0, (), "")

    @cached_property
    def key(self) -> str:
        """The hash of its number."""
        return content_hash(["no-op", self.number])

    def compute(self, context: Context) -> dict[str, Rows]:
        """Return nothing."""
        return {}


def dispatch_seconds(setup: WorkerSetup, units: int, *, actors: int) -> float:
    """Return the seconds per unit from the lease to one of `actors` to its report."""
    with RayExecutor(setup, actors=actors, device="cpu") as executor:
        _start(executor, actors)
        started = time.perf_counter()
        done = sum(1 for _ in executor.run([NoOpUnit(number) for number in range(units)]))
        return (time.perf_counter() - started) / done


def run_seconds(setup: WorkerSetup, units: Sequence[Unit], *, actors: int) -> float:
    """Return how long `actors` with one thread each take for `units` after the first of them, in seconds per unit.

    Raises:
        IgdError: if a unit fails.
    """
    with RayExecutor(setup, actors=actors, device="cpu") as executor:
        _start(executor, actors)
        # One unit an actor, so that loading the replica is not counted.
        _run(executor, units[:actors])
        started = time.perf_counter()
        _run(executor, units[actors:])
        return (time.perf_counter() - started) / len(units[actors:])


def _run(executor: RayExecutor, units: Sequence[Unit]) -> None:
    for report in executor.run(units):
        if report.error is not None:
            raise IgdError(f"the unit {report.key[:12]} failed: {report.error}")


def _start(executor: RayExecutor, actors: int) -> None:
    """Have every actor answer, so that its start is not counted."""
    while len(executor.workers.placements) < actors:
        _run(executor, [NoOpUnit(-1)])
        time.sleep(0.1)


def parallel_capacity(processes: int, seconds: float = 2.0) -> float:
    """Return how much more pure computing `processes` do at once than one, on this machine as busy as it is now."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(_spin, [0.1] * processes)
        alone = sum(pool.map(_spin, [seconds]))
        together = sum(pool.map(_spin, [seconds] * processes, chunksize=1))
    return together / alone


def _spin(seconds: float) -> float:
    """Return the CPU time that this process gets within `seconds`."""
    until = time.perf_counter() + seconds
    started = time.process_time()
    while time.perf_counter() < until:
        pass
    return time.process_time() - started
