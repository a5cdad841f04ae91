"""An evaluation, from settings to rows: complete, resumable, honest about failures, counted."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from igd_ray.attacks.apgd import APGD
from igd_ray.attacks.base import Points
from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import Catalog, run_query
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import IncompleteError, InputError
from igd_ray.execution.executor import LocalExecutor
from igd_ray.execution.session import require_all
from igd_ray.models.demo import WEIGHTS_FILE
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import UnitReport, execute
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.counting import PassCounter
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("finished") / "results"
    assert not run_evaluation(catalog).failed
    return catalog


def test_every_image_has_one_row_for_each_defense_and_attack(finished: Path) -> None:
    found = [(row["defense"], row["attack"], row["image_id"]) for row in rows(finished)]
    assert len(found) == len(set(found)) == 3 * 3 * 24


def test_status_follows_from_the_predictions(finished: Path) -> None:
    for row in rows(finished):
        if row["clean_prediction"] != row["label"]:
            assert row["status"] == "misclassified"
        elif row["adversarial_prediction"] != row["label"]:
            assert row["status"] == "broken"
            assert row["broken_any"]
        else:
            assert row["status"] == "robust"
            assert not row["broken_any"]
        assert 0 <= row["distance"] <= 0.15 + 1e-6


def test_the_clean_prediction_of_an_image_does_not_depend_on_the_attack(finished: Path) -> None:
    by_image: dict[tuple[object, object], set[object]] = {}
    for row in rows(finished):
        by_image.setdefault((row["defense"], row["image_id"]), set()).add(row["clean_prediction"])
    assert all(len(predictions) == 1 for predictions in by_image.values())


def test_the_worst_case_view_equals_a_reduction_in_python(finished: Path) -> None:
    for row in run_query(Catalog(finished), "SELECT * FROM worst_case").to_pylist():
        mine = [outcome for outcome in rows(finished) if outcome["defense"] == row["defense"]]
        images = {outcome["image_id"] for outcome in mine}
        robust = [
            all(outcome["status"] == "robust" for outcome in mine if outcome["image_id"] == image) for image in images
        ]
        assert row["robust_accuracy"] == pytest.approx(sum(robust) / len(images))
        assert row["n"] == 24
        assert row["attacks"] == 3


def test_a_second_run_computes_nothing_and_starts_no_executor(finished: Path) -> None:
    def refuse(_setup: WorkerSetup) -> LocalExecutor:
        raise AssertionError("an executor was started")

    before = rows(finished)
    summary = run_evaluation(finished, executor=refuse)
    assert summary.computed == 0
    assert summary.reused > 0
    assert rows(finished) == before


def test_a_resumed_run_computes_only_what_is_missing_and_gives_the_same_rows(finished: Path, tmp_path: Path) -> None:
    catalog = shutil.copytree(finished, tmp_path / "results")
    lost = sorted((catalog / "outcomes").glob("[0-9a-f]*.parquet"))[::5]
    for file in lost:
        file.unlink()
    assert run_query(Catalog(catalog), "SELECT robust_accuracy FROM worst_case WHERE robust_accuracy IS NULL").num_rows
    assert run_evaluation(catalog).computed == len(lost)
    assert rows(catalog) == rows(finished)


class Backwards(LocalExecutor):
    """Runs units in the reverse order."""

    def run(self, units):
        return super().run(list(reversed(units)))


def test_rows_do_not_depend_on_the_order_of_units(finished: Path, tmp_path: Path) -> None:
    run_evaluation(tmp_path / "results", executor=Backwards)
    assert rows(tmp_path / "results") == rows(finished)


def test_another_seed_gives_other_noise(finished: Path, tmp_path: Path) -> None:
    run_evaluation(tmp_path / "results", seed=1)
    seeds = [{row["seed"] for row in rows(catalog)} for catalog in (finished, tmp_path / "results")]
    assert not seeds[0] & seeds[1]


def test_a_failed_attack_is_an_error_never_a_robust_image(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: object) -> Points:
        raise RuntimeError("the attack crashed\nwith details")

    catalog = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(APGD, "search", crash)
        summary = run_evaluation(catalog, attacks="apgd-ce-5,square-20")
    attacks = [report.error for report in summary.failed if report.kind == "attack"]
    assert attacks == ["RuntimeError: the attack crashed"] * 9
    # A check of the points of each defense cannot be made either.
    assert [report.kind for report in summary.failed if report.kind != "attack"] == ["review"] * 3
    with pytest.raises(IncompleteError, match="12 of 33 evaluation units failed"):
        require_all(summary, "evaluation")
    assert {row["status"] for row in rows(catalog) if row["attack"] == "apgd-ce-5"} == {"error"}
    worst = run_query(Catalog(catalog), "SELECT robust_accuracy FROM worst_case")["robust_accuracy"].to_pylist()
    assert worst == [None, None, None]
    # The same command again tries the failed units, and only those.
    again = run_evaluation(catalog, attacks="apgd-ce-5,square-20")
    assert (again.computed, again.failed) == (12, ())
    expected = [row for row in rows(finished) if row["attack"] != "tr-apgd-ce-5"]
    assert rows(catalog) == expected


def test_transfers_of_a_failed_source_fail_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: object) -> Points:
        raise RuntimeError("no points")

    monkeypatch.setattr("igd_ray.attacks.transfer.TransferAPGD.search", crash)
    summary = run_evaluation(tmp_path / "results", defenses="loir-8", attacks="tr-apgd-ce-5")
    doomed = [report.kind for report in summary.failed if report.error == "its source unit failed"]
    assert sorted(doomed) == ["review", "transfer", "transfer", "transfer"]
    assert {row["status"] for row in rows(tmp_path / "results")} == {"error"}


def test_base_attacks_are_shared_by_every_defense(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, defenses="none,loir-8,cdir-8", attacks="aa,tr-aa,tr-apgd-ce")
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
    kinds = [unit.kind for unit in plan.units]
    # Three shards: AutoAttack on three defenses (the base's serves as `tr-aa`), one transfer source, transfers of both
    # to the two defenses; and the checks of three defenses.
    assert kinds.count("attack") == 3 * (3 + 1)
    assert kinds.count("transfer") == 3 * 2 * 2
    assert kinds.count("inspection") == 3
    assert not plan.sources


@pytest.mark.parametrize("label", ["none", "loir"])
@pytest.mark.parametrize("attack", ["apgd-ce-5", "square-20", "fab-t-2", "tr-apgd-ce-5", "clean"])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_recorded_passes_equal_those_that_hooks_count(
    finished: Path, tmp_path: Path, label: str, attack: str, sigma: float
) -> None:
    settings = settings_for(tmp_path / "results")
    with session_for(settings) as session:
        workspace = session.workspace
        ranking = run_query(Catalog(finished), "SELECT DISTINCT ranking_id FROM rankings WHERE method = 'loir'")
        setup = WorkerSetup(workspace.source, str(finished), {"test": ImageArrays.of(workspace.test)})
        shard = workspace.shards("test", 8)[0]
        defense = DefenseSpec(label, workspace.model_id)
        if label == "loir":
            ranking_id = ranking["ranking_id"].to_pylist()[0]
            defense = DefenseSpec(
                "loir-8", workspace.model_id, "masking", 8, sigma, 0.01, 3, workspace.layer, ranking_id
            )
        parsed = parse_attack(attack)
        unit = AttackUnit(defense, parsed, settings.threat, shard, 0, None, 2)
        context = Context(setup, "cpu")
        counter = PassCounter(context.model.conv1)
        outcomes = unit.compute(context)["outcomes"]
    assert sum(int(str(row["forwards"])) for row in outcomes) == counter.forwards
    assert sum(int(str(row["backwards"])) for row in outcomes) == counter.backwards
    assert counter.forwards > 0


def test_recorded_passes_of_a_transfer_equal_those_that_hooks_count(finished: Path) -> None:
    settings = settings_for(finished)
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
        unit = next(unit for unit in plan.units if isinstance(unit, TransferUnit))
        setup = WorkerSetup(workspace.source, str(finished), {"test": ImageArrays.of(workspace.test)})
        context = Context(setup, "cpu")
        counter = PassCounter(context.model.conv1)
        outcomes = unit.compute(context)["outcomes"]
    assert sum(int(str(row["forwards"])) for row in outcomes) == counter.forwards


def test_points_lost_from_the_catalog_are_computed_again(finished: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    run_evaluation(catalog, defenses="none", attacks="tr-apgd-ce-5")
    for file in (catalog / "adversarials").glob("[0-9a-f]*.parquet"):
        file.unlink()
    assert run_evaluation(catalog, defenses="none,loir-8", attacks="tr-apgd-ce-5").failed == ()
    expected = [row for row in rows(finished) if row["attack"] == "tr-apgd-ce-5" and row["defense"] != "random-8"]
    # The first run reports the undefended rows, too.
    twice = [row for row in expected if row["defense"] == "none"]
    found = rows(catalog)
    assert len(found) == len(expected) + len(twice)
    assert all(row in found for row in expected)


def test_what_an_interrupted_attempt_left_is_replaced(tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    run_evaluation(catalog, defenses="none", attacks="apgd-ce-5")
    names = [file.name for file in (catalog / "adversarials").glob("[0-9a-f]*.parquet")]
    kept = [Catalog(catalog).read("adversarials", name.removesuffix(".parquet")) for name in names]
    for name in names:
        (catalog / "outcomes" / name).unlink()
        (catalog / "adversarials" / name).write_bytes(b"from another attempt")
    assert run_evaluation(catalog, defenses="none", attacks="apgd-ce-5").failed == ()
    assert [Catalog(catalog).read("adversarials", name.removesuffix(".parquet")) for name in names] == kept


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [("square-20", []), ("apgd-ce-5", []), ("apgd-ce-5,square-20", ["none"]), ("clean", [])],
)
def test_queries_are_compared_with_gradients_only_where_both_ran(
    tmp_path: Path, attacks: str, expected: list[str]
) -> None:
    run_evaluation(tmp_path / "r", defenses="none", attacks=attacks)
    table = run_query(Catalog(tmp_path / "r"), "SELECT defense FROM checks WHERE checks.check = 'query-beats-gradient'")
    assert table["defense"].to_pylist() == expected


def test_arguments_of_the_factory_are_part_of_the_model(tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "r")) as session:
        workspace = session.workspace
        first = workspace.model_id
    (tmp_path / "net.py").write_text(
        "from igd_ray.models.demo import demo_model\n\ndef net(hidden=1):\n    return demo_model()\n"
    )
    ids = set()
    for hidden in (1, 2):
        given = {"model": f"{tmp_path / 'net.py'}:net", "weights": str(WEIGHTS_FILE), "model_arg": {"hidden": hidden}}
        with session_for(settings_for(tmp_path / "r", **given)) as session:
            workspace = session.workspace
            ids.add(workspace.model_id)
    assert len(ids | {first}) == 3


def test_a_model_without_a_penultimate_layer_can_be_attacked_undefended(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom igd_ray.models.demo import demo_model\n\n"
        "class Summed(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = demo_model()\n"
        "    def forward(self, x):\n        return self.inner(x).cumsum(dim=1)\n\n"
        "net = Summed\n"
    )
    weights = tmp_path / "net.safetensors"
    save_file({f"inner.{name}": tensor for name, tensor in load_file(WEIGHTS_FILE).items()}, weights)
    given = {"model": f"{tmp_path / 'net.py'}:net", "weights": str(weights), "attacks": "apgd-ce-5"}
    assert not run_evaluation(tmp_path / "r", defenses="none", **given).failed
    with pytest.raises(InputError, match="no penultimate layer"):
        run_evaluation(tmp_path / "r", defenses="loir-8", **given)


def test_a_replica_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "results", defenses="none")
    with session_for(settings) as session:
        workspace = session.workspace
        unit = plan_evaluation(workspace).units[0]
        source = type(workspace.source)("demo", None, {}, "0" * 32)
        workspace.catalog.create()
        context = Context(
            WorkerSetup(source, str(workspace.catalog.root), {"test": ImageArrays.of(workspace.test)}), "cpu"
        )
        report: UnitReport = execute(unit, context)
    assert report.error is not None
    assert "another model" in report.error


def test_images_come_back_from_arrays_exactly(tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "results")) as session:
        workspace = session.workspace
        arrays = ImageArrays.of(workspace.test)
        images, labels = arrays.slice(3, 9)
        assert torch.equal(images, workspace.test.images[3:9])
        assert torch.equal(labels, workspace.test.labels[3:9])
        images.zero_()
        assert torch.equal(arrays.slice(3, 9)[0], workspace.test.images[3:9]), "a shard must be a copy"


def test_what_others_need_runs_first_then_the_dearest(tmp_path: Path) -> None:
    changes = {"defenses": "none,loir-8", "attacks": "clean,apgd-ce-5,apgd-ce-50,square-20,tr-apgd-ce-5,tr-apgd-cw-50"}
    settings = settings_for(tmp_path / "r", **changes, n=8, shard_size=8)
    with session_for(settings) as session:
        workspace = session.workspace
        units = plan_evaluation(workspace).units
    order = [(unit.kind, unit.defense.label, unit.attack.label) for unit in units if hasattr(unit, "attack")]
    attacking = [entry for entry in order if entry[0] != "review"]
    assert attacking == [
        ("attack", "none", "clean"),
        ("attack", "none", "tr-apgd-cw-50"),
        ("attack", "none", "apgd-ce-50"),
        ("attack", "none", "square-20"),
        ("attack", "none", "tr-apgd-ce-5"),
        ("attack", "none", "apgd-ce-5"),
        ("transfer", "loir-8", "tr-apgd-ce-5"),
        ("transfer", "loir-8", "tr-apgd-cw-50"),
        ("attack", "loir-8", "apgd-ce-50"),
        ("attack", "loir-8", "square-20"),
        ("attack", "loir-8", "apgd-ce-5"),
        ("attack", "loir-8", "clean"),
    ]
    assert order[len(attacking) :] == [entry for entry in order if entry[0] == "review"]
