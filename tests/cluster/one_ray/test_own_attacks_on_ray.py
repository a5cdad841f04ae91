"""Attacks, other models and points in files of the user's on Ray: two actors give the rows of one process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from igd_ray.cluster import RayExecutor
from igd_ray.data import load_images
from tests.attacks.test_own_attacks import CORNERS
from tests.planning.test_transfers_from_other_models import OTHER
from tests.toys.runs import rows, run_evaluation

pytestmark = pytest.mark.cluster

CHOICE = {
    "defenses": "none,loir-8",
    "attacks": f"mine={CORNERS}:Corners,tr-mine={CORNERS}:Corners,audit-mine@loir-8={CORNERS}:Corners,"
    f"tr-apgd-ce-5@other={OTHER}:factory",
    "n": 16,
}


def test_two_actors_give_the_rows_of_one_process(session: None, tmp_path: Path) -> None:
    images = load_images("digits", n=16).images
    np.savez(tmp_path / "theirs.npz", (images + 0.1 * torch.randn(images.shape).sign()).clamp(0, 1).numpy())
    choice = {**CHOICE, "points": f"theirs={tmp_path / 'theirs.npz'}"}
    assert not run_evaluation(tmp_path / "local", **choice).failed
    summary = run_evaluation(tmp_path / "ray", executor=lambda setup: RayExecutor(setup, actors=2), **choice)
    assert not summary.failed
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    by_attack = {str(row["attack"]): row["defense"] for row in rows(tmp_path / "ray")}
    assert set(by_attack) == {"mine", "tr-mine", "audit-mine", "tr-apgd-ce-5@other", "theirs"}
