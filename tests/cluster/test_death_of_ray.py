"""What happens to a run when a part of its local Ray dies, and to Ray when its run is ended or killed."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from tests.toys.commands import igd_command, interruptible

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

# A run without work: it starts Ray, tells of its processes, and waits.
PROGRAM = """
import json, sys, time
from igd_ray import cli
from igd_ray.cluster import ray_session

def run(words):
    with ray_session(num_cpus=1) as ray:
        import psutil
        @ray.remote
        class Waits:
            def wait(self):
                time.sleep(600)
        ray.get(ray.remote(lambda: None).remote())
        actor = Waits.remote()
        answer = actor.wait.remote()
        children = psutil.Process().children(recursive=True)
        folder = ray._private.worker._global_node.get_session_dir_path()
        names = {child.pid: " ".join(child.cmdline())[:200] for child in children}
        print(json.dumps({"folder": folder, "processes": names}), flush=True)
        while True:
            ray.wait([answer], timeout=1)

cli._run = run
sys.exit(cli.main([]))
"""


@contextmanager
def running(home: Path) -> Iterator[tuple[subprocess.Popen[str], Path, dict[int, str]]]:
    """While open, the program runs: its process, Ray's session folder, and Ray's processes by number."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "TMPDIR": "/tmp", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        umask=0o022,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline() or process.communicate()[1])
        yield process, Path(told["folder"]), {int(number): name for number, name in told["processes"].items()}
    finally:
        process.kill()
        process.wait()


def living(numbers: dict[int, str]) -> list[str]:
    found = []
    for number, name in numbers.items():
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(name)
    return found


def seconds_until_gone(numbers: dict[int, str], most: float) -> float:
    begun = time.monotonic()
    while left := living(numbers):
        assert time.monotonic() - begun < most, f"left after {most:g} s: {left}"
        time.sleep(0.1)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("killed", "told"),
    [
        ("raylet/raylet", "Ray's raylet died under this run (ended by SIGKILL)"),
        ("gcs/gcs_server", "Ray's GCS server died under this run (ended by SIGKILL)"),
        ("RuntimeEnvAgent", "Ray's raylet died under this run (its agent runtime_env_agent ended)"),
    ],
)
def test_a_run_whose_ray_dies_ends_with_one_line(tmp_path: Path, killed: str, told: str) -> None:
    with running(tmp_path) as (process, folder, processes):
        (number,) = (number for number, name in processes.items() if killed in name)
        os.kill(number, signal.SIGKILL)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 1
        assert stderr.splitlines() == [
            f"igd: error: {told}; every finished unit is kept, run the same command again to go on; "
            f"Ray's logs: {folder / 'logs'}"
        ]
        assert (folder / "logs" / "raylet.out").is_file(), "the logs stay"
        seconds_until_gone(processes, 30)


def test_nobody_else_can_read_what_ray_writes_and_a_killed_run_s_ray_ends(tmp_path: Path) -> None:
    with running(tmp_path) as (process, folder, processes):
        assert len(processes) > 5
        assert stat.S_IMODE(folder.parent.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
        assert len((tmp_path / ".ray" / "auth_token").read_text()) == 64
        process.kill()
        seconds_until_gone(processes, 30)


def test_sigterm_ends_a_run_on_ray_as_ctrl_c_does(tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    arguments = ["--actors=1", "--n=8", "--shard-size=4", "--defenses=none", "--attacks=clean,rays-4000"]
    process = interruptible(igd_command("evaluate", f"--catalog={catalog}", "--device=cpu", *arguments))
    deadline = time.monotonic() + 120
    while not list((catalog / "outcomes").glob("[0-9a-f]*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == ("igd: stopped; every finished unit is kept, run the same command again to go on")
    for word in ("Traceback", "SIGTERM", "***", "core_worker"):
        assert word not in stderr
    assert Catalog(catalog).keys("outcomes"), "finished units are kept"
