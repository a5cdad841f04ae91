"""Simulated workers, which finish every unit at once, to measure the cost of the lease loop itself."""

import gc
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import Event, LeaseLoop, Ready, Reported
from igd_ray.execution.executor import AttemptLog
from igd_ray.execution.queue import Halving
from igd_ray.units.base import Unit, UnitReport


@dataclass
class SimulatedWorkers:
    """Workers without processes; each has finished its unit by the next call of `events`.

    Attributes:
        slots: number of workers.
    """

    slots: int
    _events: list[Event] = field(default_factory=list)
    _started: int = 0

    def grow(self) -> None:
        """Start all workers."""
        while self._started < self.slots:
            self._events.append(Ready(self._started, self._started, "simulated"))
            self._started += 1

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        """Finish `unit`."""
        report = UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, attempt=attempt)
        self._events.append(Reported(worker, report))

    def events(self, timeout: float) -> Sequence[Event]:
        """Return the reports of all finished units."""
        happened, self._events = self._events, []
        return happened

    def end(self, worker: int) -> None:
        """Do nothing: a simulated worker has no process."""


@dataclass(frozen=True)
class LoopCost:
    """The cost of the lease loop.

    Attributes:
        units: number of finished units.
        seconds_per_unit: processor time per unit, in seconds.
        bytes: peak memory, without the units themselves.
    """

    units: int
    seconds_per_unit: float
    bytes: int


def loop_cost(folder: Path, units: Sequence[Unit], *, slots: int) -> LoopCost:
    """Measure what leasing `units` to simulated workers costs the driver; the empty `folder` gets the attempts."""

    def run(name: str) -> int:
        catalog = Catalog(folder / name)
        catalog.create()
        loop = LeaseLoop(SimulatedWorkers(slots), AttemptLog(catalog), Halving(catalog))
        return sum(report.error is None for report in loop.run(units))

    # The garbage collector also visits the other objects of this process, and tracing memory is slow. So the first run
    # measures time without the collector, and the second measures memory.
    gc.disable()
    try:
        started = time.process_time()
        done = run("time")
        seconds = time.process_time() - started
    finally:
        gc.enable()
    tracemalloc.start()
    try:
        run("memory")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return LoopCost(done, seconds / done, most)
