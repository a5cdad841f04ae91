"""The executor that settings ask for; Ray is imported only when it is asked for."""

from igd_ray.config import StudySettings
from igd_ray.planning.workspace import ExecutorFactory


def executor_for(settings: StudySettings) -> ExecutorFactory | None:
    """Return what makes Ray's executor, or None for the one in this process."""
    if settings.executor == "local":
        return None
    from igd_ray.cluster import RayExecutor

    return lambda setup: RayExecutor(
        setup, actors=settings.actors, device=settings.device, seconds=settings.unit_timeout
    )
