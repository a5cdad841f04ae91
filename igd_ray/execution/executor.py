"""Executors: the interface, the one in this process, its worker on a model replica, and the record of attempts."""

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol, Self

import torch

from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.execution.queue import Halving, ReadyQueue
from igd_ray.search import Sampler
from igd_ray.units.base import Unit, UnitReport, execute, host_name, reproducible
from igd_ray.units.objective import Record, Source, search_here
from igd_ray.units.replica import Context, WorkerSetup


class Executor(Protocol):
    """Runs units, each after those that it needs, and yields a report for each that is committed or has failed."""

    def __enter__(self) -> Self:
        """Start the workers."""
        ...

    def __exit__(self, *_error: object) -> None:
        """Stop the workers; committed units stay."""
        ...

    def run(self, units: Sequence[Unit]) -> Generator[UnitReport, None, None]:
        """Run `units`, which may need each other; the first ones go first where they can.

        One that memory does not suffice for is reported with its number of parts, then they are. Where one fails,
        those that need it are not run, and reported as failed, too.

        Raises:
            IgdError: if units need each other in a circle.
        """
        ...

    def search(self, source: Source, sampler: Sampler, record: Record) -> None:
        """Run the trials that `sampler` proposes, and `record` each in this process before the sampler is told."""
        ...


class LocalExecutor:
    """Runs units one after another in this process."""

    def __init__(self, setup: WorkerSetup, *, device: str = "cpu") -> None:
        self._setup = setup
        self._device = device
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        """Make the worker, which loads its replica with the first unit."""
        self._worker = Worker(self._setup, self._device)
        return self

    def __exit__(self, *_error: object) -> None:
        """Release the replica."""
        self._worker = None

    def run(self, units: Sequence[Unit]) -> Generator[UnitReport, None, None]:
        """Run `units` in their order, each after those that it needs."""
        assert self._worker is not None
        catalog = Catalog(self._setup.catalog)
        halving, log = Halving(catalog), AttemptLog(catalog)
        queue = ReadyQueue(units)
        try:
            while (unit := queue.take()) is not None:
                parts = halving.fitting(unit)
                if parts == [unit]:
                    attempt = log.start(unit, worker=os.getpid(), host=host_name())
                    log.flush_if_due()
                    report = self._worker.run(unit, attempt)
                    parts = halving.halve(unit) if report.out_of_memory else []
                    log.end(unit.key, outcome_of(report, parts), report.error)
                else:
                    report = UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0)
                if parts:
                    queue.replace(unit, parts)
                    yield replace(report, error=None, parts=len(parts))
                else:
                    yield from queue.settle(report)
        finally:
            log.close()

    def search(self, source: Source, sampler: Sampler, record: Record) -> None:
        """Run the trials one after another."""
        search_here(source, sampler, record)


def in_process(device: str) -> Callable[[WorkerSetup], LocalExecutor]:
    """Return what makes an executor in this process, on `device`: "auto", "cpu" or "cuda".

    Raises:
        InputError: if this machine does not have it.
    """
    found = local_device(device)
    return lambda setup: LocalExecutor(setup, device=found)


