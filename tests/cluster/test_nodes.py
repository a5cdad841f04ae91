"""Nodes that leave and join while units run."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from igd_ray.catalog import Catalog, run_query
from igd_ray.cluster import RayExecutor
from igd_ray.cluster.resources import ActorPlan
from igd_ray.units.base import Shard, Unit, UnitReport
from igd_ray.units.replica import WorkerSetup
from tests.toys.ray_cluster import local_cluster
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

UNITS, SECONDS = 36, 1.0
LOST_AFTER, JOINED_AFTER = 3, 6


@dataclass(frozen=True)
class Sleep(Unit):
    """A unit that takes a while but no CPU, so that the machine's own number of CPUs does not matter."""

    number: int

    kind = "sleep"
    tables = ("arrays",)
    shard = Shard("test", 0, 1, ("image",), "")

    @property
    def key(self) -> str:
        return f"sleep-{self.number:02d}"

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        time.sleep(SECONDS)
        return {"arrays": []}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    # Workers cannot import this file, so its classes travel with their code.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with local_cluster() as made:
        yield made


def run(cluster: Any, folder: Path, *, joins: bool) -> tuple[float, set[str], Catalog]:
    """Run on three nodes, lose one, and perhaps have another join; return the seconds and hosts' processes."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(3)]
    reports: list[UnitReport] = []
    try:
        with session_for(settings_for(folder)) as session:
            workspace = session.workspace
            workspace.catalog.create()
            setup = WorkerSetup(workspace.source, str(workspace.catalog.root), {})
        with RayExecutor(setup) as executor:
            units = [Sleep(number) for number in range(UNITS)]
            started = time.monotonic()
            for report in executor.run(units):
                reports.append(report)
                if len(reports) == LOST_AFTER:
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                if joins and len(reports) == JOINED_AFTER:
                    nodes.append(cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1"))
            seconds = time.monotonic() - started
    finally:
        for node in nodes:
            cluster.remove_node(node)
    assert sorted(report.key for report in reports) == [unit.key for unit in units]
    assert all(report.error is None for report in reports)
    catalog = Catalog(folder)
    workers = run_query(catalog, "SELECT DISTINCT worker FROM attempts WHERE outcome = 'done'")["worker"].to_pylist()
    assert len(workers) >= (4 if joins else 3)
    assert os.getpid() not in workers
    return seconds, set(workers), catalog


def test_a_lost_node_is_done_without_and_a_new_one_is_put_to_use(cluster: Any, tmp_path: Path) -> None:
    alone, _, catalog = run(cluster, tmp_path / "without", joins=False)
    joined, _, _ = run(cluster, tmp_path / "with", joins=True)
    assert joined < alone
    attempts = run_query(catalog, "SELECT outcome, count(*) AS n FROM attempts GROUP BY ALL").to_pylist()
    counts = {row["outcome"]: row["n"] for row in attempts}
    assert counts.pop("done") == UNITS
    # The lost node had one unit at most in flight.
    assert sum(counts.values()) <= 1


def test_a_gpu_that_joins_takes_the_place_of_cpus(cluster: Any, tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "results")) as session:
        workspace = session.workspace
        workspace.catalog.create()
        setup = WorkerSetup(workspace.source, str(workspace.catalog.root), {})
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")]

    def wait_for(devices: list[str]) -> None:
        until = time.monotonic() + 120
        while [place.device for place in executor.workers.placements.values()] != devices:
            assert time.monotonic() < until
            executor.workers.grow()
            executor.workers.events(timeout=1)

    try:
        with RayExecutor(setup) as executor:
            wait_for(["cpu"])
            nodes.append(cluster.add_node(num_cpus=1, num_gpus=1, node_ip_address="127.0.0.1"))
            wait_for(["cuda:0"])
            # Another one waits for a node of its own.
            assert executor.workers.plan == ActorPlan(2, 1.0, 1.0)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            until = time.monotonic() + 60
            while executor.workers.plan != ActorPlan(1, 1.0, 1.0):
                assert time.monotonic() < until
                executor.workers.grow()
                executor.workers.events(timeout=1)
    finally:
        for node in nodes:
            cluster.remove_node(node)
