"""Attacks in files of the user's on Ray: their code travels, and two actors give the rows of one process."""

from pathlib import Path

import pytest

from igd_ray.cluster import RayExecutor, ray_session
from tests.attacks.test_own_attacks import CORNERS
from tests.toys.runs import rows, run_evaluation

pytestmark = pytest.mark.cluster

CHOICE = {
    "defenses": "none,loir-8",
    "attacks": f"mine={CORNERS}:Corners,tr-mine={CORNERS}:Corners,audit-mine@loir-8={CORNERS}:Corners",
    "n": 16,
}


def test_two_actors_give_the_rows_of_one_process(tmp_path: Path) -> None:
    assert not run_evaluation(tmp_path / "local", **CHOICE).failed
    with ray_session(num_cpus=3):
        summary = run_evaluation(tmp_path / "ray", executor=lambda setup: RayExecutor(setup, actors=2), **CHOICE)
    assert not summary.failed
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    assert {row["attack"] for row in rows(tmp_path / "ray")} == {"mine", "tr-mine", "audit-mine"}
