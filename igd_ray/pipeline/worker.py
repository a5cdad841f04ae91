"""The worker: a model replica that runs units. A plain class; the cluster makes it remote where it places it."""

from igd_ray.pipeline.setup import Context, WorkerSetup
from igd_ray.pipeline.threads import reproducible
from igd_ray.pipeline.unit import Unit, UnitReport, execute


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
        with reproducible():
            return execute(unit, self._context)
