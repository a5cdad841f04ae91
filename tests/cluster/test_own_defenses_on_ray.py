"""Defenses in files of the user's on Ray: their code travels, and two actors give the rows of one process."""

from pathlib import Path

import pytest

from igd_ray.cluster import RayExecutor, ray_session
from tests.planning.test_own_defenses import JPEG, RESIZING, TWO_PASSES
from tests.toys.runs import rows, run_evaluation

pytestmark = pytest.mark.cluster

CHOICE = {
    "defenses": f"none,jpeg={JPEG},resizing={RESIZING},two-passes={TWO_PASSES}",
    "attacks": "apgd-ce-3,square-20,tr-apgd-ce-3,audit-joint-loss-3",
    "n": 16,
}


def test_two_actors_give_the_rows_of_one_process(tmp_path: Path) -> None:
    assert not run_evaluation(tmp_path / "local", **CHOICE).failed
    with ray_session(num_cpus=3):
        summary = run_evaluation(tmp_path / "ray", executor=lambda setup: RayExecutor(setup, actors=2), **CHOICE)
    assert not summary.failed
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    assert {row["defense"] for row in rows(tmp_path / "ray")} == {"none", "jpeg", "resizing", "two-passes"}
