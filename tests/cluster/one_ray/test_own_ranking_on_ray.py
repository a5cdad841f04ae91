"""A ranking in a file of the user's reaches Ray's actors as a model's file does, and gives what one process gives."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from igd_ray.cluster import RayExecutor
from igd_ray.config import RankSettings, load_settings
from igd_ray.execution.session import ExecutorFactory
from igd_ray.planning.rankings import plan_ranking
from igd_ray.ranking import RANKINGS, NeuronScores
from igd_ray.units.ranking import read_ranking
from tests.toys.sessions import session_for

pytestmark = pytest.mark.cluster

OWN = Path(__file__).parents[2] / "toys" / "own_rankings"


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget what a test registers."""
    yield
    RANKINGS.pop("mine", None)


def ranked(folder: Path, file: Path, executor: ExecutorFactory | None) -> NeuronScores:
    given = {
        "method": f"mine={file}:PoweredActivation",
        "method_arg": {"mine.power": 2},
        "probe_n": 600,
        "layer": "layer1",
        "catalog": str(folder),
    }
    with session_for(load_settings(RankSettings, file=None, given=given), executor) as session:
        plan = plan_ranking(session.workspace, "mine")
        session.rank(plan)
        return read_ranking(session.workspace.catalog, plan.ranking_id)


def test_two_actors_give_what_one_process_gives(session: None, tmp_path: Path) -> None:
    file = Path(shutil.copytree(OWN, tmp_path / "own")) / "powered_activation.py"
    expected = ranked(tmp_path / "local", file, None)
    found = ranked(tmp_path / "ray", file, lambda setup: RayExecutor(setup, actors=2))
    assert torch.equal(found.scores, expected.scores)
    assert found.details == expected.details
