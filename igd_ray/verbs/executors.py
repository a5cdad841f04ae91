"""The executor that settings ask for; Ray is imported only when it is asked for."""

from igd_ray.config import WorkspaceSettings
from igd_ray.execution.executor import in_process
from igd_ray.execution.session import ExecutorFactory


def executor_for(settings: WorkspaceSettings) -> ExecutorFactory:
    """Return what makes the executor.

    Raises:
        InputError: for a device that this machine does not have.
    """
    if settings.executor == "local":
        return in_process(settings.device)
    from igd_ray.cluster import RayExecutor

    return lambda setup: RayExecutor(
        setup, actors=settings.actors, device=settings.device, seconds=settings.unit_timeout
    )
