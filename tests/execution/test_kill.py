"""A run that is killed in the middle of an attack, and asked for again, ends as if nothing had happened."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from tests.toys.commands import igd_command, interruptible
from tests.toys.runs import rows

# The attacks on the defense wait for those on the base model; RayS goes on long enough to be met in the middle.
ARGUMENTS = (
    "--executor=local",
    "--device=cpu",
    "--n=12",
    "--shard-size=4",
    "--probe-n=200",
    "--search-n=100",
    "--defenses=none,random-8",
    "--attacks=apgd-ce-5,tr-apgd-ce-5,rays-600",
    "--mode=cascade",
    "--sigma=0.05",
)


def arguments(catalog: Path) -> list[str]:
    return ["evaluate", f"--catalog={catalog}", *ARGUMENTS]


def committed(
    catalog: Path, tables: Sequence[str] = ("outcomes", "adversarials", "checks", "rankings", "noise")
) -> set[Path]:
    """The files of finished units."""
    return {file for table in tables for file in (catalog / table).glob("[0-9a-f]*.parquet")}


def finished_units(catalog: Path) -> int:
    return len(committed(catalog, ["outcomes"]))


def start_and_stop(catalog: Path, number: signal.Signals, *, units: int) -> subprocess.CompletedProcess[str]:
    """Run the command until `units` have finished, give the next one a moment, then send it the signal `number`."""
    process = interruptible(igd_command(*arguments(catalog)))
    deadline = time.monotonic() + 300
    while finished_units(catalog) < units:
        assert process.poll() is None, "it finished, or failed, before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, "", stderr)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("undisturbed") / "results"
    assert main(arguments(catalog)) == 0
    return catalog


def assert_resumes(catalog: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the same command again: only what had not finished is computed, and every row is there once."""
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in committed(catalog)}
    finished = {file.name for file in committed(catalog, ["outcomes"])}
    assert 0 < len(finished) < finished_units(undisturbed), "the run was stopped before or after its attacks"
    capsys.readouterr()
    assert main(arguments(catalog)) == 0
    assert "already there" in capsys.readouterr().err
    # What an attack had written when it was stopped, points without outcomes, may be written again; nothing else.
    written_again = {file for file, stamp in before.items() if (file.stat().st_mtime_ns, file.stat().st_ino) != stamp}
    assert all(file.parent.name == "adversarials" and file.name not in finished for file in written_again)
    assert {file.relative_to(catalog) for file in committed(catalog)} == {
        file.relative_to(undisturbed) for file in committed(undisturbed)
    }
    found = rows(catalog)
    cells = [(row["defense"], row["attack"], row["image_id"]) for row in found]
    assert len(cells) == len(set(cells)) == 2 * 3 * 12
    assert found == rows(undisturbed)
    assert rows_of_points(catalog) == rows_of_points(undisturbed)


def rows_of_points(catalog: Path) -> dict[str, list[dict[str, object]]]:
    # Not the files: each keeps its unit's outcomes too, which say how long they took.
    reader = Catalog(catalog)
    return {
        file.stem: reader.read("adversarials", file.stem).to_pylist() for file in committed(catalog, ["adversarials"])
    }


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(2,), (1, 7, 12)], ids=str)
def test_a_run_killed_in_the_middle_of_an_attack_goes_on_where_it_was(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kills: tuple[int, ...]
) -> None:
    catalog = tmp_path / "results"
    for units in kills:
        assert start_and_stop(catalog, signal.SIGKILL, units=units).returncode == -signal.SIGKILL
    assert_resumes(catalog, undisturbed, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_cascade_says_so_and_goes_on_where_it_was(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    catalog = tmp_path / "results"
    stopped = start_and_stop(catalog, number, units=7)
    assert stopped.returncode == code
    assert "every finished unit is kept" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert_resumes(catalog, undisturbed, capsys)
