"""jobs/slurm.sh with stand-ins for Slurm and Ray: what it starts where, with which token, and that it ends it again."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys.places import REPOSITORY

SCRIPT = REPOSITORY / "jobs" / "slurm.sh"

# What each program writes to the file CALLS, and what it does beyond that.
STAND_INS = {
    # Leaves out srun's own flags.
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'printf "node-1\\nnode-2\\nnode-3\\n"',
    "hostname": "echo 127.0.0.1",
    # The head listens, as Ray's does; both kinds of node run until they are ended.
    "ray": """if [[ "$*" == *--head* ]]; then exec "$PYTHON" -c "$LISTEN" "$*"; else exec sleep 600; fi""",
    "python": 'if [ "$1" = - ]; then cat > "$CALLS.waiting"; else exec "$PYTHON" "$@"; fi',
}
LISTEN = """
import re, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(re.search(r"--port=(\\d+)", sys.argv[1])[1])))
time.sleep(600)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of three nodes."""
    for name, text in STAND_INS.items():
        said = 'echo "$(basename "$0") $* address=${RAY_ADDRESS:-} mode=${RAY_AUTH_MODE:-}" >> "$CALLS"'
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{said}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        job = listener.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return {
        **kept,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "LISTEN": LISTEN.replace("\\\\", "\\"),
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "node-[1-3]",
    }


def run(slurm: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *words], env=slurm, capture_output=True, text=True, timeout=60)


def test_a_verb_must_be_named(slurm: dict[str, str]) -> None:
    done = run(slurm)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a verb with its flags" in done.stderr
    assert not Path(slurm["CALLS"]).exists()


def test_a_head_and_workers_start_with_a_token_and_end_with_the_verb(slurm: dict[str, str]) -> None:
    assert run(slurm, "zoo", "--nothing").returncode == 2, "the verb's exit code is the job's"
    calls = Path(slurm["CALLS"]).read_text()
    address = f"127.0.0.1:{20000 + int(slurm['SLURM_JOB_ID']) % 10000}"
    assert "--nodelist=node-1 ray start --head --block --node-ip-address=127.0.0.1" in calls
    assert f"srun --nodes=2 --ntasks=2 --overlap --exclude=node-1 ray start --block --address={address}" in calls
    assert f"python - {address} 3 " in calls, "it waits until three nodes have joined"
    assert f"python -m igd_ray.cli zoo --nothing address={address} mode=token" in calls
    assert all("mode=token" in line for line in calls.splitlines() if line.startswith("ray "))
    compile(Path(f"{slurm['CALLS']}.waiting").read_text(), "waiting", "exec")
    token = Path(slurm["HOME"]) / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert re.fullmatch(r"[0-9a-f]{64}\n", token.read_text())
    with socket.socket() as asking:
        assert asking.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) != 0, "the head goes on"


def test_a_token_that_is_there_is_kept(slurm: dict[str, str]) -> None:
    token = Path(slurm["HOME"]) / "token"
    token.write_text("mine\n")
    assert run({**slurm, "RAY_AUTH_TOKEN_PATH": str(token)}, "zoo", "--nothing").returncode == 2
    assert token.read_text() == "mine\n"


def test_a_head_that_does_not_start_ends_the_job(slurm: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ray").write_text("#!/usr/bin/env bash\nexit 1\n")
    done = run(slurm, "zoo")
    assert done.returncode == 1
    assert "slurm.sh: Ray's head did not start on node-1" in done.stderr
