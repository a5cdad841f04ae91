"""`--until decided` ends at the same look whatever the number of workers."""

from pathlib import Path

import pytest

from igd_ray.cluster import RayExecutor
from igd_ray.execution.executor import in_process
from tests.execution.test_until_decided import CHOICE, everything
from tests.toys.runs import UNEQUAL, run_evaluation

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("decided") / "results"
    assert not run_evaluation(catalog, in_process("cpu"), **CHOICE).failed
    return catalog


@pytest.mark.parametrize("actors", [1, 3])
def test_the_end_does_not_depend_on_the_workers(session: None, finished: Path, tmp_path: Path, actors: int) -> None:
    summary = run_evaluation(tmp_path / "results", lambda setup: RayExecutor(setup, actors=actors), **CHOICE)
    assert not summary.failed
    assert everything(tmp_path / "results") == everything(finished)
    assert set(UNEQUAL) == {"seconds", "host", "attempt", "run_id"}
