"""Whatever dies while an evaluation runs, its rows are those of one undisturbed process."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from igd_ray.catalog import Catalog, run_query
from igd_ray.models import load_model
from tests.toys.commands import igd_command
from tests.toys.ray_cluster import local_cluster, raylet_of
from tests.toys.runs import rows, run_evaluation

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# On a cluster, every pass through the model takes this long whatever the machine's pace, and so a unit a second or two:
# long enough to be hit, and all of them long beside Ray's start-up. Hooks are no part of a model's identity.
MODEL_FILE = """
import os, time
from igd_ray.models.demo import demo_model

def factory():
    model = demo_model()
    pause = float(os.environ.get("PAUSE_OF_MODEL", 0))
    model.conv1.register_forward_pre_hook(lambda module, inputs: time.sleep(pause))
    return model
"""
PAUSE = 0.02

IMAGES, SHARD = 160, 4
UNITS = 3 * IMAGES // SHARD
CHANGES = {"n": IMAGES, "shard_size": SHARD, "defenses": "none,loir-8,random-8", "attacks": "square-40"}
NODES = 2
SLOWDOWN = 3

# What happens, in an order drawn from a fixed seed: each after so many more units are done, so that the last comes long
# before the end.
EVENTS = ["actor"] * 13 + ["hung"] * 2 + ["raylet"] * 2 + ["driver"] * 2 + ["node"] * 3
SEED = 5
UNITS_BETWEEN_EVENTS = 3

# A unit hit more often would be given up, as it should be.
MOST_HITS_OF_A_UNIT = 2


@dataclass(frozen=True)
class Running:
    """An attempt in flight."""

    unit: str
    process: int


@dataclass
class Event:
    """Something done to the cluster.

    Attributes:
        kind: one of `EVENTS`.
        killed: processes of workers that it ended.
        ended: sessions of drivers that it ended.
    """

    kind: str
    killed: set[int] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)


def start_driver(cluster: Any, catalog: Path, model: dict[str, str], *flags: str) -> subprocess.Popen[str]:
    """Start the evaluation's driver on the cluster."""
    settings = {**CHANGES, **model, "probe_n": 200, "search_n": 100, "catalog": catalog}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        igd_command("evaluate", *words, *flags, "--json"),
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Chaos:
    """A driver on a cluster, and what was done to them."""

    def __init__(self, cluster: Any, nodes: list[Any], catalog: Path, model: dict[str, str], *, seconds: float) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._catalog = catalog
        self._model = model
        self._seconds = seconds
        self._hits: Counter[str] = Counter()
        self.events: list[Event] = []
        self.driver = self._start_driver()

    def _start_driver(self) -> subprocess.Popen[str]:
        return start_driver(self._cluster, self._catalog, self._model, f"--unit-timeout={self._seconds}")

    @property
    def killed(self) -> set[int]:
        """The processes that events ended."""
        return {process for event in self.events for process in event.killed}

    @property
    def ended(self) -> set[str]:
        """The sessions that events ended."""
        return {session for event in self.events for session in event.ended}

    def _running(self) -> list[Running]:
        """The attack units in flight, as the catalog says, on workers and of drivers that live."""
        found = []
        catalog = Catalog(self._catalog)
        for key in catalog.keys("attempts"):
            for row in catalog.read("attempts", key).to_pylist():
                spent = row["outcome"] is not None or row["worker"] in self.killed or row["session"] in self.ended
                if not spent and row["kind"] == "attack" and self._hits[row["unit_key"]] < MOST_HITS_OF_A_UNIT:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row["worker"], 0)
                        found.append(Running(row["unit_key"], row["worker"]))
        return sorted(found, key=lambda each: each.process)

    def _some_running(self, draw: random.Random) -> Running | None:
        """Wait until it is time for the next event and an attack unit is in flight; None if none is any more."""
        due = (len(self.events) + 1) * UNITS_BETWEEN_EVENTS
        while self.driver.poll() is None:
            if len(list((self._catalog / "outcomes").glob("[!_.]*.parquet"))) >= due and (found := self._running()):
                return draw.choice(found)
            time.sleep(0.05)
        return None

    def _add_node(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1"))

    def happen(self, kind: str, draw: random.Random) -> None:
        """Do one event, while a unit is in flight."""
        target = self._some_running(draw)
        if target is None:
            return
        event = Event(kind)
        if kind == "node":
            self._add_node()
        elif kind == "driver":
            self.driver.kill()
            self.driver.communicate()
            event.ended |= {key.partition("-")[0] for key in Catalog(self._catalog).keys("attempts")} - self.ended
            self.driver = self._start_driver()
        elif kind == "raylet":
            node = next(node for node in self._nodes if target.process in children_of(raylet_of(node)))
            self._nodes.remove(node)
            event.killed |= children_of(raylet_of(node))
            self._hits[target.unit] += 1
            self._cluster.remove_node(node, allow_graceful=False)
            self._add_node()
        else:
            event.killed.add(target.process)
            self._hits[target.unit] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(target.process, signal.SIGKILL if kind == "actor" else signal.SIGSTOP)
        self.events.append(event)

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


def attempts_of(catalog: Path) -> list[dict[str, Any]]:
    """The attempts at attack units."""
    found: list[dict[str, Any]] = run_query(
        Catalog(catalog), "SELECT * FROM attempts WHERE kind = 'attack' ORDER BY started_at"
    ).to_pylist()
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # Ray's workers step back behind everything else on a machine; on a busy one they would not start in time.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PAUSE_OF_MODEL", str(PAUSE))
    with local_cluster() as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> dict[str, str]:
    """A model file and its weights, as settings name them."""
    (tmp_path / "paced.py").write_text(MODEL_FILE)
    save_file(load_model("demo").state_dict(), tmp_path / "paced.safetensors")
    return {"model": f"{tmp_path / 'paced.py'}:factory", "weights": str(tmp_path / "paced.safetensors")}


@pytest.fixture
def expected(model: dict[str, str], tmp_path: Path) -> list[dict[str, object]]:
    """The rows of one process, which needs no pauses."""
    assert run_evaluation(tmp_path / "alone", **CHANGES, **model).computed >= UNITS
    return rows(tmp_path / "alone")


def test_an_evaluation_survives_whatever_dies(
    expected: list[dict[str, object]], cluster: Any, model: dict[str, str], tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(NODES)]
    started = time.monotonic()
    undisturbed_driver = start_driver(cluster, tmp_path / "undisturbed", model)
    _, errors = undisturbed_driver.communicate(timeout=600)
    undisturbed = time.monotonic() - started
    assert undisturbed_driver.returncode == 0, errors
    assert rows(tmp_path / "undisturbed") == expected
    calm = attempts_of(tmp_path / "undisturbed")
    assert [row["outcome"] for row in calm] == ["done"] * UNITS
    longest = max((row["ended_at"] - row["started_at"]).total_seconds() for row in calm)

    draw = random.Random(SEED)
    order = list(EVENTS)
    draw.shuffle(order)
    started = time.monotonic()
    # Far more than a unit takes, loading included.
    chaos = Chaos(cluster, nodes, tmp_path / "results", model, seconds=max(20.0, 5 * longest))
    try:
        for kind in order:
            chaos.happen(kind, draw)
        _, errors = chaos.driver.communicate(timeout=600)
        disturbed = time.monotonic() - started
        assert chaos.driver.returncode == 0, errors
    finally:
        chaos.close()

    assert rows(tmp_path / "results") == expected
    assert Counter(event.kind for event in chaos.events) == Counter(EVENTS)
    attempts = attempts_of(tmp_path / "results")
    assert {row["outcome"] for row in attempts} <= {"done", "crashed", "timeout", "lost", "running"}
    # Every attempt that did not end well was a victim: it was in flight when its driver was killed, or an event killed
    # its worker, one attempt a death. So no unit ran twice for another reason.
    interrupted = [row for row in attempts if row["outcome"] != "done"]
    with_driver = [row["session"] for row in interrupted if row["ended_at"] is None]
    with_worker = [row["worker"] for row in interrupted if row["ended_at"] is not None]
    assert set(with_driver) <= chaos.ended
    assert set(with_worker) <= chaos.killed
    assert len(with_worker) == len(set(with_worker))
    done = Counter(row["unit_key"] for row in attempts if row["outcome"] == "done")
    assert set(done.values()) == {1}
    # A driver that was killed may not have noted the last ones that its workers committed.
    assert UNITS - len(with_driver) <= len(done) <= UNITS
    hits = sum(bool(event.killed & set(with_worker) or event.ended & set(with_driver)) for event in chaos.events)
    ratio = disturbed / undisturbed
    print(
        f"undisturbed {undisturbed:.0f} s, disturbed {disturbed:.0f} s ({ratio:.2f}×), {len(chaos.events)} events, "
        f"{hits} of which hit units in flight, {len(interrupted)} attempts interrupted, longest unit {longest:.1f} s"
    )
    assert hits >= 10
    assert ratio <= SLOWDOWN
