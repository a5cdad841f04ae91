"""Where units run: the interface, and its in-process twin."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import torch

from igd_ray.pipeline.objective import ObjectiveSource, Record, search_here
from igd_ray.pipeline.setup import WorkerSetup
from igd_ray.pipeline.unit import Unit, UnitReport
from igd_ray.pipeline.worker import Worker
from igd_ray.search import Sampler


class Executor(Protocol):
    """Runs units that do not need each other, in any order, and reports each when it is committed or has failed."""

    def __enter__(self) -> Self:
        """Start what is needed."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was started; committed units stay."""
        ...

    def run(self, units: Sequence[Unit]) -> Iterator[UnitReport]:
        """Run `units`."""
        ...

    def search(self, source: ObjectiveSource, sampler: Sampler, record: Record) -> None:
        """Run the trials that `sampler` asks for, and `record` each in this process before its answer counts."""
        ...


class LocalExecutor:
    """Runs units one after another in this process."""

    def __init__(self, setup: WorkerSetup, *, device: str | None = None) -> None:
        self._setup = setup
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        """Make the worker; it loads its replica with the first unit."""
        self._worker = Worker(self._setup, self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the replica."""
        self._worker = None

    def run(self, units: Sequence[Unit]) -> Iterator[UnitReport]:
        """Run `units` in the order given."""
        assert self._worker is not None
        for unit in units:
            yield self._worker.run(unit)

    def search(self, source: ObjectiveSource, sampler: Sampler, record: Record) -> None:
        """Run the trials one after another."""
        search_here(source, sampler, record)
