"""The lease loop: leases units to workers one at a time, and leases the units of lost workers again.

The loop does not import Ray: `Workers` is its interface to a cluster.
"""

import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from igd_ray.execution.executor import AttemptLog, outcome_of
from igd_ray.execution.queue import Halving, ReadyQueue
from igd_ray.units.base import Unit, UnitReport

# A unit whose worker died or hung this often is quarantined: the unit is the likely cause.
MOST_CRASHES = 3

# A unit that lost its node this often is quarantined, too. A long unit on spot nodes may lose some.
MOST_LOSSES = 10

# A unit that ends in an error runs this often in all, each time on another worker: the machine may be the cause.
MOST_ERRORS = 2

# A unit counts as hung after this long, unless a setting says otherwise: the longest published budgets take hours.
SECONDS_FOR_A_UNIT = 6 * 3600.0

# While there is no worker, a notice is printed this often.
SECONDS_BEFORE_NOTICE = 15.0


@dataclass(frozen=True)
class Ready:
    """A worker has started and accepts units.

    Attributes:
        worker: its number.
        process: id of its process.
        host: name of its machine.
    """

    worker: int
    process: int
    host: str


@dataclass(frozen=True)
class Reported:
    """A worker has finished its unit, with this report."""

    worker: int
    report: UnitReport


@dataclass(frozen=True)
class Died:
    """A worker is gone, and so is the lease of its unit if it had one.

    Attributes:
        outcome: "crashed"; "lost" if its node is gone, or the unit cannot be the cause for another reason; "memory"
            if the machine ran out of memory.
    """

    worker: int
    error: str
    outcome: Literal["crashed", "lost", "memory"] = "crashed"


Event = Ready | Reported | Died


class Workers(Protocol):
    """The workers that run leased units. Each worker has a number that is never used again."""

    def grow(self) -> None:
        """Start the planned workers, and replace those that are gone. The loop calls this while no worker is idle."""
        ...

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        """Make an idle worker run `unit`."""
        ...

    def events(self, timeout: float) -> Sequence[Event]:
        """Return the events since the last call; wait at most `timeout` seconds for one."""
        ...

    def end(self, worker: int) -> None:
        """Kill a worker, if it is still there; it causes no further event."""
        ...


@dataclass
class Lease:
    """A unit that a worker runs.

    Attributes:
        until: the time, by the monotonic clock, after which the unit counts as hung.
    """

    unit: Unit
    until: float


