"""Workers on Ray: actors with one model replica each, as many as the cluster has room for."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import Died, Event, Ready, Reported
from igd_ray.cluster.resources import ActorPlan, allocated_device, plan_actors, share_of_gpu
from igd_ray.cluster.shipping import Parcel, pack, unpack
from igd_ray.cluster.storage import CatalogKeeper, KeptCatalog, StorageCheck, answer
from igd_ray.errors import FOREIGN_MESSAGE_LENGTH, IgdError, InputError, first_line
from igd_ray.execution.executor import Worker
from igd_ray.units.base import BrokenWorkerError, Unit, UnitReport, host_name
from igd_ray.units.replica import ImageArrays, WorkerSetup

# How often the driver checks whether nodes have joined or left.
SECONDS_BETWEEN_LOOKS = 2.0

# After so many failed starts in a row without a ready worker, the run fails.
MOST_FAILED_STARTS = 6

# The pause after a failed start; it doubles with each failure, up to the second value.
SECONDS_BEFORE_START, MOST_SECONDS_BEFORE_START = 0.5, 60.0

# Time for a worker to get its files and to reach the catalog, once its process runs: lost storage may never answer.
SECONDS_TO_BEGIN = 15 * 60.0

# Time for the keeper of the catalog to start and answer.
SECONDS_FOR_KEEPER = 60.0


@dataclass(frozen=True)
class Placement:
    """Where a worker runs, as the worker itself reports.

    Attributes:
        process: id of its process.
        host: name of its machine.
        device: "cpu" or "cuda:0".
        accelerators: ids by kind, as Ray allocated them.
        memory: memory of its GPU, in bytes; 0 on a CPU.
    """

    process: int
    host: str
    device: str
    accelerators: dict[str, list[str]]
    memory: int


class WorkerActor:
    """An actor that is a worker: one replica on the device that Ray allocated."""

    def __init__(self, setup: WorkerSetup, share_of_gpu: float) -> None:
        import ray

        context = ray.get_runtime_context()
        self._setup = setup
        self._accelerators = {name: list(ids) for name, ids in context.get_accelerator_ids().items()}
        self._device = allocated_device(self._accelerators)
        if self._device != "cpu" and share_of_gpu < 1:
            import torch

            # Ray counts shares of a GPU but does not enforce them.
            torch.cuda.set_per_process_memory_fraction(share_of_gpu, 0)

    def place(self) -> Placement:
        """Return where this worker runs; an answer means that the cluster had room for it."""
        return Placement(os.getpid(), host_name(), self._device, self._accelerators, device_memory(self._device))

    def begin(self, worker: int, images: list[Any], parcels: list[Parcel], question: tuple[str, str]) -> None:
        """Get images and files from the object store, and answer the question about the driver's storage."""
        import ray

        arrays: dict[str, ImageArrays] = ray.get(images[0])
        self._setup = self._setup.with_files(unpack(ray, parcels))
        self._setup.images.update(arrays)
        # A node that cannot open the catalog, for example without credentials, does not answer: the driver's node
        # commits.
        with suppress(InputError):
            answer(Catalog(self._setup.catalog), question, worker)

    def serve(self, keeper: Any | None) -> None:
        """Accept units; with a `keeper`, read and commit through it, on the driver's node."""
        catalog = None if keeper is None else KeptCatalog(self._setup.catalog, keeper)
        self._worker = Worker(self._setup, self._device, catalog)

    def run(self, unit: Unit, attempt: int) -> UnitReport:
        """Compute and commit `unit`."""
        return self._worker.run(unit, attempt)


