"""A local Ray: devices come from its allocation, and nothing listens beyond the loopback."""

import os
from pathlib import Path

import pytest

from igd_ray.cluster import RayExecutor, ray_session
from igd_ray.cluster.resources import ActorPlan, allocated_device, plan_actors, share_of_gpu
from igd_ray.cluster.workers import Placement
from igd_ray.errors import IgdError, InputError
from igd_ray.units.replica import WorkerSetup
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for


def test_an_actor_a_gpu_or_an_actor_a_cpu() -> None:
    assert plan_actors({"CPU": 8.0}) == ActorPlan(8, 1.0, 0.0)
    assert plan_actors({"CPU": 8.0, "GPU": 2.0}) == ActorPlan(2, 1.0, 1.0)
    assert plan_actors({"CPU": 8.0, "GPU": 2.0}, device="cpu") == ActorPlan(8, 1.0, 0.0)


@pytest.mark.parametrize("actors", [3, 5, 7])
def test_more_actors_than_cpus_or_gpus_share_them_and_fit(actors: int) -> None:
    plan = plan_actors({"CPU": 2.0, "GPU": 1.0}, actors=actors)
    assert plan.actors == actors
    assert 0 < actors * plan.num_cpus <= 2
    assert 0 < actors * plan.num_gpus <= 1


def test_an_elastic_cluster_is_asked_for_whole_cpus_and_gpus_and_waited_for() -> None:
    assert plan_actors({"CPU": 2.0}, actors=3, elastic=True) == ActorPlan(3, 1.0, 0.0)
    assert plan_actors({}, actors=4, device="cuda", elastic=True) == ActorPlan(4, 1.0, 1.0)
    # One more than there is room for waits, so that the cluster grows.
    assert plan_actors({}, elastic=True) == ActorPlan(1, 1.0, 0.0)
    assert plan_actors({"CPU": 8.0}, elastic=True) == ActorPlan(9, 1.0, 0.0)
    assert plan_actors({}, device="cuda", elastic=True) == ActorPlan(1, 1.0, 1.0)
    assert plan_actors({"CPU": 8.0, "GPU": 2.0}, elastic=True) == ActorPlan(3, 1.0, 1.0)
    assert plan_actors({"CPU": 8.0, "GPU": 2.0}, elastic=True, share=0.25) == ActorPlan(9, 1.0, 0.25)


def test_an_elastic_cluster_that_lost_its_gpus_is_waited_for() -> None:
    assert plan_actors({"CPU": 4.0}, elastic=True, gpus_seen=True) == ActorPlan(1, 1.0, 1.0)
    assert plan_actors({"CPU": 4.0}, elastic=True, gpus_seen=True, actors=3) == ActorPlan(3, 1.0, 1.0)
    assert plan_actors({"CPU": 4.0}, elastic=True, gpus_seen=True, device="cpu") == ActorPlan(5, 1.0, 0.0)


def test_actors_share_a_gpu_as_far_as_the_measured_peak_and_the_cpus_allow() -> None:
    gib = 2**30
    assert share_of_gpu(4 * gib, 80 * gib) == 0.12  # 5.7 of 80 GiB each: eight, the most
    assert share_of_gpu(30 * gib, 80 * gib) == 0.5
    assert share_of_gpu(40 * gib, 80 * gib) == 1.0
    assert plan_actors({"CPU": 16.0, "GPU": 2.0}, share=0.25) == ActorPlan(8, 1.0, 0.25)
    assert plan_actors({"CPU": 6.0, "GPU": 2.0}, share=0.25) == ActorPlan(6, 1.0, 0.25)
    assert plan_actors({"CPU": 16.0, "GPU": 2.0}, share=0.25, actors=2) == ActorPlan(2, 1.0, 1.0)


def test_what_cannot_be_placed_is_refused() -> None:
    with pytest.raises(InputError, match="no CPU"):
        plan_actors({"GPU": 1.0})
    with pytest.raises(InputError, match="no GPU"):
        plan_actors({"CPU": 4.0}, device="cuda")
    with pytest.raises(InputError, match="at least 1"):
        plan_actors({"CPU": 4.0}, actors=0)


def test_the_device_follows_the_allocation_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert allocated_device({"GPU": []}) == "cpu"
    assert allocated_device({}) == "cpu"
    assert allocated_device({"GPU": ["3"]}) == "cuda:0"


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("", "Ray (local) did not start: raylet timed out; is the machine busy?"),
        ("127.0.0.1:1", "does it have the token"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, advice: str) -> None:
    def init(**_options: object) -> None:
        raise Exception("raylet timed out\nat length")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("igd_ray.cluster.session.require_listener", lambda _address: None)
    with pytest.raises(IgdError) as error, ray_session():
        pass
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


def test_an_http_address_is_refused_with_what_to_set_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match="RAY_API_SERVER_ADDRESS"), ray_session():
        raise AssertionError("unreachable")


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match="no Ray cluster answers there"), ray_session():
        raise AssertionError("unreachable")


def listening_addresses(pids: set[int]) -> set[str]:
    """The addresses on which the processes `pids` listen, from the kernel's own tables."""
    sockets = set()
    for pid in pids:
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def processes_of(session: str) -> set[int]:
    """The processes whose command line or environment names Ray's session, and this one."""
    pids = {os.getpid()}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            for part in ("cmdline", "environ"):
                try:
                    if session.encode() in Path(f"/proc/{entry.name}/{part}").read_bytes():
                        pids.add(int(entry.name))
                except OSError:
                    continue
    return pids


def placements(executor: RayExecutor) -> list[Placement]:
    """Start two workers and say where they are."""
    executor.workers.grow()
    while len(executor.workers.placements) < 2:
        executor.workers.events(timeout=1)
    return list(executor.workers.placements.values())


@pytest.mark.cluster
def test_gpus_are_taken_from_the_allocation_and_nothing_listens_beyond_the_loopback(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "results")
    with session_for(settings) as session:
        workspace = session.workspace
        workspace.catalog.create()
        setup = WorkerSetup(workspace.source, str(workspace.catalog.root), {})
    with ray_session(num_cpus=2, num_gpus=2) as ray:
        with RayExecutor(setup) as executor:
            assert executor.workers.plan == ActorPlan(2, 1.0, 1.0)
            placed = placements(executor)
        assert [place.device for place in placed] == ["cuda:0", "cuda:0"]
        assert sorted(place.accelerators["GPU"] for place in placed) == [["0"], ["1"]]
        with RayExecutor(setup, device="cpu") as executor:
            assert [place.device for place in placements(executor)] == ["cpu", "cpu"]
        session = Path(ray._private.worker._global_node.get_session_dir_path()).name
        pids = processes_of(session)
        assert len(pids) > 3, "Ray's own processes were not found"
        addresses = listening_addresses(pids)
    assert addresses, "Ray listens somewhere"
    # 127.0.0.1 and ::1 as the kernel writes them.
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
