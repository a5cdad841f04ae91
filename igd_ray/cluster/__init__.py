"""Ray: actors that hold model replicas and run units. The only package that imports ray."""

from igd_ray.cluster.executor import RayExecutor
from igd_ray.cluster.session import ray_session

__all__ = ["RayExecutor", "ray_session"]
