"""Jobs on a real head with tokens: submitted with the token, refused without."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.cluster.session import LOCAL_ENVIRONMENT, LOOPBACK

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SMALL = ["--probe-n", "150", "--search-n", "60", "--method", "random"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head on the loopback; yields the environment of one who may use it."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    dashboard = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        **LOCAL_ENVIRONMENT,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{dashboard}",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += [f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"]
    command += [f"--port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--temp-dir={tmp_path_factory.mktemp('ray', numbered=True)}"]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while "not ready" in submit(environment, ["python", "-c", ""])[1]:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def run(command: list[str], environment: dict[str, str], folder: Path = REPOSITORY) -> tuple[int, str]:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def submit(environment: dict[str, str], entrypoint: list[str]) -> tuple[int, str]:
    """Submit by Ray's own command; the text is "not ready" while nothing answers."""
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(REPOSITORY)]
    command += ["--runtime-env-json", '{"excludes": [".git", "results", ".venv", "tests"]}', "--", *entrypoint]
    code, text = run(command, environment)
    return code, "not ready" if "Failed to connect" in text or "No available agent" in text else text


def igd(environment: dict[str, str], words: list[str], folder: Path) -> tuple[int, str]:
    return run([sys.executable, "-m", "igd_ray.cli", "submit", *words], environment, folder)


def without_token(environment: dict[str, str]) -> dict[str, str]:
    wrong = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN_PATH"}
    return {**wrong, "RAY_AUTH_TOKEN": "0" * 64}


def test_ray_job_submit_runs_a_job_with_the_token_only(head: dict[str, str], tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    entrypoint = ["python", "jobs/rank.py", *SMALL, "--catalog", str(catalog)]
    code, text = submit(without_token(head), entrypoint)
    assert code != 0, text
    assert not catalog.exists()
    code, text = submit(head, entrypoint)
    assert code == 0, text
    assert len(Catalog(catalog).keys("rankings")) == 1


def test_igd_submit_brings_files_follows_the_log_and_passes_the_exit_code(head: dict[str, str], tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    # The factory's file is of this folder, which the job does not have.
    (tmp_path / "mine.py").write_text(
        "from igd_ray.models.demo import demo_model\n\n\ndef factory():\n    return demo_model()\n"
    )
    from safetensors.torch import save_file

    from igd_ray.models import load_model

    save_file(load_model("demo").state_dict(), tmp_path / "mine.safetensors")
    words = ["rank", *SMALL, "--model", "mine.py:factory", "--weights", "mine.safetensors", "--catalog", str(catalog)]
    code, text = igd(without_token(head), words, tmp_path)
    assert code == 1, text
    assert "refuses this token" in text
    assert text.count("igd: error") == 1
    assert not catalog.exists()
    code, text = igd(head, words, tmp_path)
    assert code == 0, text
    assert "top_neurons" in text
    assert len(Catalog(catalog).keys("rankings")) == 1
    # What fails there, fails here.
    code, text = igd(head, ["rank", *SMALL, "--layer", "nowhere", "--catalog", str(catalog)], tmp_path)
    assert code == 2, text
    assert "nowhere" in text
