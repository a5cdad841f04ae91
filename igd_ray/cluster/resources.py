"""What an actor asks of Ray, and which device that gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from igd_ray.errors import InputError

# What a process takes on a GPU before it computes anything, and how many may share one.
CUDA_BYTES = 700 * 2**20
MOST_ON_A_GPU = 8


@dataclass(frozen=True)
class ActorPlan:
    """How many actors, each with which share of the cluster."""

    actors: int
    num_cpus: float
    num_gpus: float


def plan_actors(
    cluster: Mapping[str, float],
    *,
    actors: int | None = None,
    device: str = "auto",
    elastic: bool = False,
    share: float = 1.0,
    gpus_seen: bool = False,
) -> ActorPlan:
    """Decide on actors for a cluster with resources `cluster`, as `ray.cluster_resources()` gives them.

    With GPUs, an actor a GPU; without, an actor a CPU. More `actors` than that share the GPUs or CPUs. Where an actor
    needs but a `share` of a GPU and their number was not asked for, there are as many as GPUs and CPUs have room for.

    On an `elastic` cluster actors ask for whole CPUs, and whole GPUs or that `share`, and wait for nodes to join: what
    they ask for is what an autoscaler goes by. Unless told how many `actors`, one more than there is room for waits,
    so that the cluster grows as long as there are units, a node after the other. Once `gpus_seen`, "auto" takes no CPU
    again when GPUs are lost, but waits for them.

    Raises:
        InputError: if fewer than one actor was asked for, or, unless `elastic`, there is no CPU, or no GPU where
            `device` is "cuda".
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if actors is not None and actors < 1:
        raise InputError(f"actors must be at least 1, not {actors}")
    if elastic:
        on_gpus = device == "cuda" or (device == "auto" and (gpus >= 1 or gpus_seen))
        if actors is not None:
            return ActorPlan(actors, 1.0, 1.0 if on_gpus else 0.0)
        room = _room(cpus, gpus, share) if on_gpus else int(cpus)
        return ActorPlan(room + 1, 1.0, share if on_gpus else 0.0)
    if device == "cuda" and gpus < 1:
        raise InputError("--device cuda: the Ray cluster has no GPU; use --device cpu or add a GPU node")
    if device == "cpu":
        gpus = 0.0
    if cpus < 1:
        raise InputError("the Ray cluster has no CPU for actors; wait for a worker node, or start one")
    if share < 1 and actors is None and gpus >= 1:
        return ActorPlan(_room(cpus, gpus, share), 1.0, share)
    if actors is None:
        actors = int(gpus) if gpus >= 1 else int(cpus)
    return ActorPlan(actors, num_cpus=_share(cpus, actors), num_gpus=_share(gpus, actors) if gpus >= 1 else 0.0)


def _room(cpus: float, gpus: float, share: float) -> int:
    """How many actors with a CPU and a `share` of a GPU there is room for; at least one a GPU."""
    return max(int(gpus), min(int(gpus) * int(1 / share), int(cpus)))


def _share(total: float, actors: int) -> float:
    """One unit each where there are enough, else an equal fraction, rounded down so that all fit."""
    return 1.0 if actors <= total else int(total / actors * 100) / 100


def share_of_gpu(peak: int, total: int) -> float:
    """Return the share of a GPU that an actor needs whose units took at most `peak` of `total` bytes; 1 for all of it.

    A quarter more than measured, and room for what CUDA itself takes, so that at most `MOST_ON_A_GPU` share one.
    """
    needed = (peak * 1.25 + CUDA_BYTES) / total
    together = min(MOST_ON_A_GPU, int(1 / needed))
    return int(100 / together) / 100 if together > 1 else 1.0


def allocated_device(accelerator_ids: Mapping[str, Sequence[str]]) -> str:
    """Return the device of an actor whose allocation is `accelerator_ids`, as its runtime context gives them.

    Ray hides the GPUs of other actors, so the allocated one is the first visible. Availability on the machine says
    nothing about what was allocated.
    """
    return "cuda:0" if accelerator_ids.get("GPU") else "cpu"
