"""Workers on Ray: actors that hold a model replica each, as many as the cluster has room for."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import Died, Event, Ready, Reported
from igd_ray.cluster.resources import ActorPlan, allocated_device, plan_actors, share_of_gpu
from igd_ray.cluster.shipping import Parcel, pack, unpack
from igd_ray.cluster.storage import CatalogKeeper, KeptCatalog, StorageCheck, answer
from igd_ray.errors import FOREIGN_MESSAGE_LENGTH, IgdError, InputError, first_line
from igd_ray.pipeline.setup import ImageArrays, WorkerSetup
from igd_ray.pipeline.unit import Unit, UnitReport, host_name
from igd_ray.pipeline.worker import Worker

# How often the driver looks whether nodes have joined or left.
SECONDS_BETWEEN_LOOKS = 2.0

# Workers that die one after another before their first unit: then none will start.
MOST_FAILED_STARTS = 6


@dataclass(frozen=True)
class Placement:
    """Where a worker runs, as it sees it.

    Attributes:
        process, host: the process, and the machine's name.
        device: "cpu" or "cuda:0".
        accelerators: ids by kind, as Ray allocated them.
        memory: of its GPU, in bytes; 0 on a CPU.
    """

    process: int
    host: str
    device: str
    accelerators: dict[str, list[str]]
    memory: int


class WorkerActor:
    """A worker in an actor: one replica on the device that Ray allocated."""

    def __init__(self, setup: WorkerSetup, share_of_gpu: float) -> None:
        import ray

        context = ray.get_runtime_context()
        self._setup = setup
        self._accelerators = {name: list(ids) for name, ids in context.get_accelerator_ids().items()}
        self._device = allocated_device(self._accelerators)
        if self._device != "cpu" and share_of_gpu < 1:
            import torch

            # Ray counts shares of a GPU, but limits nobody to them.
            torch.cuda.set_per_process_memory_fraction(share_of_gpu, 0)

    def begin(self, worker: int, images: list[Any], parcels: list[Parcel], question: tuple[str, str]) -> Placement:
        """Take images and files from the object store, and show whether this node shares the driver's storage."""
        import ray

        arrays: dict[str, ImageArrays] = ray.get(images[0])
        self._setup = self._setup.with_files(unpack(ray, parcels))
        self._setup.images.update(arrays)
        self._worker = Worker(self._setup, self._device)
        answer(Catalog(self._setup.catalog), question, worker)
        return Placement(os.getpid(), host_name(), self._device, self._accelerators, device_memory(self._device))

    def commit_through(self, keeper: Any) -> None:
        """Read and commit on the driver's node from now on."""
        self._worker = Worker(self._setup, self._device, KeptCatalog(self._setup.catalog, keeper))

    def run(self, unit: Unit, attempt: int) -> UnitReport:
        """Compute and commit `unit`."""
        return self._worker.run(unit, attempt)


