"""Ray gives the rows that one process gives: with any number of actors, and after an actor was killed."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from runs import rows, run_evaluation, settings_for

from igd_ray.cluster import RayExecutor, ray_session
from igd_ray.pipeline.setup import ImageArrays, WorkerSetup
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.unit import Shard, UnitReport, shards_of
from igd_ray.pipeline.verbs import evaluate, plan_evaluation_of

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One Ray for the tests that need nothing special of it."""
    with ray_session(num_cpus=3):
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    catalog = tmp_path_factory.mktemp("local") / "results"
    run_evaluation(catalog)
    return rows(catalog)


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_any_number_of_actors_gives_the_rows_of_one_process(
    session: None, expected: list[dict[str, object]], tmp_path: Path, actors: int
) -> None:
    summary = run_evaluation(tmp_path / "results", executor=lambda setup: RayExecutor(setup, actors=actors))
    assert not summary.failed
    assert rows(tmp_path / "results") == expected


def test_killed_actors_lose_nothing(session: None, expected: list[dict[str, object]], tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    killed: list[int] = []

    class Hunted(RayExecutor):
        """Kills every actor once, while a unit is in flight."""

        def run(self, units):
            reports = super().run(units)
            # The ranking is one unit; the attacks are many.
            if len(units) > 4 and not killed:
                yield next(reports)
                killed.extend(placement.process for placement in self.workers.placements.values())
                for process in killed:
                    os.kill(process, signal.SIGKILL)
            yield from reports

    summary = run_evaluation(catalog, executor=lambda setup: Hunted(setup, actors=2))
    assert 1 <= len(killed) <= 2
    assert not summary.failed
    assert rows(catalog) == expected


class Deadly:
    """A unit that ends its worker's process."""

    kind = "deadly"
    tables = ("outcomes",)
    needs: frozenset[str] = frozenset()

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.key = f"deadly-{shard.start}"

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}


def test_a_unit_that_kills_its_workers_is_given_up_and_the_others_finish(session: None, tmp_path: Path) -> None:
    # Workers cannot import this file, so its classes travel with their code.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings = settings_for(tmp_path / "results", defenses="none", attacks="clean")
    with Study(settings) as study:
        study.catalog.create()
        units = [*plan_evaluation_of(study, settings).plan.units, Deadly(shards_of("test", study.test, 8)[0])]
        setup = WorkerSetup(study.source, str(study.catalog.root), {"test": ImageArrays.of(study.test)})
        with RayExecutor(setup, actors=1) as executor:
            reports: dict[str, UnitReport] = {report.key: report for report in executor.run(units)}
    assert len(reports) == len(units)
    error = reports.pop("deadly-0").error
    assert error is not None
    assert "died 3 times" in error
    assert all(report.error is None for report in reports.values())


def test_an_evaluation_of_a_study_runs_on_ray_by_its_settings(session: None, tmp_path: Path) -> None:
    from igd_ray.commands.executors import executor_for

    settings = settings_for(tmp_path / "results", attacks="clean", defenses="none")
    with Study(settings, executor=executor_for(settings)) as study:
        assert not evaluate(study, settings, plan_evaluation_of(study, settings)).failed
    assert {row["status"] for row in rows(tmp_path / "results")} <= {"robust", "misclassified"}


def test_an_actor_without_room_does_not_hold_units_back(session: None, tmp_path: Path) -> None:
    @ray.remote(num_cpus=2)
    class Neighbour:
        def here(self) -> bool:
            return True

    neighbour = Neighbour.remote()
    ray.get(neighbour.here.remote())
    try:
        settings = settings_for(tmp_path / "results", defenses="none", attacks="clean")
        # Three CPUs in all, two of them taken: of three actors, one can start.
        with Study(settings, executor=lambda setup: RayExecutor(setup, actors=3)) as study:
            assert not evaluate(study, settings, plan_evaluation_of(study, settings)).failed
    finally:
        ray.kill(neighbour)
