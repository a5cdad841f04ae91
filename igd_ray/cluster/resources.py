"""What an actor asks of Ray, and which device that gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from igd_ray.errors import InputError


@dataclass(frozen=True)
class ActorPlan:
    """How many actors, each with which share of the cluster."""

    actors: int
    num_cpus: float
    num_gpus: float


def plan_actors(cluster: Mapping[str, float], *, actors: int | None = None, device: str = "auto") -> ActorPlan:
    """Decide on actors for a cluster with resources `cluster`, as `ray.cluster_resources()` gives them.

    With GPUs, an actor a GPU; without, an actor a CPU. More `actors` than that share the GPUs or CPUs.

    Raises:
        InputError: if there is no CPU, no GPU where `device` is "cuda", or fewer than one actor was asked for.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if device == "cuda" and gpus < 1:
        raise InputError("--device cuda: the Ray cluster has no GPU; use --device cpu or add a GPU node")
    if device == "cpu":
        gpus = 0.0
    if cpus < 1:
        raise InputError("the Ray cluster has no CPU for actors; wait for a worker node, or start one")
    if actors is None:
        actors = int(gpus) if gpus >= 1 else int(cpus)
    if actors < 1:
        raise InputError(f"actors must be at least 1, not {actors}")
    return ActorPlan(actors, num_cpus=_share(cpus, actors), num_gpus=_share(gpus, actors) if gpus >= 1 else 0.0)


def _share(total: float, actors: int) -> float:
    """One unit each where there are enough, else an equal fraction, rounded down so that all fit."""
    return 1.0 if actors <= total else int(total / actors * 100) / 100


def allocated_device(accelerator_ids: Mapping[str, Sequence[str]]) -> str:
    """Return the device of an actor whose allocation is `accelerator_ids`, as its runtime context gives them.

    Ray hides the GPUs of other actors, so the allocated one is the first visible. Availability on the machine says
    nothing about what was allocated.
    """
    return "cuda:0" if accelerator_ids.get("GPU") else "cpu"
