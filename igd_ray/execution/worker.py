"""The worker: runs units on a model replica. A plain class, which the cluster wraps in an actor."""

from dataclasses import replace

import torch

from igd_ray.catalog import Catalog
from igd_ray.units.base import Unit, UnitReport, execute, reproducible
from igd_ray.units.replica import Context, WorkerSetup


class Worker:
    """Runs units one at a time on its own replica."""

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