def device_memory(device: str) -> int:
    """Return the memory of a GPU in bytes; 0 for "cpu", and for a logical GPU without hardware."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.get_device_properties(device).total_memory


@dataclass(frozen=True)
class Call:
    """A call of an actor whose answer is pending.

    Attributes:
        worker: number of the worker.
        unit: the unit that it runs; None while the worker starts.
        placement: where the worker starts; None until it has room.
        until: the time, by the monotonic clock, after which the worker counts as hung.
    """

    worker: int
    unit: Unit | None = None
    placement: Placement | None = None
    until: float = math.inf


class RayWorkers:
    """The actors of one run.

    Args:
        ray: the module, connected to a cluster.
        setup: what every worker is built from; images and files go to the object store once.
        check: finds out which workers share the driver's storage.
        actors, device: see `plan_actors`.
        elastic: whether the cluster may grow, so that actors wait for room rather than share what there is.
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
        # The largest share of a GPU that a unit needed so far; 0 before the first measurement.
        self._needed = 0.0
        self._gpus_seen = False
        self._calls: dict[Any, Call] = {}
        self._keeper: Any = None
        self._started = 0
        self._failed_starts = 0
        self._next_to_count = 0
        self._start_after = 0.0
        self._looked = 0.0
        self.placements: dict[int, Placement] = {}
        self.plan = self._look()

    def grow(self) -> None:
        """Start the planned actors, and replace those that are gone."""
        self._look_if_due()
        if time.monotonic() < self._start_after:
            return
        for _ in range(self.plan.actors - sum(share == self.plan.num_gpus for share in self._shares.values())):
            self._start()

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        """Make an idle worker run `unit`."""
        self._calls[self._actors[worker].run.remote(unit, attempt)] = Call(worker, unit)

    def events(self, timeout: float) -> Sequence[Event]:
        """Return the events since the last call; wait at most `timeout` seconds for one.

        Raises:
            IgdError: if no worker can start.
        """
        self._look_if_due()
        timeout = min(timeout, SECONDS_BETWEEN_LOOKS)
        answered: list[Any] = []
        if self._calls:
            answered, waiting = self._ray.wait(list(self._calls), num_returns=1, timeout=timeout)
            if answered and waiting:
                answered += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        else:
            time.sleep(timeout)
        happened = [self._event(reference) for reference in answered]
        return [event for event in happened if event is not None] + self._end_overdue() + self._end_misfits()

    def end(self, worker: int) -> None:
        """Kill a worker, if it is still there; it causes no further event."""
        if worker in self._actors:
            self._ray.kill(self._actors.pop(worker))
            del self._shares[worker]
            self.placements.pop(worker, None)
            for reference in [reference for reference, call in self._calls.items() if call.worker == worker]:
                del self._calls[reference]

    def close(self) -> None:
        """Kill all workers."""
        for worker in list(self._actors):
            self.end(worker)
        if self._keeper is not None:
            self._ray.kill(self._keeper)
            self._keeper = None

    def _look_if_due(self) -> None:
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self.plan = self._look()

    def _look(self) -> ActorPlan:
        self._looked = time.monotonic()
        resources = self._ray.cluster_resources()
        self._gpus_seen = self._gpus_seen or resources.get("GPU", 0.0) >= 1
        return plan_actors(
            resources,
            actors=self._asked,
            device=self._device,
            elastic=self._elastic,
            share=self._needed or 1.0,
            gpus_seen=self._gpus_seen,
        )

    def _start(self) -> None:
        plan = self.plan
        remote = self._ray.remote(WorkerActor).options(
            num_cpus=plan.num_cpus, num_gpus=plan.num_gpus, max_restarts=0, max_task_retries=0
        )
        worker = self._started
        self._started += 1
        self._shares[worker] = plan.num_gpus
        self._actors[worker] = remote.remote(self._setup, plan.num_gpus)
        self._calls[self._actors[worker].place.remote()] = Call(worker)

    def _event(self, reference: Any) -> Event | None:
        call = self._calls.pop(reference, None)
        if call is None:  # its worker was killed in the meantime
            return None
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayError as error:
            return self._failed(call, error.cause if isinstance(error, errors.RayTaskError) else error)
        if call.unit is not None:
            return self._weighed(Reported(call.worker, answer))
        if call.placement is not None:
            return self._begun(call.worker, call.placement)
        begun = self._actors[call.worker].begin.remote(call.worker, self._images, self._parcels, self._check.ask())
        self._calls[begun] = Call(call.worker, placement=answer, until=time.monotonic() + SECONDS_TO_BEGIN)
        return None

    def _failed(self, call: Call, error: Exception) -> Event:
        """Return the event for an exception instead of an answer."""
        if call.unit is not None and not isinstance(error, self._ray.exceptions.RayError | BrokenWorkerError):
            # The worker turns exceptions of the unit into reports: this one came from outside of it.
            return Reported(call.worker, _failure(call.unit, error))
        # The actor may still run somewhere; kill it, because nobody waits for it any more.
        self.end(call.worker)
        reason, outcome = _reason(error), interruption(self._ray.exceptions, error)
        if call.unit is None:
            self._not_started(call.worker, reason, counts=not lost_with_node(self._ray.exceptions, error))
        return Died(call.worker, reason, outcome)

    def _not_started(self, worker: int, reason: str, *, counts: bool = True) -> None:
        """Pause before the next start; a failure that `counts` adds to the failures in a row.

        Raises:
            IgdError: if no worker can start.
        """
        now = time.monotonic()
        if counts and worker >= self._next_to_count:  # starts before an earlier failure count as part of it
            self._failed_starts += 1
            self._next_to_count = self._started
            if self._failed_starts >= MOST_FAILED_STARTS and not self.placements:
                raise IgdError(f"no worker can start, {reason}")
        pause = SECONDS_BEFORE_START * 2 ** min(self._failed_starts, MOST_FAILED_STARTS + 1)
        self._start_after = max(self._start_after, now + min(pause, MOST_SECONDS_BEFORE_START))

    def _begun(self, worker: int, placement: Placement) -> Ready:
        self._failed_starts = 0
        self._start_after = 0.0
        self.placements[worker] = placement
        keeper = None if self._check.confirms(worker) else self._kept()
        self._actors[worker].serve.remote(keeper)
        return Ready(worker, placement.process, placement.host)

    def _weighed(self, event: Reported) -> Event:
        """Update the share of a GPU that units need, from the memory in a report."""
        worker, report = event.worker, event.report
        if not report.memory:
            return event
        without = report.out_of_memory and self._shares[worker] < 1
        share = 1.0 if without else share_of_gpu(report.memory, self.placements[worker].memory)
        if share > self._needed:
            self._needed = share
            self.plan = self._look()
        if without and self._shares[worker] < self.plan.num_gpus:
            # A larger share may be enough; the unit is split only if it fails with a whole GPU.
            self.end(worker)
            return Died(worker, "a share of a GPU was not enough", "lost")
        return event

    def _end_overdue(self) -> list[Event]:
        """Kill workers that hang before their first unit."""
        late = [call for call in self._calls.values() if call.until <= time.monotonic()]
        for call in late:
            assert call.placement is not None
            self.end(call.worker)
            self._not_started(
                call.worker,
                f"on {call.placement.host} it did not begin within {SECONDS_TO_BEGIN:g} s: check that the node reaches "
                f"the catalog {self._catalog} and its temporary folder",
            )
        return [Died(call.worker, "did not begin") for call in late]

    def _end_misfits(self) -> list[Event]:
        """Kill idle workers whose share of a GPU differs from the plan, so that others can use their resources."""
        busy = {call.worker for call in self._calls.values() if call.unit is not None}
        misfits = [
            worker for worker, share in self._shares.items() if share != self.plan.num_gpus and worker not in busy
        ]
        for worker in misfits:
            self.end(worker)
        return [Died(worker, "replaced") for worker in misfits]

    def _kept(self) -> Any:
        """Return the keeper of the catalog on this node; start another one if it has died.

        Raises:
            IgdError: if none can start.
        """
        if self._keeper is not None:
            if self._keeps():
                return self._keeper
            self._ray.kill(self._keeper)
        here = self._ray.get_runtime_context().get_node_id()
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        remote = self._ray.remote(CatalogKeeper).options(num_cpus=0, scheduling_strategy=strategy)
        self._keeper = remote.remote(self._catalog)
        if not self._keeps():
            raise IgdError(
                f"nodes do not share the catalog {self._catalog}, and no process for its commits starts on the "
                "driver's node; look into Ray's logs there"
            )
        return self._keeper

    def _keeps(self) -> bool:
        """Return whether the keeper answers.

        Raises:
            InputError: if it cannot open the catalog.
        """
        errors = self._ray.exceptions
        try:
            self._ray.get(self._keeper.check.remote(), timeout=SECONDS_FOR_KEEPER)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError:
            return False
        return True


