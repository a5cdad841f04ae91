"""Defenses in files of the user's on Ray: their code travels, and two actors give the rows of one process."""

from pathlib import Path

import pytest

from igd_ray.cluster import RayExecutor
from tests.planning.test_own_defenses import BODY, JPEG, RESIZING, TWO_PASSES
from tests.planning.test_own_search import searched
from tests.toys.runs import rows, run_evaluation

pytestmark = pytest.mark.cluster

CHOICE = {
    "defenses": f"none,jpeg={JPEG},resizing={RESIZING},two-passes={TWO_PASSES}",
    "attacks": "apgd-ce-3,square-20,tr-apgd-ce-3,audit-joint-loss-3",
    "n": 16,
}


def test_two_actors_give_the_rows_of_one_process(session: None, tmp_path: Path) -> None:
    assert not run_evaluation(tmp_path / "local", **CHOICE).failed
    summary = run_evaluation(tmp_path / "ray", executor=lambda setup: RayExecutor(setup, actors=2), **CHOICE)
    assert not summary.failed
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    assert {row["defense"] for row in rows(tmp_path / "ray")} == {"none", "jpeg", "resizing", "two-passes"}


def test_an_exit_on_later_images_is_an_error_of_these(session: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    leave = "if len(x) == 5: import sys; sys.exit(0)\n        return self.model(x)"
    file.write_text(BODY.format(forward=leave, make="pass", more=""))
    choice = {"defenses": f"none,mine={file}:factory", "attacks": "fgsm", "n": 13, "shard_size": 8}
    summary = run_evaluation(tmp_path / "ray", executor=lambda setup: RayExecutor(setup, actors=1), **choice)
    assert {report.error for report in summary.failed} >= {
        "mine.py calls sys.exit or os._exit (status 0), which would end the run; remove the call"
    }
    errors = [row for row in rows(tmp_path / "ray") if row["status"] == "error"]
    assert {row["defense"] for row in errors} == {"mine"}
    assert len(errors) == 5


def test_trials_under_tune_are_those_of_one_process(
    session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--defense", f"mine={TWO_PASSES}", "--ks", "1,2,4,8"]
    local, ray = (searched(tmp_path / name, capsys, *words, executor=name) for name in ("local", "ray"))
    assert local == ray