class LeaseLoop:
    """Runs units on workers, one at a time per worker, so that a crash has one possible cause.

    Args:
        workers: where units run.
        log: records every lease.
        halving: splits units that do not fit into memory.
        seconds: the longest that a unit may take before its worker is killed.
    """

    def __init__(
        self, workers: Workers, log: AttemptLog, halving: Halving, *, seconds: float = SECONDS_FOR_A_UNIT
    ) -> None:
        self._workers = workers
        self._log = log
        self._halving = halving
        self._seconds = seconds
        self._places: dict[int, Ready] = {}
        # The family of units that each idle worker ran last.
        self._idle: dict[int, str] = {}
        self._leases: dict[int, Lease] = {}

    def run(self, units: Iterable[Unit]) -> Generator[UnitReport, None, None]:
        """Run `units`, each after those that it needs, else in order; yield a report for each that is done or
        quarantined.

        Raises:
            IgdError: if units need each other in a circle.
        """
        self._queue = ReadyQueue(units)
        self._crashes: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._errors_in_a_row = 0
        quiet_since = time.monotonic()
        try:
            while self._queue:
                # An idle worker means that no further worker is needed.
                if not self._idle:
                    self._workers.grow()
                yield from self._assign()
                self._log.flush_if_due()
                for event in self._workers.events(self._pause()):
                    yield from self._handle(event)
                yield from self._end_overdue()
                if self._leases or self._idle:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since > SECONDS_BEFORE_NOTICE:
                    print(
                        "waiting for a worker: the cluster has no room yet, or the worker is loading",
                        file=sys.stderr,
                        flush=True,
                    )
                    quiet_since = time.monotonic()
        finally:
            # Workers that still run a unit are killed: nobody waits for their reports any more.
            for worker in list(self._leases):
                self._workers.end(worker)
                self._forget(worker)
            self._log.close()

    def _assign(self) -> Iterator[UnitReport]:
        """Lease ready units to idle workers."""
        while self._idle:
            worker = next(iter(self._idle))
            unit = self._queue.take(self._idle[worker])
            if unit is None:
                return
            parts = self._halving.fitting(unit)
            if parts != [unit]:
                yield self._divided(unit, parts, UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0))
                continue
            del self._idle[worker]
            place = self._places[worker]
            attempt = self._log.start(unit, worker=place.process, host=place.host)
            self._leases[worker] = Lease(unit, time.monotonic() + self._seconds)
            self._workers.lease(worker, unit, attempt)

    def _pause(self) -> float:
        """Return the seconds until the loop must act even without an event."""
        due = [lease.until - time.monotonic() for lease in self._leases.values()]
        return max(0.0, min([SECONDS_BEFORE_NOTICE, self._log.seconds_until_due, *due]))

    def _handle(self, event: Event) -> Iterator[UnitReport]:
        if isinstance(event, Ready):
            self._places[event.worker] = event
            self._idle[event.worker] = ""
        elif isinstance(event, Reported):
            if event.worker in self._leases:
                yield from self._reported(event)
        else:
            lease = self._forget(event.worker)
            if lease is not None:
                yield from self._interrupted(lease.unit, event.outcome, event.error)

    def _reported(self, event: Reported) -> Iterator[UnitReport]:
        unit = self._leases.pop(event.worker).unit
        report = event.report
        self._idle[event.worker] = unit.family
        parts = self._halving.halve(unit) if report.out_of_memory else []
        self._log.end(unit.key, outcome_of(report, parts), report.error)
        if parts:
            yield self._divided(unit, parts, report)
        elif report.error is not None and self._again(unit, self._errors, MOST_ERRORS):
            # The worker may be the cause, so it gets no further unit. If all workers fail in a row, it is not.
            self._errors_in_a_row += 1
            if self._errors_in_a_row <= len(self._places) + 1:
                self._workers.end(event.worker)
                self._forget(event.worker)
        else:
            if report.error is None:
                self._errors_in_a_row = 0
            yield from self._queue.settle(report)

    def _interrupted(self, unit: Unit, outcome: str, error: str) -> Iterator[UnitReport]:
        """Put a unit that lost its worker back into the queue, or quarantine it."""
        parts = self._halving.halve(unit) if outcome == "memory" else []
        noted = "split" if parts else "crashed" if outcome == "memory" else outcome
        attempt = self._log.end(unit.key, noted, error)
        report = UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, error, attempt)
        if parts:
            yield self._divided(unit, parts, report)
            return
        counts, most = (self._losses, MOST_LOSSES) if outcome == "lost" else (self._crashes, MOST_CRASHES)
        if not self._again(unit, counts, most):
            what = {"lost": "was lost", "timeout": "was hung or died"}.get(outcome, "died")
            error = f"quarantined: its worker {what} {most} times, last: {error}"
            yield from self._queue.settle(replace(report, error=error))

    def _again(self, unit: Unit, counts: Counter[str], most: int) -> bool:
        counts[unit.key] += 1
        if counts[unit.key] == most:
            return False
        # If the unit may be the cause, it goes to the end of the queue, so that a bad node does not get it at once.
        self._queue.put_back(unit, last=counts is not self._losses)
        return True

    def _divided(self, unit: Unit, parts: Sequence[Unit], report: UnitReport) -> UnitReport:
        self._queue.replace(unit, parts)
        return replace(report, error=None, parts=len(parts))

    def _end_overdue(self) -> Iterator[UnitReport]:
        now = time.monotonic()
        for worker, lease in list(self._leases.items()):
            if lease.until <= now:
                self._workers.end(worker)
                self._forget(worker)
                message = f"not finished after {self._seconds:g} s"
                yield from self._interrupted(lease.unit, "timeout", message)

    def _forget(self, worker: int) -> Lease | None:
        self._places.pop(worker, None)
        self._idle.pop(worker, None)
        return self._leases.pop(worker, None)
