"""What becomes of a unit when a worker executes it."""

from pathlib import Path

import torch
from torch import nn

from igd_ray.cluster.bench import NoOpUnit
from igd_ray.units.base import execute
from tests.toys.contexts import GivenModel


def test_a_unit_without_tables_is_computed_and_writes_nothing(tmp_path: Path) -> None:
    context = GivenModel(nn.Identity(), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), tmp_path / "results")
    before = sorted(tmp_path.rglob("*"))
    report = execute(NoOpUnit(1), context)
    assert (report.error, report.key) == (None, NoOpUnit(1).key)
    assert sorted(tmp_path.rglob("*")) == before
