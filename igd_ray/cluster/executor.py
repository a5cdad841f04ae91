"""Units leased one at a time to actors, each holding a model replica."""

import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from igd_ray.cluster.resources import ActorPlan, allocated_device, plan_actors
from igd_ray.cluster.session import ray_session
from igd_ray.cluster.tuning import search_with_tune
from igd_ray.errors import first_line
from igd_ray.pipeline.objective import ObjectiveSource, Record
from igd_ray.pipeline.setup import ImageArrays, WorkerSetup
from igd_ray.pipeline.unit import Unit, UnitReport
from igd_ray.pipeline.worker import Worker
from igd_ray.search import Sampler

# A unit whose actor died this often is given up: it is likelier to be the cause than a victim.
MOST_CRASHES = 3

# Without any worker, say so this often.
SECONDS_BEFORE_NOTICE = 15.0


class WorkerActor:
    """A worker in an actor: one replica on the device that Ray allocated."""

    def __init__(self, setup: WorkerSetup) -> None:
        import ray

        context = ray.get_runtime_context()
        self._accelerators = {name: list(ids) for name, ids in context.get_accelerator_ids().items()}
        self._setup = setup
        self._worker = Worker(setup, allocated_device(self._accelerators))

    def placement(self) -> tuple[str, dict[str, list[str]]]:
        """Return the worker's device and the accelerators that Ray allocated."""
        return self._worker.device, self._accelerators

    def process_id(self) -> int:
        """Return the process that this actor runs in."""
        return os.getpid()

    def run(self, unit: Unit, images: list[Any]) -> UnitReport:
        """Compute and commit `unit`.

        Args:
            unit: what to run.
            images: a reference to the setup's images, in a list so that Ray passes the reference on. It comes with
                every call because a restarted actor has lost what an earlier call gave it.
        """
        if not self._setup.images:
            import ray

            arrays: dict[str, ImageArrays] = ray.get(images[0])
            self._setup.images.update(arrays)
        return self._worker.run(unit)


class RayExecutor:
    """Runs units on Ray actors; a unit whose actor dies is leased again to another.

    Args:
        setup: what every worker is built from; its images go to the object store once.
        actors: how many; one a GPU, or one a CPU, by default.
        device: "auto" takes GPUs where the cluster has some, "cpu" none, "cuda" only GPUs.
        num_gpus: logical GPUs of a local Ray; the machine's by default.
    """

    def __init__(
        self, setup: WorkerSetup, *, actors: int | None = None, device: str = "auto", num_gpus: int | None = None
    ) -> None:
        self._setup = setup
        self._device = device
        self._asked = actors
        self._num_gpus = num_gpus
        self._stack = ExitStack()
        self._actors: list[Any] = []
        self.plan: ActorPlan | None = None

    def __enter__(self) -> Self:
        """Start Ray, or attach to it, and the actors."""
        with ExitStack() as stack:
            ray = self._ray = stack.enter_context(ray_session(num_gpus=self._num_gpus))
            self.plan = plan_actors(ray.cluster_resources(), actors=self._asked, device=self._device)
            self._images = [ray.put(self._setup.images)]
            remote = ray.remote(WorkerActor).options(
                num_cpus=self.plan.num_cpus, num_gpus=self.plan.num_gpus, max_restarts=-1, max_task_retries=0
            )
            bare = self._setup.without_images()
            self._actors = [remote.remote(bare) for _ in range(self.plan.actors)]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the actors, and Ray if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self._stack.close()

    def placements(self) -> list[tuple[str, dict[str, list[str]]]]:
        """Return each actor's device and allocated accelerators."""
        placed: list[tuple[str, dict[str, list[str]]]] = self._ray.get(
            [actor.placement.remote() for actor in self._actors]
        )
        return placed

    def run(self, units: Sequence[Unit]) -> Iterator[UnitReport]:
        """Run `units`, one in flight an actor, so that a crash has one suspect."""
        ray = self._ray
        waiting = deque(units)
        idle: list[Any] = []
        # An actor takes units once it has answered: one that waits for resources would hold its unit for ever.
        starting = {actor.process_id.remote(): actor for actor in self._actors}
        leases: dict[Any, tuple[Any, Unit]] = {}
        crashes: Counter[str] = Counter()
        try:
            while waiting or leases:
                while waiting and idle:
                    actor, unit = idle.pop(), waiting.popleft()
                    leases[actor.run.remote(unit, self._images)] = actor, unit
                pending = [*leases, *starting]
                answered, _ = ray.wait(pending, num_returns=1, timeout=SECONDS_BEFORE_NOTICE)
                if not answered:
                    if not leases:
                        print("waiting for the Ray cluster to have room for a worker", file=sys.stderr, flush=True)
                    continue
                reference = answered[0]
                if reference in starting:
                    idle.append(starting.pop(reference))
                    continue
                actor, unit = leases.pop(reference)
                idle.append(actor)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    # The worker turns its own exceptions into reports: this one came from around it.
                    yield _failure(unit, error.cause)
                except ray.exceptions.RayError as error:
                    crashes[unit.key] += 1
                    if crashes[unit.key] < MOST_CRASHES:
                        waiting.append(unit)
                    else:
                        yield _failure(unit, error, f"its worker died {MOST_CRASHES} times")
        finally:
            for reference in [*leases, *starting]:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(reference)

    def search(self, source: ObjectiveSource, sampler: Sampler, record: Record) -> None:
        """Run the trials under Ray Tune, beside the actors."""
        search_with_tune(source, sampler, record)


def _failure(unit: Unit, error: Exception, what: str = "the worker failed") -> UnitReport:
    message = f"{what}: {type(error).__name__}: {first_line(error)}"
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, message)
