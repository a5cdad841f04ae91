"""Workers without processes, that are done at once: what the lease loop itself costs with many of them."""

import gc
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import Event, LeaseLoop, Ready, Reported
from igd_ray.execution.attempts import AttemptLog
from igd_ray.execution.halving import Halving
from igd_ray.units.base import Unit, UnitReport


@dataclass
class SimulatedWorkers:
    """So many workers, each of which has done its unit when it is next looked at.

    Attributes:
        slots: how many.
    """

    slots: int
    _events: list[Event] = field(default_factory=list)
    _started: int = 0

    def grow(self) -> None:
        """Start all of them."""
        while self._started < self.slots:
            self._events.append(Ready(self._started, self._started, "simulated"))
            self._started += 1

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        """Have `unit` done."""
        report = UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, attempt=attempt)
        self._events.append(Reported(worker, report))

    def events(self, timeout: float) -> Sequence[Event]:
        """Return all reports at once."""
        happened, self._events = self._events, []
        return happened

    def end(self, worker: int) -> None:
        """Do nothing: there is no process."""


@dataclass(frozen=True)
class LoopCost:
    """What the lease loop took.

    Attributes:
        units: how many were done.
        seconds_per_unit: processor time.
        bytes: the most memory that it held at once, without the units themselves.
    """

    units: int
    seconds_per_unit: float
    bytes: int


def loop_cost(folder: Path, units: Sequence[Unit], *, slots: int) -> LoopCost:
    """Return what leasing `units` to simulated workers costs the driver; attempts are noted in an empty `folder`."""

    def run(name: str) -> int:
        catalog = Catalog(folder / name)
        catalog.create()
        loop = LeaseLoop(SimulatedWorkers(slots), AttemptLog(catalog), Halving(catalog))
        return sum(report.error is None for report in loop.run(units))

    # The collector walks whatever else this process holds; tracing is slow: so time and memory are of two runs.
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
