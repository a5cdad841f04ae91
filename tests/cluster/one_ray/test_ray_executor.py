"""Ray gives the rows that one process gives: with any number of actors, and after an actor was killed."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import save_file

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.cluster import RayExecutor
from igd_ray.models import load_model
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.report.html import write_report
from igd_ray.units.base import Shard, Unit, UnitReport, shards_of
from igd_ray.units.replica import ImageArrays, WorkerSetup
from igd_ray.verbs.evaluate import evaluate
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    catalog = tmp_path_factory.mktemp("local") / "results"
    run_evaluation(catalog)
    return rows(catalog)


# With two actors, too: below, where one of them dies.
@pytest.mark.parametrize("actors", [1, 3])
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


class Deadly(Unit):
    """A unit that ends its worker's process."""

    kind = "deadly"
    tables = ("outcomes",)

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    @property
    def key(self) -> str:
        return f"deadly-{self.shard.start}"

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}


def test_a_unit_that_kills_its_workers_is_given_up_and_the_others_finish(session: None, tmp_path: Path) -> None:
    # Workers cannot import this file, so its classes travel with their code.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings = settings_for(tmp_path / "results", defenses="none", attacks="clean")
    with session_for(settings) as session:
        workspace = session.workspace
        workspace.catalog.create()
        units = [*plan_evaluation(workspace).units, Deadly(shards_of("test", workspace.test, 8)[0])]
        setup = WorkerSetup(workspace.source, str(workspace.catalog.root), {"test": ImageArrays.of(workspace.test)})
        with RayExecutor(setup, actors=1) as executor:
            reports: dict[str, UnitReport] = {report.key: report for report in executor.run(units)}
    assert len(reports) == len(units)
    error = reports.pop("deadly-0").error
    assert error is not None
    assert "died 3 times" in error
    assert all(report.error is None for report in reports.values())


def test_an_evaluation_of_a_study_runs_on_ray_by_its_settings(session: None, tmp_path: Path) -> None:
    from igd_ray.verbs.flags import executor_for

    settings = settings_for(tmp_path / "results", attacks="clean", defenses="none", actors=1)
    with session_for(settings, executor_for(settings)) as session:
        workspace = session.workspace
        assert not evaluate(session, plan_evaluation(workspace)).failed
    assert {row["status"] for row in rows(tmp_path / "results")} <= {"robust", "misclassified"}


def test_an_actor_without_room_does_not_hold_units_back(session: None, tmp_path: Path) -> None:
    @ray.remote(num_cpus=1)
    class Neighbour:
        def here(self) -> bool:
            return True

    neighbour = Neighbour.remote()
    ray.get(neighbour.here.remote())
    try:
        settings = settings_for(tmp_path / "results", defenses="none", attacks="clean")
        # Two CPUs in all, one of them taken: of two actors, one can start.
        with session_for(settings, lambda setup: RayExecutor(setup, actors=2)) as session:
            workspace = session.workspace
            assert not evaluate(session, plan_evaluation(workspace)).failed
    finally:
        ray.kill(neighbour)


MODEL_FILE = """
import os, signal, sys
from igd_ray.models.demo import demo_model

def factory(deadly=None):
    model = demo_model()
    if deadly is not None:
        def look(_module, inputs):
            # The mean of one image's pixels; the driver only looks at the first image.
            if (inputs[0].flatten(1).mean(1) - deadly).abs().min() < 1e-6:
                os.kill(os.getpid(), signal.SIGSEGV)
        model.register_forward_pre_hook(look)
    return model
"""


def own_model(folder: Path) -> dict[str, object]:
    """Write a factory and its weights into `folder`; return the settings that name them."""
    folder.mkdir()
    (folder / "own.py").write_text(MODEL_FILE)
    save_file(load_model("demo").state_dict(), folder / "own.safetensors")
    return {"model": f"{folder / 'own.py'}:factory", "weights": str(folder / "own.safetensors")}


