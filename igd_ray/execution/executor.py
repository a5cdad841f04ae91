"""Executors: the interface, and the executor in this process."""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

import torch

from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.execution.attempts import AttemptLog, outcome_of
from igd_ray.execution.queue import Halving, ReadyQueue
from igd_ray.execution.worker import Worker
from igd_ray.search import Sampler
from igd_ray.units.base import Unit, UnitReport, host_name
from igd_ray.units.objective import Record, Source, search_here
from igd_ray.units.replica import WorkerSetup


class Executor(Protocol):
    """Runs units, each after those that it needs, and yields a report for each that is committed or has failed."""

    def __enter__(self) -> Self:
        """Start the workers."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
