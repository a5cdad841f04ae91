"""The worker: a model replica that runs units. A plain class; the cluster makes it remote where it places it."""

from dataclasses import replace

import torch

from igd_ray.catalog import Catalog
from igd_ray.units.base import Unit, UnitReport, execute
from igd_ray.units.replica import Context, WorkerSetup
from igd_ray.units.threads import reproducible


class Worker:
    """Runs units one at a time on its own replica."""

    def __init__(self, setup: WorkerSetup, device: str = "cpu", catalog: Catalog | None = None) -> None:
        self._context = Context(setup, device, catalog)

    @property
    def device(self) -> str:
        """Where the replica is."""
        return self._context.device

    def run(self, unit: Unit, attempt: int = 1) -> UnitReport:
        """Compute and commit `unit`, tried for the `attempt`-th time."""
        on_gpu = self.device.startswith("cuda")
        if on_gpu:
            # What earlier units, or a failed attempt, left cached counts for nothing and stands in nobody's way.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with reproducible():
            report = execute(unit, self._context, attempt)
        return replace(report, memory=torch.cuda.max_memory_reserved()) if on_gpu else report
