"""Workers on a pretended Ray: which failures are whose, who is replaced by whom, and who is waited for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import ray.exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from igd_ray.catalog import Catalog
from igd_ray.cluster.leases import Died, Event, Ready, Reported
from igd_ray.cluster.storage import KeptCatalog, StorageCheck, answer
from igd_ray.cluster.workers import MOST_FAILED_STARTS, SECONDS_TO_BEGIN, Placement, RayWorkers, WorkerActor
from igd_ray.errors import IgdError, InputError
from igd_ray.units.base import BrokenWorkerError, Shard, Unit, UnitReport, execute
from igd_ray.units.replica import ModelSource, WorkerSetup
from tests.toys.fake_ray import WAITING, FakeCall, FakeRay

GIB = 2**30
NODE_DIED = "The actor died because its node has died. Node Id: 12"
PROCESS_DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
NO_MEMORY = "The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY"


class Nothing(Unit):
    """A unit that is never computed here."""

    key = "unit"
    kind = "no-op"
    tables = ("outcomes",)
    shard = Shard("test", 0, 1, ("image",), "digest")

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        return {"outcomes": []}


def died(message: str) -> Exception:
    """What Ray raises for an actor that is gone, as it makes it from what the head says."""
    context = ActorDiedErrorContext(error_message=message, actor_id=bytes(16), class_name="WorkerActor")
    return ray.exceptions.ActorDiedError(context)


def raised(cause: Exception) -> Exception:
    """What Ray raises for an actor's exception."""
    error = ray.exceptions.RayTaskError("run", "traceback", cause, proctitle="worker", pid=1, ip="127.0.0.1")
    return error.as_instanceof_cause()


def report(*, memory: int = 0, **how: Any) -> UnitReport:
    return UnitReport("unit", "no-op", 1, 0.0, memory=memory, **how)