def local_device(device: str) -> str:
    """Return the device of this process that `device`, "auto", "cpu" or "cuda", asks for.

    Raises:
        InputError: if there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


class Worker:
    """Runs units one at a time on its own replica; a plain class, which the cluster wraps in an actor."""

    def __init__(self, setup: WorkerSetup, device: str = "cpu", catalog: Catalog | None = None) -> None:
        self._context = Context(setup, device, catalog)

    @property
    def device(self) -> str:
        """The device of the replica."""
        return self._context.device

    def run(self, unit: Unit, attempt: int = 1) -> UnitReport:
        """Compute and commit `unit`; `attempt` counts from 1."""
        on_gpu = self.device.startswith("cuda")
        if on_gpu:
            # Free the memory that earlier units or a failed attempt left cached, and measure this unit alone.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with reproducible():
            report = execute(unit, self._context, attempt)
        return replace(report, memory=torch.cuda.max_memory_reserved()) if on_gpu else report


ATTEMPTS = "attempts"


# Most of the driver's time that writing may take, as a share, however slow the storage is.
SHARE_OF_TIME = 0.05


# A running attempt is confirmed this often. After two minutes without that, the view `attempts` shows it as lost.
SECONDS_BETWEEN_SIGNS = 30.0


# Most attempts per file. The newest file is written again whenever an attempt starts or ends; full files stay.
ROWS_OF_A_FILE = 2000


def outcome_of(report: UnitReport, parts: Sequence[Unit]) -> str:
    """Return the outcome of an attempt from its `report` and the `parts` that replace its unit."""
    return "split" if parts else "done" if report.error is None else "error"


class AttemptLog:
    """The attempts of one executor, in files that only it writes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._session = uuid.uuid4().hex[:12]
        self._earlier: Counter[str] | None = None
        self._running: dict[str, dict[str, object]] = {}
        self._ended: list[dict[str, object]] = []
        self._file = 0
        self._dirty = False
        self._written = time.monotonic()
        self._cost = 0.0

    def start(self, unit: Unit, *, worker: int, host: str) -> int:
        """Record that `unit` starts on the process `worker` of `host`; return the number of this attempt, from 1."""
        if self._earlier is None:
            self._earlier = self._count()
        self._earlier[unit.key] += 1
        attempt = self._earlier[unit.key]
        self._running[unit.key] = {
            "unit_key": unit.key,
            "kind": unit.kind,
            "attempt": attempt,
            "session": self._session,
            "worker": worker,
            "host": host,
            "started_at": datetime.now(UTC),
            "ended_at": None,
            "outcome": None,
            "error": None,
        }
        self._dirty = True
        return attempt

    def end(self, key: str, outcome: str, error: str | None = None) -> int:
        """Record how the running attempt at the unit `key` ended; return its number."""
        row = self._running.pop(key)
        self._ended.append({**row, "ended_at": datetime.now(UTC), "outcome": outcome, "error": error})
        self._dirty = True
        assert self._earlier is not None
        return self._earlier[key]

    @property
    def seconds_until_due(self) -> float:
        """Seconds until `flush_if_due` writes."""
        if len(self._ended) >= ROWS_OF_A_FILE:
            return 0.0
        pause = self._cost / SHARE_OF_TIME if self._dirty else SECONDS_BETWEEN_SIGNS
        return max(0.0, self._written + pause - time.monotonic())

    def flush_if_due(self) -> None:
        """Write what has changed, unless the last write is too recent; confirm running attempts from time to time."""
        if (self._dirty or self._running) and self.seconds_until_due == 0.0:
            self.flush()

    def flush(self) -> None:
        """Write the newest file of this session.

        Raises:
            IgdError: if it cannot be written.
        """
        started = time.monotonic()
        now = datetime.now(UTC)
        if len(self._ended) >= ROWS_OF_A_FILE:
            self._commit(self._ended, now)
            self._ended = []
            self._file += 1
        self._commit([*self._ended, *self._running.values()], now)
        self._dirty = False
        self._written = time.monotonic()
        self._cost = self._written - started

    def close(self) -> None:
        """Record running attempts as lost, and write everything."""
        for key in list(self._running):
            self.end(key, "lost")
        if self._dirty:
            self.flush()

    def _commit(self, rows: list[dict[str, object]], now: datetime) -> None:
        if rows:
            key = f"{self._session}-{self._file:04d}"
            self._catalog.commit(ATTEMPTS, key, [{**row, "seen_at": now} for row in rows], replace=True)

    def _count(self) -> Counter[str]:
        """Return the number of attempts of earlier sessions at each unit."""
        counts: Counter[str] = Counter()
        for key in self._catalog.keys(ATTEMPTS):
            rows = self._catalog.read_if_whole(ATTEMPTS, key)
            if rows is not None:
                counts.update(rows["unit_key"].to_pylist())
        return counts
