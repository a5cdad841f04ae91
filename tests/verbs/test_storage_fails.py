"""A disk that is full, read-only or gone: one line, exit code 1, and every committed unit intact."""

import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from tests.toys.commands import igd_command

FLAGS = ["evaluate", "--n=96", "--shard-size=4", "--attacks=apgd-ce-5"]
LOCAL, RAY = ["--executor=local"], ["--executor=ray", "--actors=2", "--device=cpu"]

# In a mount namespace of its own, where a test may mount: fill a small disk, then make it read-only, and take away
# what was committed, for the test to see.
SCRIPT = """
mount -t tmpfs -o size=350k tmpfs {disk}
{igd} --catalog {disk}/results; echo "exit $?"
mount -o remount,ro {disk}
{igd} --catalog {disk}/results; echo "exit $?"
cp -r {disk}/results {kept}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers", [pytest.param(LOCAL, id="local"), pytest.param(RAY, id="ray", marks=pytest.mark.cluster)]
)
def test_a_full_and_then_read_only_disk(tmp_path: Path, workers: list[str]) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("needs a mount namespace of its own")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    igd = " ".join(igd_command(*FLAGS, *workers))
    script = SCRIPT.format(disk=disk, kept=kept, igd=igd)
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["exit 1", "exit 1"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("igd: error")]
    assert len(errors) == 2, done.stderr
    for line, reason in zip(errors, ("No space left on device", "Read-only file system"), strict=True):
        assert line.startswith("igd: error: cannot write ")
        assert reason in line
        assert "everything committed before is intact" in line
    assert "Traceback" not in done.stderr
    units = Catalog(kept).keys("outcomes")
    assert 0 < len(units) < 24
    # Whole files with all of their rows, and no half-written one beside them.
    assert run_query(Catalog(kept), "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 4 * len(units)}]
    assert list(kept.rglob("*.tmp")) == []


def test_a_vanished_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog, away = tmp_path / "results", tmp_path / "away"

    def vanish() -> None:
        while len(list(catalog.glob("outcomes/*.parquet"))) < 3:
            time.sleep(0.01)
        catalog.rename(away)

    thread = threading.Thread(target=vanish)
    thread.start()
    assert main([*FLAGS, *LOCAL, "--catalog", str(catalog)]) == 1
    thread.join()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("igd: error")]
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert not catalog.exists(), "nothing is written where the mount was"
    units = Catalog(away).keys("outcomes")
    assert run_query(Catalog(away), "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 4 * len(units)}]
