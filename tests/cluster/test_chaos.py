"""Whatever dies while an evaluation runs, its rows are those of one undisturbed process."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import local_cluster, raylet_of
from runs import rows, run_evaluation

from igd_ray.catalog import Catalog, run_query

# How many events come before the end depends on how fast the machine is.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("IGD_CHAOS") != "1", reason="needs a quiet machine: set IGD_CHAOS=1 to run it"),
]

IMAGES, SHARD = 88, 4
CHANGES = {"n": IMAGES, "shard_size": SHARD, "defenses": "none,loir-8,random-8", "attacks": "square-600"}
UNITS = 3 * IMAGES // SHARD
# Most of the disturbed time is Ray starting again after its driver was killed, which takes long on a busy machine.
SLOWDOWN = 6

# What happens, in an order drawn from a fixed seed.
EVENTS = ["actor"] * 13 + ["hung"] * 2 + ["raylet"] * 2 + ["driver"] * 2 + ["node"] * 3
SEED = 5
UNITS_BETWEEN_EVENTS = 2


@dataclass(frozen=True)
class Running:
    """An attempt in flight."""

    unit: str
    process: int


class Chaos:
    """A cluster, a driver, and what was done to them."""

    def __init__(self, cluster: Any, catalog: Path, *, seconds: float) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._seconds = seconds
        self._nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
        # Processes of workers that an event killed, and the sessions of drivers that one killed.
        self.killed: set[int] = set()
        self.ended: set[str] = set()
        self._done = 0
        self.events = 0
        self.driver = self._start_driver()

    def _start_driver(self) -> subprocess.Popen[str]:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in CHANGES.items()]
        flags += ["--probe-n=200", "--search-n=100", f"--catalog={self._catalog}", f"--unit-timeout={self._seconds}"]
        return subprocess.Popen(
            [sys.executable, "-m", "igd_ray.cli", "evaluate", *flags, "--json"],
            env={**os.environ, "RAY_ADDRESS": self._cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def running(self) -> list[Running]:
        """The attack units in flight, as the catalog says, whose workers live."""
        catalog = Catalog(self._catalog)
        found = []
        for key in catalog.keys("attempts") if (self._catalog / "attempts").is_dir() else ():
            for row in catalog.read("attempts", key).to_pylist():
                if row["outcome"] is None and row["kind"] == "attack" and row["worker"] not in self.killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row["worker"], 0)
                        found.append(Running(row["unit_key"], row["worker"]))
        return found

    def some_running(self, draw: random.Random) -> Running | None:
        """Wait for some progress and an attack unit in flight; None if the evaluation ended meanwhile."""
        while self.driver.poll() is None:
            found = self.running()
            done = len(list((self._catalog / "outcomes").glob("*.parquet")))
            if found and done >= self._done + UNITS_BETWEEN_EVENTS:
                self._done = done
                return draw.choice(sorted(found, key=lambda each: each.process))
            time.sleep(0.05)
        return None

    def _kill(self, process: int) -> None:
        self.killed.add(process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    def happen(self, kind: str, draw: random.Random) -> None:
        """Do one event, while a unit is in flight."""
        target = self.some_running(draw)
        if target is None:
            return
        time.sleep(draw.random() * 0.2)
        self.events += 1
        if kind == "node":
            self._nodes.append(self._cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1"))
            return
        if kind == "actor":
            self._kill(target.process)
        elif kind == "hung":
            self.killed.add(target.process)
            os.kill(target.process, signal.SIGSTOP)
        elif kind == "raylet":
            node = self._nodes.pop(draw.randrange(len(self._nodes)))
            on_node = children_of(raylet_of(node))
            self.killed |= on_node
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1"))
        else:
            self.driver.kill()
            self.driver.communicate()
            attempts = Catalog(self._catalog)
            self.ended |= {key.partition("-")[0] for key in attempts.keys("attempts")}
            self.driver = self._start_driver()

    def close(self) -> None:
        """End what was started, and what was stopped."""
        self.driver.kill()
        self.driver.communicate()
        for process in self.killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def children_of(process: int) -> set[int]:
    """The processes whose parent is `process`."""
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[1]) == process:
                    found.add(int(entry.name))
    return found


@pytest.fixture
def cluster() -> Iterator[Any]:
    with local_cluster() as made:
        yield made


def test_an_evaluation_survives_whatever_dies(cluster: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    assert run_evaluation(tmp_path / "undisturbed", **CHANGES).computed >= UNITS
    undisturbed = time.monotonic() - started
    expected = rows(tmp_path / "undisturbed")

    draw = random.Random(SEED)
    order = list(EVENTS)
    draw.shuffle(order)
    started = time.monotonic()
    # Far more than a unit takes, loading included, on a machine that does other things as well.
    chaos = Chaos(cluster, tmp_path / "results", seconds=max(15.0, 20 * undisturbed / UNITS))
    try:
        for kind in order:
            chaos.happen(kind, draw)
        _, errors = chaos.driver.communicate(timeout=600)
        took = time.monotonic() - started
        assert chaos.driver.returncode == 0, errors
    finally:
        chaos.close()

    assert rows(tmp_path / "results") == expected
    assert chaos.events >= 20
    attempts = run_query(Catalog(tmp_path / "results"), "SELECT * FROM attempts WHERE kind = 'attack'").to_pylist()
    assert {row["outcome"] for row in attempts} <= {"done", "crashed", "timeout", "lost", "running"}
    interrupted = [row for row in attempts if row["outcome"] != "done"]
    # Every attempt that did not end well was a victim of an event, each worker's death of one: no unit ran twice for
    # another reason.
    by_worker = [row["worker"] for row in interrupted if row["session"] not in chaos.ended]
    assert set(by_worker) <= chaos.killed
    assert len(by_worker) == len(set(by_worker))
    assert len(interrupted) >= 10
    done = Counter(row["unit_key"] for row in attempts if row["outcome"] == "done")
    assert set(done.values()) == {1}
    assert len(done) >= UNITS - 2 * len(chaos.ended), "a killed driver may not have noted its last ones"
    print(f"undisturbed {undisturbed:.0f} s, disturbed {took:.0f} s, {chaos.events} events, {len(interrupted)} hits")
    assert took <= SLOWDOWN * undisturbed