def interruption(errors: Any, error: Exception) -> Literal["crashed", "lost", "memory"]:
    """Return the outcome, see `Died`, for an exception of an actor.

    A unit can only be the cause if the process itself died. A lost node, object or answer has other causes.

    Args:
        errors: the module `ray.exceptions`.
    """
    # For actors, Ray tells the cause only in the text of the message.
    if isinstance(error, errors.OutOfMemoryError) or "OUT_OF_MEMORY" in str(error):
        return "memory"
    if isinstance(error, errors.ActorDiedError | errors.WorkerCrashedError):
        return "lost" if lost_with_node(errors, error) else "crashed"
    return "lost" if isinstance(error, errors.RayError | BrokenWorkerError) else "crashed"


def lost_with_node(errors: Any, error: Exception) -> bool:
    """Return whether an exception of an actor says that its node is gone or unreachable."""
    gone = errors.NodeDiedError | errors.LocalRayletDiedError | errors.ActorUnavailableError
    return isinstance(error, gone) or "its node has died" in str(error) or "preempted" in str(error)


def _reason(error: Exception) -> str:
    """Return the line of Ray's message that tells why an actor died."""
    starts = ("The actor is dead because", "The actor died because")
    lines = [line for line in str(error).splitlines() if line.startswith(starts)]
    return lines[0][:FOREIGN_MESSAGE_LENGTH] if lines else f"{type(error).__name__}: {first_line(error)}"


def _failure(unit: Unit, error: Exception) -> UnitReport:
    message = f"the worker failed: {type(error).__name__}: {first_line(error)}"
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, message)
