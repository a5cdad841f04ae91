"""The block of docs/cluster.md that starts a head, submits a job and ends the head, as a whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from tests.docs.test_commands import HEAD
from tests.toys.places import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# What the page fixes, and what else runs on this machine may have taken.
PORTS = ("6399", "8299")
AGENT = "--dashboard-agent-listen-port"


def test_the_block_runs_as_written_but_for_its_ports(tmp_path: Path) -> None:
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for listener in (first, second, third):
            listener.bind(("127.0.0.1", 0))
        ports = [str(listener.getsockname()[1]) for listener in (first, second, third)]
    script = HEAD.text.replace("--port 6399", f"--port 6399 {AGENT} {ports[2]}")
    for fixed, free in zip(PORTS, ports[:2], strict=True):
        assert fixed in script
        script = script.replace(fixed, free)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["RAY_worker_niceness"] = "0"  # at Ray's own they would starve beside other tests
    # Job control gives the head a process group, as in a terminal, so that `kill %1` finds it; `wait` lets it end.
    done = subprocess.run(
        ["bash", "-m", "-c", f"set -e\n{script}wait || true"],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = run_query(
        Catalog(tmp_path / "igd-results"), "SELECT defense, n FROM worst_case ORDER BY defense"
    ).to_pylist()
    assert rows == [{"defense": "loir-8", "n": 32}, {"defense": "none", "n": 32}]
