"""The executor on Ray: leases units one at a time to actors, each with a model replica."""

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Self

import torch

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import SECONDS_FOR_A_UNIT, LeaseLoop
from igd_ray.cluster.session import ray_session, require_usable
from igd_ray.cluster.storage import StorageCheck
from igd_ray.cluster.tuning import search_with_tune
from igd_ray.cluster.workers import RayWorkers
from igd_ray.errors import InputError
from igd_ray.execution.executor import AttemptLog
from igd_ray.execution.queue import Halving
from igd_ray.search import Sampler
from igd_ray.units.base import Unit, UnitReport
from igd_ray.units.objective import Record, Source
from igd_ray.units.replica import WorkerSetup


class RayExecutor:
    """Runs units on Ray actors; a unit whose actor dies is leased again to another.

    Args:
        setup: what every worker is built from; its images go to the object store once.
        actors: number of actors; by default one per GPU, or one per CPU; on a cluster that may grow one more, which
            waits for a node to join.
        device: "auto" uses GPUs if the cluster has or had some, "cpu" uses none, "cuda" uses only GPUs.
        num_gpus: logical GPUs of a local Ray; by default those of the machine.
        seconds: after how long a unit counts as hung; by default six hours.

    Raises:
        InputError: if RAY_ADDRESS cannot be used, or GPUs are asked of a local Ray on a machine without any.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        actors: int | None = None,
        device: str = "auto",
        num_gpus: int | None = None,
        seconds: float | None = None,
    ) -> None:
        address = os.environ.get("RAY_ADDRESS", "")
        require_usable(address)
        if device == "cuda" and not address and num_gpus is None and not torch.cuda.is_available():
            raise InputError("--device cuda: PyTorch sees no GPU here; use --device cpu")
        self._setup = setup
        self._device = device
        self._asked = actors
        self._num_gpus = num_gpus
        self._seconds = SECONDS_FOR_A_UNIT if seconds is None else seconds
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start Ray, or attach to it; actors start with the first units."""
        with ExitStack() as stack:
            ray = stack.enter_context(ray_session(num_gpus=self._num_gpus))
            catalog = Catalog(self._setup.catalog)
            check = stack.enter_context(StorageCheck(catalog))
            # A cluster named by RAY_ADDRESS may grow; a local Ray has only this machine.
            elastic = bool(os.environ.get("RAY_ADDRESS"))
            self.workers = RayWorkers(ray, self._setup, check, actors=self._asked, device=self._device, elastic=elastic)
            stack.callback(self.workers.close)
            self._loop = LeaseLoop(self.workers, AttemptLog(catalog), Halving(catalog), seconds=self._seconds)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the actors, and Ray if it was started here."""
        self._stack.close()

    def run(self, units: Sequence[Unit]) -> Generator[UnitReport, None, None]:
        """Run `units`, each after those that it needs, one at a time per actor."""
        return self._loop.run(units)

    def search(self, source: Source, sampler: Sampler, record: Record) -> None:
        """Run the trials under Ray Tune, beside the actors."""
        search_with_tune(source, sampler, record)