def device_memory(device: str) -> int:
    """Return the bytes of memory of a GPU; 0 for "cpu", and where there is a GPU in name only."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.get_device_properties(device).total_memory


@dataclass(frozen=True)
class Call:
    """An answer that is waited for: of which worker, and to which unit; None while the worker begins."""

    worker: int
    unit: Unit | None


class RayWorkers:
    """The actors of one run.

    Args:
        ray: the module, connected to a cluster.
        setup: what every worker is built from; images and files go to the object store once.
        check: finds out which workers share the driver's storage.
        actors, device: as `plan_actors` takes them.
        elastic: the cluster may grow: wait for room rather than share what there is now.
    """

    def __init__(
        self, ray: Any, setup: WorkerSetup, check: StorageCheck, *, actors: int | None, device: str, elastic: bool
    ) -> None:
        self._ray = ray
        self._check = check
        self._asked, self._device, self._elastic = actors, device, elastic
        self._catalog = setup.catalog
        self._images = [ray.put(setup.images)]
        self._parcels = pack(ray, setup.files())
        self._setup = ray.put(setup.without_images())
        self._actors: dict[int, Any] = {}
        self._shares: dict[int, float] = {}
        self._share = 1.0
        # Whether a share of a GPU has been too small once.
        self._needs_all = False
        self._calls: dict[Any, Call] = {}
        self._keeper: Any = None
        self._started = 0
        self._failed_starts = 0
        self._looked = 0.0
        self.placements: dict[int, Placement] = {}
        self.plan = self._look()

    def grow(self) -> None:
        """Start the actors that there is room for, and replace those that are gone."""
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self.plan = self._look()
        while len(self._actors) < self.plan.actors:
            self._start()

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        """Have an idle worker run `unit`."""
        self._calls[self._actors[worker].run.remote(unit, attempt)] = Call(worker, unit)

    def events(self, timeout: float) -> Sequence[Event]:
        """Return what has happened, waiting at most `timeout` seconds for something to happen.

        Raises:
            IgdError: if no worker can start.
        """
        timeout = min(timeout, SECONDS_BETWEEN_LOOKS)
        if not self._calls:
            time.sleep(timeout)
            return []
        references = list(self._calls)
        answered, waiting = self._ray.wait(references, num_returns=1, timeout=timeout)
        if answered and waiting:
            answered += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return [event for reference in answered for event in self._events_of(reference)]

    def end(self, worker: int) -> None:
        """Kill a worker; no event of it follows."""
        self._ray.kill(self._actors[worker])
        self._forget(worker)

    def close(self) -> None:
        """Kill all workers."""
        for worker in list(self._actors):
            self.end(worker)
        if self._keeper is not None:
            self._ray.kill(self._keeper)
            self._keeper = None

    def _look(self) -> ActorPlan:
        self._looked = time.monotonic()
        resources = self._ray.cluster_resources()
        return plan_actors(resources, actors=self._asked, device=self._device, elastic=self._elastic, share=self._share)

    def _start(self) -> None:
        plan = self.plan
        remote = self._ray.remote(WorkerActor).options(
            num_cpus=plan.num_cpus, num_gpus=plan.num_gpus, max_restarts=0, max_task_retries=0
        )
        worker = self._started
        self._started += 1
        self._shares[worker] = plan.num_gpus
        actor = self._actors[worker] = remote.remote(self._setup, plan.num_gpus)
        begun = actor.begin.remote(worker, self._images, self._parcels, self._check.ask())
        self._calls[begun] = Call(worker, None)

    def _events_of(self, reference: Any) -> list[Event]:
        event = self._event(reference)
        if event is None:
            return []
        if not isinstance(event, Reported) or not event.report.memory:
            return [event]
        worker, report = event.worker, event.report
        if report.out_of_memory and self._shares[worker] < 1:
            # A whole GPU may be enough: only there is a unit split.
            self._needs_all, self._share = True, 1.0
            self.plan = self._look()
            self.end(worker)
            return [Died(worker, "a share of a GPU was not enough", "lost")]
        if self._share == 1 and not self._needs_all:
            self._share = share_of_gpu(report.memory, self.placements[worker].memory)
            self.plan = self._look()
        if self._shares[worker] == self.plan.num_gpus:
            return [event]
        # It makes room for actors that take another share.
        self.end(worker)
        return [event, Died(worker, "replaced")]

    def _event(self, reference: Any) -> Event | None:
        call = self._calls.pop(reference, None)
        if call is None:  # of a worker that was ended since
            return None
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            if call.unit is None:
                self.end(call.worker)
                return self._not_started(call.worker, error.cause)
            # The worker turns its own exceptions into reports: this one came from around it.
            return Reported(call.worker, _failure(call.unit, error.cause))
        except errors.RayError as error:
            # Whether or not the actor still runs somewhere, nobody waits for it any more.
            self.end(call.worker)
            if call.unit is None:
                return self._not_started(call.worker, error)
            return Died(call.worker, _reason(error), self._outcome(error))
        if call.unit is None:
            return self._begun(call.worker, answer)
        return Reported(call.worker, answer)

    def _outcome(self, error: Exception) -> Literal["crashed", "lost", "memory"]:
        # Of actors, Ray says the cause in words only.
        if isinstance(error, self._ray.exceptions.OutOfMemoryError) or "OUT_OF_MEMORY" in str(error):
            return "memory"
        return "lost" if "its node has died" in str(error) or "preempted" in str(error) else "crashed"

    def _begun(self, worker: int, placement: Placement) -> Ready:
        self._failed_starts = 0
        self.placements[worker] = placement
        if not self._check.confirms(worker):
            self._actors[worker].commit_through.remote(self._kept())
        return Ready(worker, placement.process, placement.host)

    def _not_started(self, worker: int, error: Exception) -> Died:
        if isinstance(error, InputError):
            raise error
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise IgdError(f"no worker can start, {type(error).__name__}: {first_line(error)}")
        return Died(worker, str(error))

    def _kept(self) -> Any:
        """Return the keeper of the catalog, on this node."""
        if self._keeper is None:
            here = self._ray.get_runtime_context().get_node_id()
            strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            remote = self._ray.remote(CatalogKeeper).options(num_cpus=0, scheduling_strategy=strategy)
            self._keeper = remote.remote(self._catalog)
        return self._keeper

    def _forget(self, worker: int) -> None:
        self._actors.pop(worker, None)
        self._shares.pop(worker, None)
        self.placements.pop(worker, None)
        for reference in [reference for reference, call in self._calls.items() if call.worker == worker]:
            del self._calls[reference]


def _reason(error: Exception) -> str:
    """Return the line of Ray's message that says why an actor is gone."""
    lines = [line for line in str(error).splitlines() if line.startswith("The actor is dead because")]
    return lines[0][:FOREIGN_MESSAGE_LENGTH] if lines else f"{type(error).__name__}: {first_line(error)}"


def _failure(unit: Unit, error: Exception) -> UnitReport:
    message = f"the worker failed: {type(error).__name__}: {first_line(error)}"
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, message)