class Clock:
    """The time, which passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("igd_ray.cluster.workers.time", made)
    return made


class Fleet:
    """Workers on a pretended cluster.

    Attributes:
        answers: to a worker's methods, by number and method; or by method, for all others.
        shared: workers see the driver's storage.
    """

    shared = True

    def __init__(self, clock: Clock, catalog: Catalog, check: StorageCheck, resources: Mapping[str, float]) -> None:
        self.clock = clock
        self.answers: dict[tuple[int, str] | str, Any] = {"begin": None, "run": WAITING, "check": None, "serve": None}
        self.ray = FakeRay(dict(resources), self._answer)
        self._check, self._catalog = check, catalog

    def start(self, *, actors: int | None = None, device: str = "auto", elastic: bool = True) -> RayWorkers:
        setup = WorkerSetup(ModelSource("demo", None, {}, ""), str(self._catalog), {})
        self.workers = RayWorkers(self.ray, setup, self._check, actors=actors, device=device, elastic=elastic)
        return self.workers

    def _answer(self, call: FakeCall) -> Any:
        number, method = call.actor.number, call.method
        if method == "place" and (number, method) not in self.answers:
            on_gpu = call.actor.options["num_gpus"] > 0
            return Placement(number, f"host-{number}", "cuda:0" if on_gpu else "cpu", {}, 80 * GIB if on_gpu else 0)
        said = self.answers.get((number, method), self.answers.get(method))
        if method == "begin" and said is None and self.shared:
            answer(self._catalog, call.arguments[3], number)
        return said

    def started(self) -> int:
        """How many workers were started."""
        return self.ray.started["WorkerActor"]

    def step(self) -> list[Event]:
        """Let the driver look once."""
        self.clock.sleep(3.0)
        self.workers.grow()
        return list(self.workers.events(0.0))

    def steps(self, number: int) -> list[Event]:
        """Let the driver look `number` times."""
        return [event for _ in range(number) for event in self.step()]

    def ready(self) -> list[Ready]:
        """Let the driver look until all that can has begun."""
        return [event for event in self.steps(3) if isinstance(event, Ready)]

    def run(self, worker: int, answer: Any) -> list[Event]:
        """Have a worker answer to a unit."""
        self.answers[worker, "run"] = answer
        self.workers.lease(worker, Nothing(), 1)
        return self.step()

    @property
    def shares(self) -> list[float]:
        """The shares of a GPU of all actors."""
        return [actor.options["num_gpus"] for actor in self.ray.actors if actor.kind == "WorkerActor"]


@pytest.fixture
def fleet(clock: Clock, catalog: Catalog) -> Iterator[Fleet]:
    with StorageCheck(catalog) as check:
        yield Fleet(clock, catalog, check, {"CPU": 8.0})


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (died(PROCESS_DIED), "crashed"),
        (ray.exceptions.ActorDiedError(), "crashed"),
        (ray.exceptions.WorkerCrashedError(), "crashed"),
        (died(NODE_DIED), "lost"),
        (ray.exceptions.NodeDiedError("node"), "lost"),
        (ray.exceptions.ActorUnavailableError("the connection is gone", bytes(16)), "lost"),
        (ray.exceptions.ObjectLostError("ab" * 28, None, ""), "lost"),
        (ray.exceptions.OwnerDiedError("ab" * 28, None, ""), "lost"),
        (ray.exceptions.LocalRayletDiedError(), "lost"),
        (ray.exceptions.RaySystemError("connection reset"), "lost"),
        (raised(BrokenWorkerError("the keeper is gone")), "lost"),
        (ray.exceptions.OutOfMemoryError("node"), "memory"),
        (died(NO_MEMORY), "memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_only_a_process_that_died_by_itself_is_a_crash(fleet: Fleet, error: Exception, outcome: str) -> None:
    fleet.start(actors=2)
    fleet.ready()
    (event,) = fleet.run(0, error)
    assert isinstance(event, Died)
    assert (event.worker, event.outcome) == (0, outcome)
    assert 0 not in fleet.workers.placements


def test_an_exception_from_around_a_unit_is_the_units(fleet: Fleet) -> None:
    fleet.start(actors=1)
    fleet.ready()
    (event,) = fleet.run(0, raised(ValueError("no")))
    assert isinstance(event, Reported)
    assert event.report.error == "the worker failed: ValueError: no"


def test_nodes_lost_with_workers_that_start_abort_nothing(fleet: Fleet) -> None:
    fleet.start(actors=8)
    fleet.answers["begin"] = died(NODE_DIED)
    fleet.steps(3)
    assert fleet.started() >= 16, "they are started again"
    fleet.answers["begin"] = None
    assert len(fleet.ready()) == 8


def test_failed_starts_abort_nothing_while_another_worker_is_ready(fleet: Fleet) -> None:
    fleet.start(actors=2)
    fleet.ready()
    fleet.answers["begin"] = died(PROCESS_DIED)
    fleet.run(0, died(PROCESS_DIED))
    fleet.steps(100)
    # Each pause is twice as long as the one before, up to a minute.
    assert MOST_FAILED_STARTS < fleet.started() < 3 * MOST_FAILED_STARTS
    # Nor do nodes lost after those failures, with the last worker.
    fleet.answers["begin"] = died(NODE_DIED)
    fleet.run(1, died(NODE_DIED))
    fleet.steps(100)
    fleet.answers["begin"] = None
    fleet.clock.sleep(60)
    assert len(fleet.ready()) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (raised(ImportError("no module named net")), "ImportError: no module named net"),
        (ray.exceptions.RuntimeEnvSetupError("no such package"), "RuntimeEnvSetupError"),
        (ray.exceptions.RaySystemError("the store is full"), "RaySystemError"),
    ],
    ids=["import", "environment", "system"],
)
def test_workers_none_of_which_can_start_are_an_error_that_says_why(fleet: Fleet, error: Exception, said: str) -> None:
    fleet.start(actors=4)
    fleet.answers["begin"] = error
    with pytest.raises(IgdError, match=f"no worker can start, {said}"):
        fleet.steps(100)
    # Those that were started together failed together.
    assert fleet.started() == 4 * MOST_FAILED_STARTS


def test_a_worker_that_hangs_before_its_first_unit_is_replaced_but_one_without_room_is_waited_for(
    fleet: Fleet,
) -> None:
    fleet.start(actors=3)
    fleet.answers |= {(0, "begin"): WAITING, (1, "place"): WAITING}
    fleet.ready()
    fleet.clock.sleep(SECONDS_TO_BEGIN)
    assert [event.worker for event in fleet.step() if isinstance(event, Died)] == [0]
    fleet.ready()
    assert sorted(fleet.workers.placements) == [2, 3]
    assert sorted(actor.number for actor in fleet.ray.actors) == [1, 2, 3]


def test_workers_that_all_hang_are_an_error_that_names_host_and_catalog(fleet: Fleet, catalog: Catalog) -> None:
    fleet.start(actors=1)
    fleet.answers["begin"] = WAITING
    with pytest.raises(IgdError, match=rf"on host-\d it did not begin within 900 s: .*{catalog}"):
        fleet.steps(10_000)


def test_a_worker_that_cannot_open_the_catalog_has_the_drivers_node_commit(
    fleet: Fleet, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(root: str) -> Catalog:
        raise InputError(f"the catalog {root} cannot be used: no credentials")

    worker = object.__new__(WorkerActor)
    worker._setup, worker._device = WorkerSetup(ModelSource("demo", None, {}, ""), "s3://bucket/results", {}), "cpu"
    monkeypatch.setattr("ray.get", lambda reference: {})
    monkeypatch.setattr("igd_ray.cluster.workers.Catalog", refused)
    worker.begin(0, ["images"], [], ("storage-ab", "token"))
    worker.serve("keeper")
    assert isinstance(worker._worker._context.catalog, KeptCatalog)
    assert str(worker._worker._context.catalog) == "s3://bucket/results"


def test_the_keeper_of_the_catalog_is_replaced_when_it_has_died(fleet: Fleet) -> None:
    fleet.shared = False
    fleet.start(actors=2)
    fleet.ready()
    (keeper,) = (actor for actor in fleet.ray.actors if actor.kind == "CatalogKeeper")
    fleet.answers[keeper.number, "check"] = died(PROCESS_DIED)
    # Its death reaches a worker in the middle of a unit.
    (event,) = fleet.run(0, raised(BrokenWorkerError("it cannot reach the catalog any more")))
    assert isinstance(event, Died)
    assert len(fleet.ready()) == 1
    (other,) = (actor for actor in fleet.ray.actors if actor.kind == "CatalogKeeper")
    assert other is not keeper
    fleet.workers.close()
    assert fleet.ray.actors == []


def test_a_catalog_that_neither_workers_nor_their_keeper_can_open_is_an_error_at_once(fleet: Fleet) -> None:
    fleet.shared = False
    fleet.start(actors=2)
    fleet.answers["check"] = raised(InputError("the catalog s3://bucket/results cannot be used: no credentials"))
    with pytest.raises(InputError, match="no credentials"):
        fleet.ready()


def test_a_broken_worker_is_no_error_of_its_unit() -> None:
    class Broken(Catalog):
        def finish_unit(self, tables: Sequence[str], key: str) -> bool:
            raise BrokenWorkerError("it cannot reach the catalog any more")

    class Context:
        catalog = Broken("results")

    with pytest.raises(BrokenWorkerError):
        execute(Nothing(), Context())  # type: ignore[arg-type]


def test_cpus_are_given_up_for_gpus_that_join_and_gpus_that_are_lost_are_waited_for(fleet: Fleet) -> None:
    fleet.ray.resources = {}
    fleet.start()
    fleet.step()
    assert fleet.shares == [0.0], "one worker asks for a node"
    fleet.ray.resources = {"CPU": 4.0, "GPU": 1.0}
    fleet.ready()
    # One on the GPU, and one that asks for another node; the one on the CPU is gone.
    assert fleet.shares == [1.0, 1.0]
    fleet.ray.resources = {"CPU": 4.0}
    for actor in list(fleet.ray.actors):
        fleet.workers.end(actor.number)
    fleet.answers["place"] = WAITING
    fleet.step()
    assert fleet.shares == [1.0]


def test_a_worker_on_a_cpu_finishes_its_unit_before_it_is_replaced(fleet: Fleet) -> None:
    fleet.ray.resources = {"CPU": 1.0}
    fleet.start()
    fleet.ready()
    fleet.workers.lease(0, Nothing(), 1)
    fleet.ray.resources = {"CPU": 5.0, "GPU": 1.0}
    fleet.ready()
    assert sorted(fleet.shares) == [0.0, 1.0, 1.0]
    fleet.answers[0, "run"] = report()
    assert fleet.step() == [Reported(0, report()), Died(0, "replaced")]
    assert fleet.shares == [1.0, 1.0]


def test_workers_share_gpus_by_the_most_that_a_unit_took(fleet: Fleet) -> None:
    fleet.ray.resources = {"CPU": 16.0, "GPU": 2.0}
    fleet.start(elastic=False)
    fleet.ready()
    assert fleet.shares == [1.0, 1.0]
    events = fleet.run(0, report(memory=10 * GIB))
    # Its report counts, then it makes room; so does the other one, which was idle.
    assert events == [Reported(0, report(memory=10 * GIB)), Died(0, "replaced"), Died(1, "replaced")]
    fleet.ready()
    assert fleet.shares == [0.16] * 12
    worker = min(fleet.workers.placements)
    # A smaller unit changes nothing, a larger one does.
    assert fleet.run(worker, report(memory=GIB)) == [Reported(worker, report(memory=GIB))]
    fleet.run(worker, report(memory=15 * GIB))
    fleet.ready()
    assert fleet.shares == [0.25] * 8


def test_a_unit_that_a_share_is_too_small_for_gets_a_whole_gpu_and_is_split_only_there(fleet: Fleet) -> None:
    fleet.ray.resources = {"CPU": 16.0, "GPU": 1.0}
    fleet.start(elastic=False)
    fleet.ready()
    fleet.run(0, report(memory=10 * GIB))
    fleet.ready()
    assert fleet.shares == [0.16] * 6
    worker = min(fleet.workers.placements)
    without = report(memory=12 * GIB, error="OutOfMemoryError: no", out_of_memory=True)
    first, *others = fleet.run(worker, without)
    assert first == Died(worker, "a share of a GPU was not enough", "lost")
    assert [type(event) for event in others] == [Died] * 5
    fleet.ready()
    # Whatever is measured from now on.
    (worker,) = fleet.workers.placements
    fleet.run(worker, report(memory=GIB))
    assert fleet.shares == [1.0]
    assert fleet.run(worker, without) == [Reported(worker, without)]


def test_where_actors_were_asked_to_share_a_gpu_a_unit_without_memory_is_split_at_once(fleet: Fleet) -> None:
    fleet.ray.resources = {"CPU": 16.0, "GPU": 1.0}
    fleet.start(elastic=False, actors=3)
    fleet.ready()
    assert fleet.shares == [0.33] * 3
    without = report(memory=12 * GIB, error="OutOfMemoryError: no", out_of_memory=True)
    assert fleet.run(0, without) == [Reported(0, without)]
    assert fleet.shares == [0.33] * 3


def test_to_end_a_worker_that_is_gone_does_nothing(fleet: Fleet) -> None:
    fleet.start(actors=1)
    fleet.ready()
    fleet.workers.end(0)
    fleet.workers.end(0)
    assert fleet.ray.actors == []