def test_an_image_that_kills_its_workers_is_an_error_and_the_report_says_why(
    session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tmp_path / "results", n=24)
    with session_for(settings) as session:
        workspace = session.workspace
        images = torch.cat([batch for batch, _ in workspace.test.batches(24)])
    # The 13th image, in the second of three shards.
    deadly = float(images[12].mean())
    summary = run_evaluation(
        tmp_path / "results",
        executor=lambda setup: RayExecutor(setup, actors=2),
        **own_model(tmp_path / "code"),
        model_arg={"deadly": deadly},
        defenses="none",
        attacks="clean",
    )
    # The second shard, and the inspection, which looks at all images.
    assert sorted(report.kind for report in summary.failed) == ["attack", "inspection"]
    assert all("quarantined: its worker died 3 times" in str(report.error) for report in summary.failed)
    catalog = Catalog(tmp_path / "results")
    statuses = run_query(catalog, "SELECT image_id, status FROM outcomes ORDER BY ALL").to_pylist()
    failed = {row["image_id"] for row in statuses if row["status"] == "error"}
    assert failed == set(workspace.test.ids[8:16])
    assert len(statuses) == 24
    (worst,) = run_query(catalog, "SELECT robust_accuracy FROM worst_case").to_pylist()
    assert worst["robust_accuracy"] is None
    states = run_query(catalog, "SELECT state, count(*) AS n FROM unit_states GROUP BY ALL").to_pylist()
    assert {row["state"]: row["n"] for row in states} == {"done": 2, "quarantined": 2}
    assert "quarantined: its worker died 3 times" in write_report(catalog, None, tmp_path / "report.html").read_text()
    assert main(["status", "--catalog", str(catalog.root)]) == 0
    assert "quarantined: its worker died 3 times" in capsys.readouterr().out


@pytest.mark.parametrize("files", [1, 3])
def test_code_and_weights_are_shipped_and_the_drivers_paths_do_not_matter(
    session: None, tmp_path: Path, files: int
) -> None:
    model = own_model(tmp_path / "code")
    if files > 1:
        # The model is in a module beside the factory's file, which imports another.
        (tmp_path / "code" / "own.py").rename(tmp_path / "code" / "hidden.py")
        (tmp_path / "code" / "own.py").write_text("from blocks import factory\n")
        (tmp_path / "code" / "blocks.py").write_text("from hidden import factory\n")

    class Moved(RayExecutor):
        """Takes the files away once workers are to start."""

        def run(self, units):
            for file in (tmp_path / "code").iterdir():
                file.unlink()
            return super().run(units)

    summary = run_evaluation(
        tmp_path / "results",
        executor=lambda setup: Moved(setup, actors=1),
        **model,
        defenses="none",
        attacks="clean",
    )
    assert not summary.failed
    assert len(rows(tmp_path / "results")) == 24


def test_workers_that_do_not_see_the_catalog_commit_on_the_drivers_node(
    session: None, expected: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To workers the folder has another name, under which there is nothing, as on a node without the shared mount.
    monkeypatch.setattr(
        WorkerSetup, "without_images", lambda self: replace(self, images={}, catalog=str(tmp_path / "elsewhere"))
    )
    summary = run_evaluation(tmp_path / "results", executor=lambda setup: RayExecutor(setup, actors=2))
    assert not summary.failed
    assert rows(tmp_path / "results") == expected
    assert not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "results").glob(".*")) == [], "the question of who shares the storage is cleared away"


def test_the_keeper_of_the_catalog_may_die_and_costs_no_unit_an_attempt_of_its_own(
    session: None, expected: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        WorkerSetup, "without_images", lambda self: replace(self, images={}, catalog=str(tmp_path / "elsewhere"))
    )
    killed: list[object] = []

    class Unkept(RayExecutor):
        """Kills the keeper once, while units are in flight."""

        def run(self, units):
            reports = super().run(units)
            if len(units) > 4 and not killed:
                yield next(reports)
                killed.append(self.workers._keeper)
                ray.kill(self.workers._keeper)
            yield from reports

    catalog = tmp_path / "results"
    summary = run_evaluation(catalog, executor=lambda setup: Unkept(setup, actors=2))
    assert len(killed) == 1
    assert not summary.failed
    assert rows(catalog) == expected
    outcomes = run_query(Catalog(catalog), "SELECT outcome FROM attempts")["outcome"].to_pylist()
    assert set(outcomes) == {"done", "lost"}
