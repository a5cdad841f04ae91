"""The resources that an actor requests from Ray, and the device that it gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from igd_ray.errors import InputError

# GPU memory that a process takes before it computes anything, and the most actors that may share one GPU.
CUDA_BYTES = 700 * 2**20
MOST_ON_A_GPU = 8


@dataclass(frozen=True)
class ActorPlan:
    """The number of actors, and the resources that each requests."""

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
    """Plan the actors for a cluster with resources `cluster`, as `ray.cluster_resources()` gives them.

    With GPUs there is one actor per GPU, without GPUs one actor per CPU. More `actors` than that share the GPUs or
    CPUs. If an actor needs only a `share` of a GPU and `actors` is None, there are as many as GPUs and CPUs have room
    for.

    On an `elastic` cluster each actor requests a whole CPU, and a whole GPU or that `share`, and waits for nodes to
    join: an autoscaler acts on these requests. If `actors` is None, one more actor than there is room for is requested,
    so that the cluster grows node by node while there are units. Once `gpus_seen`, "auto" does not fall back to CPUs
    when GPUs are lost, but waits for GPUs.

    >>> plan_actors({"CPU": 4.0, "GPU": 2.0})
    ActorPlan(actors=2, num_cpus=1.0, num_gpus=1.0)
    >>> plan_actors({"CPU": 2.0}, actors=4)
    ActorPlan(actors=4, num_cpus=0.5, num_gpus=0.0)

    Raises:
        InputError: if `actors` is less than 1; or, unless `elastic`, if the cluster has no CPU, or no GPU where
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
    """Return how many actors with one CPU and a `share` of a GPU fit; at least one per GPU."""
    return max(int(gpus), min(int(gpus) * int(1 / share), int(cpus)))


def _share(total: float, actors: int) -> float:
    """Return 1 if there is one for each actor, else an equal fraction, rounded down so that all fit."""
    return 1.0 if actors <= total else int(total / actors * 100) / 100


def share_of_gpu(peak: int, total: int) -> float:
    """Return the share of a GPU, in (0, 1], for an actor whose units took at most `peak` of `total` bytes.

    The share covers 1.25 times the peak and the memory that CUDA itself takes. At most `MOST_ON_A_GPU` actors share a
    GPU.

    >>> share_of_gpu(peak=4 * 2**30, total=80 * 2**30), share_of_gpu(peak=40 * 2**30, total=80 * 2**30)
    (0.12, 1.0)
    """
    needed = (peak * 1.25 + CUDA_BYTES) / total
    together = min(MOST_ON_A_GPU, int(1 / needed))
    return int(100 / together) / 100 if together > 1 else 1.0


def allocated_device(accelerator_ids: Mapping[str, Sequence[str]]) -> str:
    """Return the device of an actor whose allocation is `accelerator_ids`, as its runtime context gives them.

    Ray hides the GPUs of other actors, so the allocated GPU is the first visible one. The GPUs of the machine do not
    tell which was allocated.
    """
    return "cuda:0" if accelerator_ids.get("GPU") else "cpu"
