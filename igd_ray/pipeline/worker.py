"""The worker: a model replica that runs units. A plain class; the cluster makes it remote where it places it."""

import torch

from igd_ray.pipeline.setup import Context, WorkerSetup
from igd_ray.pipeline.unit import Unit, UnitReport, execute

# Every worker computes with one thread: kernels may sum in another order with more, and the numbers would then
# depend on the machine. Parallelism comes from more workers.
THREADS = 1


class Worker:
    """Runs units one at a time on its own replica."""

    def __init__(self, setup: WorkerSetup, device: str = "cpu") -> None:
        self._context = Context(setup, device)

    @property
    def device(self) -> str:
        """Where the replica is."""
        return self._context.device

    def run(self, unit: Unit) -> UnitReport:
        """Compute and commit `unit`."""
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            return execute(unit, self._context)
        finally:
            torch.set_num_threads(threads)
