"""A real head with a token: jobs and drivers that have it are let in, others are refused."""

import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from igd_ray.cluster.session import LOCAL_ENVIRONMENT, LOOPBACK
from tests.cluster.one_ray.test_own_defenses_on_ray import CHOICE
from tests.toys.commands import igd_command
from tests.toys.places import REPOSITORY
from tests.toys.runs import rows

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

BIN = Path(sys.executable).parent
SMALL = ["--probe-n", "150", "--search-n", "60", "--method", "random"]

# The flags of the documented command, which runs in the repository's root.
PAGE = REPOSITORY / "docs" / "cluster.md"
DOCUMENTED_FLAGS = re.search(r"^ray job submit (.*?) -- ", PAGE.read_text(), re.MULTILINE)


@dataclass(frozen=True)
class Head:
    """A head on the loopback.

    Attributes:
        address: what RAY_ADDRESS names.
        allowed: the environment of one who has the token.
        strangers: environments of those who do not: one with another token, one with none.
    """

    address: str
    allowed: dict[str, str]
    strangers: tuple[dict[str, str], dict[str, str]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """The head that all tests of this file share."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port, dashboard, agent = free_port(), free_port(), free_port()
    nobody = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    nobody |= {
        **LOCAL_ENVIRONMENT,
        "HOME": str(tmp_path_factory.mktemp("home")),  # where Ray looks for a token that nothing names
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_worker_niceness": "0",  # at Ray's own they would starve beside other tests
        "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{dashboard}",
    }
    environment = {**nobody, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    impostor = {**nobody, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += [f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"]
    command += [f"--port={port}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={tmp_path_factory.mktemp('ray', numbered=True)}"]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        # To submit takes seconds of a processor: it is tried once something listens.
        while not (listens(dashboard) and listens(agent)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        while "not ready" in submit(environment, ["python", "-c", ""])[1]:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        yield Head(f"{LOOPBACK}:{port}", environment, (impostor, nobody))
    finally:
        # It ends the others; told all at once, they would wait for each other for half a minute.
        process.terminate()
        process.wait(timeout=60)


def run(command: list[str], environment: dict[str, str], folder: Path = REPOSITORY) -> tuple[int, str]:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def submit(environment: dict[str, str], entrypoint: list[str]) -> tuple[int, str]:
    """Submit by the documented command; the text is "not ready" while nothing answers."""
    assert DOCUMENTED_FLAGS is not None
    code, text = run(
        [str(BIN / "ray"), "job", "submit", *shlex.split(DOCUMENTED_FLAGS[1]), "--", *entrypoint], environment
    )
    return code, "not ready" if "Failed to connect" in text or "No available agent" in text else text


def igd(environment: dict[str, str], words: list[str], folder: Path) -> tuple[int, str]:
    return run(igd_command("submit", *words), environment, folder)


def test_ray_job_submit_runs_a_job_with_the_token_only(head: Head, tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    entrypoint = ["python", "jobs/rank.py", *SMALL, "--catalog", str(catalog)]
    for stranger in head.strangers:
        code, text = submit(stranger, entrypoint)
        assert code != 0, text
        assert "Authentication" in text
        assert not catalog.exists()
    code, text = submit(head.allowed, entrypoint)
    assert code == 0, text
    assert len(Catalog(catalog).keys("rankings")) == 1


def test_a_driver_attaches_with_the_token_only(head: Head, tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    command = igd_command("rank", "--probe-n", "50", "--catalog", str(catalog))
    for stranger in head.strangers:
        code, text = run(command, {**stranger, "RAY_ADDRESS": head.address, "RAY_NUM_REDIS_GET_RETRIES": "2"})
        assert code == 1, text
        assert "InvalidAuthToken" in text
        assert text.count("igd: error") == 1
        assert not Catalog(catalog).keys("rankings")
    code, text = run(command, {**head.allowed, "RAY_ADDRESS": head.address})
    assert code == 0, text
    assert len(Catalog(catalog).keys("rankings")) == 1


def test_igd_submit_brings_files_follows_the_log_and_passes_the_exit_code(head: Head, tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    # The factory's file is of this folder, which the job does not have.
    (tmp_path / "mine.py").write_text(
        "from igd_ray.models.demo import demo_model\n\n\ndef factory():\n    return demo_model()\n"
    )
    from safetensors.torch import save_file

    from igd_ray.models import load_model

    save_file(load_model("demo").state_dict(), tmp_path / "mine.safetensors")
    words = ["rank", *SMALL, "--model", "mine.py:factory", "--weights", "mine.safetensors", "--catalog", str(catalog)]
    for stranger in head.strangers:
        code, text = igd(stranger, words, tmp_path)
        assert code == 1, text
        assert "wants its token" in text
        assert text.count("igd: error") == 1
        assert not catalog.exists()
    code, text = igd(head.allowed, words, tmp_path)
    assert code == 0, text
    assert "top_neurons" in text
    assert len(Catalog(catalog).keys("rankings")) == 1
    # What fails there, fails here.
    code, text = igd(head.allowed, ["rank", *SMALL, "--layer", "nowhere", "--catalog", str(catalog)], tmp_path)
    assert code == 2, text
    assert "nowhere" in text


def test_defenses_in_files_give_equal_rows_in_one_process_on_two_actors_and_as_a_job(
    head: Head, tmp_path: Path
) -> None:
    flags = ["--probe-n", "200", "--search-n", "100", "--n", "16", "--shard-size", "8"]
    flags += ["--defenses", str(CHOICE["defenses"]), "--attacks", str(CHOICE["attacks"])]
    assert main(["evaluate", "--executor", "local", "--catalog", str(tmp_path / "local"), *flags]) == 0
    attached = {**head.allowed, "RAY_ADDRESS": head.address}
    for command, environment in (
        (igd_command("evaluate", "--actors", "2", "--catalog", str(tmp_path / "ray"), *flags), attached),
        (igd_command("submit", "evaluate", "--catalog", str(tmp_path / "job"), *flags), head.allowed),
    ):
        code, text = run(command, environment, tmp_path)
        assert code == 0, text
    expected = rows(tmp_path / "local")
    assert {row["defense"] for row in expected} == {"none", "jpeg", "resizing", "two-passes"}
    assert not [row for row in expected if row["status"] == "error"]
    assert rows(tmp_path / "ray") == expected
    assert rows(tmp_path / "job") == expected
