"""Stored points are judged again: what an evaluation stored holds, and whatever is changed afterwards is found."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import Catalog
from igd_ray.config import EvaluateSettings
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import IgdError, InputError
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.evaluation import EvaluationPlan, plan_evaluation
from igd_ray.threat import Norm, ThreatModel
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Shard, execute
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from igd_ray.verification.stored_runs import (
    StoredRun,
    find_run,
    finished_cells,
    labels_of,
    require_same_run,
    sample_cells,
    settings_of,
)
from igd_ray.verification.verdicts import Failure, UnitCheck, verify_cells, verify_unit
from tests.toys.runs import run_evaluation, settings_for
from tests.toys.sessions import session_for
from tests.toys.tampering import rewrite

Row = dict[str, object]
FEW = {
    "n": 8,
    "shard_size": 4,
    "probe_n": 150,
    "search_n": 60,
    "defenses": "none,loir-8",
    "attacks": "clean,apgd-ce-5,tr-apgd-ce-5",
    "judge_draws": 3,
}
LOCAL = {"executor": "local", "device": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("finished") / "results"
    assert not run_evaluation(catalog, **FEW).failed
    return catalog


@pytest.fixture
def catalog(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished catalog, to be changed."""
    return shutil.copytree(finished, tmp_path / "results")


def planned(catalog: Path, **changes: object) -> EvaluationPlan:
    settings = settings_for(catalog, **{**FEW, **changes})
    with session_for(settings) as session:
        workspace = session.workspace
        return plan_evaluation(workspace)


def verified(catalog: Path) -> dict[tuple[str, str, tuple[str, ...]], UnitCheck]:
    """What the verification of the latest run finds, by defense, attack and images."""
    store = Catalog(catalog)
    run = find_run(store, None)
    settings = settings_of(run, {"catalog": str(catalog), **LOCAL})
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
        require_same_run(workspace, run, plan)
        cells = finished_cells(store, plan)
        checks = verify_cells(workspace, cells, device="cpu")
    return {(*labels_of(cell), cell.unit.shard.ids): check for cell, check in zip(cells, checks, strict=True)}


def failures(catalog: Path) -> dict[tuple[str, str], list[Failure]]:
    """The failures by defense and attack, where there are any."""
    found: dict[tuple[str, str], list[Failure]] = {}
    for (defense, attack, _), check in verified(catalog).items():
        if check.failures:
            found.setdefault((defense, attack), []).extend(check.failures)
    return found


def a_verdict(catalog: Path, defense: str, attack: str, status: str) -> tuple[AttackUnit | TransferUnit, Row]:
    """A unit of that cell and one of its outcomes that has that status."""
    for cell in planned(catalog).cells:
        if labels_of(cell) == (defense, attack):
            for row in Catalog(catalog).read("outcomes", cell.unit.key).to_pylist():
                if row["status"] == status:
                    return cell.unit, row
    raise AssertionError(f"no {status} image under {defense} / {attack}")


def points_of(image_id: object, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["image_id"] == image_id]


def test_every_verdict_of_a_finished_evaluation_holds_also_of_a_random_defense(finished: Path) -> None:
    checks = verified(finished)
    assert len(checks) == 2 * 3 * 2
    assert all(check == UnitCheck(4, 0, 0, ()) and check.images == 4 for check in checks.values())


def test_a_pixel_moved_beyond_epsilon_is_found_where_the_point_is_and_where_it_is_carried_to(catalog: Path) -> None:
    unit, outcome = a_verdict(catalog, "none", "tr-apgd-ce-5", "broken")
    image_id = outcome["image_id"]

    def move(rows: list[Row]) -> None:
        pixels = points_of(image_id, rows)[0]["pixels"]
        pixels[5] = 1.0 if pixels[5] < 0.5 else 0.0

    rewrite(catalog, "adversarials", unit.key, move)
    found = failures(catalog)
    assert set(found) == {("none", "tr-apgd-ce-5"), ("loir-8", "tr-apgd-ce-5")}
    for (failure,) in found.values():
        assert failure.image_id == image_id
        assert "'highest-loss' is " in failure.reason
        assert "away, epsilon is 0.15" in failure.reason
        assert failure.margin is None


@pytest.mark.parametrize(
    ("pixel", "reason"),
    [
        (math.nan, "holds NaN or infinity"),
        (-0.001, "outside [0, 1]"),
        (1e38, "outside [0, 1]"),
        (None, "not an image of"),
    ],
)
def test_a_point_that_is_no_image_is_found(catalog: Path, pixel: float | None, reason: str) -> None:
    unit, outcome = a_verdict(catalog, "loir-8", "apgd-ce-5", "broken")

    def spoil(rows: list[Row]) -> None:
        points_of(outcome["image_id"], rows)[0]["pixels"][0] = pixel

    rewrite(catalog, "adversarials", unit.key, spoil)
    found = failures(catalog)[("loir-8", "apgd-ce-5")]
    assert outcome["image_id"] in {failure.image_id for failure in found}
    assert all(reason in failure.reason for failure in found)


def test_a_broken_point_replaced_by_the_clean_image_is_found_with_the_margin_there(catalog: Path) -> None:
    unit, outcome = a_verdict(catalog, "none", "apgd-ce-5", "broken")
    with session_for(settings_for(catalog, **FEW)) as session:
        workspace = session.workspace
        clean = workspace.test.images[workspace.test.ids.index(str(outcome["image_id"]))]
        top = workspace.model(clean[None])[0].topk(2).values

    def replace_points(rows: list[Row]) -> None:
        for row in points_of(outcome["image_id"], rows):
            row["pixels"] = clean.flatten().tolist()

    rewrite(catalog, "adversarials", unit.key, replace_points)
    ((cell, (failure,)),) = failures(catalog).items()
    assert cell == ("none", "apgd-ce-5")
    assert failure.image_id == outcome["image_id"]
    assert failure.reason.startswith("its stored point does not break it: stored status 'broken'")
    assert failure.margin == pytest.approx(float(top[0] - top[1]), rel=1e-4)


def test_a_broken_verdict_whose_point_is_gone_is_found(catalog: Path) -> None:
    unit, outcome = a_verdict(catalog, "none", "apgd-ce-5", "broken")

    def remove(rows: list[Row]) -> None:
        rows[:] = [row for row in rows if row["image_id"] != outcome["image_id"]]

    rewrite(catalog, "adversarials", unit.key, remove)
    ((cell, (failure,)),) = failures(catalog).items()
    assert (cell, failure.image_id) == (("none", "apgd-ce-5"), outcome["image_id"])
    assert failure.reason.startswith("no stored point: ")


FORGED = {"status": "robust", "broken_any": False, "broken_majority": False, "broken_all": False}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("status", {"status": "robust"}),
        ("status", {"status": "skipped"}),
        ("status", {"status": "misclassified"}),
        ("status", FORGED),
        ("broken_all", {"broken_all": None}),
        ("adversarial_prediction", {"adversarial_prediction": 11}),
        ("clean_prediction", {"clean_prediction": 11}),
        ("label", {"label": 11}),
        ("distance", {"distance": 0.1}),
        ("distance", {"distance": None}),
        ("epsilon", {"epsilon": 0.3}),
        ("defense_id", {"defense_id": "other"}),
    ],
)
def test_a_changed_verdict_is_found(catalog: Path, name: str, change: Row) -> None:
    unit, outcome = a_verdict(catalog, "loir-8", "tr-apgd-ce-5", "broken")

    def forge(rows: list[Row]) -> None:
        points_of(outcome["image_id"], rows)[0].update(change)

    rewrite(catalog, "outcomes", unit.key, forge)
    ((cell, (failure,)),) = failures(catalog).items()
    assert (cell, failure.image_id) == (("loir-8", "tr-apgd-ce-5"), outcome["image_id"])
    assert f"{name} {change[name]!r}" in failure.reason


def test_a_file_with_a_verdict_of_another_unit_holds_no_verdict(catalog: Path) -> None:
    unit, _ = a_verdict(catalog, "loir-8", "tr-apgd-ce-5", "broken")
    rewrite(catalog, "outcomes", unit.key, lambda rows: rows[0].update(unit_key="other"))
    ((cell, found),) = failures(catalog).items()
    assert cell == ("loir-8", "tr-apgd-ce-5")
    assert [failure.image_id for failure in found] == list(unit.shard.ids)


def test_a_robust_image_made_broken_is_found(catalog: Path) -> None:
    unit, outcome = a_verdict(catalog, "none", "clean", "robust")
    rewrite(catalog, "outcomes", unit.key, lambda rows: rows[0].update(status="broken", broken_any=True))
    ((cell, (failure,)),) = failures(catalog).items()
    assert cell == ("none", "clean")
    assert failure.reason.startswith("no stored point: stored status 'broken', broken_any True; now status 'robust'")
    assert outcome["status"] == "robust"


def test_missing_strange_and_repeated_verdicts_are_found(catalog: Path) -> None:
    plan = planned(catalog)
    first, second = [cell.unit.key for cell in plan.cells if labels_of(cell) == ("loir-8", "apgd-ce-5")]
    rewrite(catalog, "outcomes", first, lambda rows: rows.pop(0))
    rewrite(catalog, "outcomes", second, lambda rows: rows.append(dict(rows[0])))
    reasons = Counter(failure.reason for failure in failures(catalog)[("loir-8", "apgd-ce-5")])
    assert reasons.pop("no verdict is stored") == 1
    assert list(reasons.values()) == [4]
    rewrite(catalog, "outcomes", second, lambda rows: rows[-1].update(image_id="\x1bother"))
    found = failures(catalog)[("loir-8", "apgd-ce-5")]
    assert any(r"a verdict on '\x1bother', which is not among its images" in failure.reason for failure in found)


def test_a_changed_ranking_shows_in_the_verdicts_of_its_masks(catalog: Path) -> None:
    (file,) = (catalog / "rankings").glob("[0-9a-f]*.parquet")

    def reverse(rows: list[Row]) -> None:
        for row in rows:
            row["score"] = -float(str(row["score"]))
            row["rank"] = 63 - int(str(row["rank"]))

    rewrite(catalog, "rankings", file.stem, reverse)
    assert {defense for defense, _ in failures(catalog)} == {"loir-8"}


def test_points_that_are_gone_are_failures_and_verdicts_that_are_gone_are_unfinished(catalog: Path) -> None:
    unit, _ = a_verdict(catalog, "loir-8", "apgd-ce-5", "broken")
    (catalog / "adversarials" / f"{unit.key}.parquet").unlink()
    found = failures(catalog)[("loir-8", "apgd-ce-5")]
    assert {failure.image_id for failure in found} == set(unit.shard.ids)
    (catalog / "outcomes" / f"{unit.key}.parquet").unlink()
    assert len(verified(catalog)) == 2 * 3 * 2 - 1
    assert not failures(catalog)


@pytest.mark.parametrize("attack", ["apgd-ce-5", "tr-apgd-ce-5"])
def test_a_unit_that_was_split_is_judged_in_its_parts(finished: Path, tmp_path: Path, attack: str) -> None:
    cell = next(cell for cell in planned(finished).cells if labels_of(cell) == ("loir-8", attack))
    parts = cell.unit.halved()
    store = Catalog(tmp_path / "results")
    store.create()
    rows = [{"unit_key": cell.unit.key, "part_key": part.key, "images": len(part.shard.ids)} for part in parts]
    store.commit("splits", cell.unit.key, rows)
    run_evaluation(tmp_path / "results", **FEW)
    assert store.keys("outcomes") >= {part.key for part in parts}
    checks = verified(tmp_path / "results")
    assert all(check == UnitCheck(4, 0, 0, ()) for check in checks.values())
    rewrite(tmp_path / "results", "outcomes", parts[1].key, lambda rows: rows[0].update(clean_prediction=11))
    assert [failure.image_id for failure in failures(tmp_path / "results")[("loir-8", attack)]] == [
        parts[1].shard.ids[0]
    ]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = settings_for(tmp_path / "units", **{**FEW, "n": 24})
    with session_for(settings) as session:
        workspace = session.workspace
        workspace.catalog.create()
        setup = WorkerSetup(workspace.source, workspace.catalog.address, {"test": ImageArrays.of(workspace.test)})
        return Context(setup, "cpu")


def attack_unit(context: Context, label: str, **changes: object) -> AttackUnit:
    """An attack on the noisy model over all images of `context`."""
    test = context.setup.images["test"]
    shard = Shard("test", 0, len(test.ids), test.ids, "digest")
    smoothing = DefenseSpec("smoothing-only", "model", "smoothing-only", sigma=0.1, draws=1)
    threat = settings_for(Path("unused")).threat
    return replace(AttackUnit(smoothing, parse_attack(label), threat, shard, 0, None, 2), **changes)


def rewritten(context: Context, key: str, change: Callable[[list[Row]], None]) -> None:
    rewrite(context.catalog.root, "outcomes", key, change)


def test_images_that_an_earlier_unit_broke_are_skipped_and_no_others(context: Context) -> None:
    first = attack_unit(context, "fgsm", threat=ThreatModel(Norm.LINF, 0.1))
    second = attack_unit(context, "apgd-ce-5", after=(first.key,))
    for unit in (first, second):
        assert execute(unit, context).error is None
    statuses = Counter(context.catalog.read("outcomes", second.key)["status"].to_pylist())
    assert statuses["skipped"]
    assert statuses["broken"]
    check = verify_unit(second, context)
    assert check == UnitCheck(24 - statuses["skipped"], statuses["skipped"], 0, ())

    broken_rows: list[Row] = []

    def skip(rows: list[Row]) -> None:
        row = next(row for row in rows if row["status"] == "broken")
        judged = ("broken_any", "broken_majority", "broken_all", "adversarial_prediction", "distance")
        row.update(dict.fromkeys(judged), status="skipped")
        broken_rows.append(row)

    rewritten(context, second.key, skip)
    (failure,) = verify_unit(second, context).failures
    assert failure.image_id == broken_rows[0]["image_id"]
    assert "stored status 'skipped'" in failure.reason


@pytest.mark.parametrize("label", ["rays-2", "square-1"])
def test_images_that_noise_alone_broke_without_any_point_hold(context: Context, label: str) -> None:
    noisy = DefenseSpec("smoothing-only", "model", "smoothing-only", sigma=0.6, draws=1)
    unit = attack_unit(context, label, defense=noisy, threat=ThreatModel(Norm.LINF, 1e-3))
    assert execute(unit, context).error is None
    broken = {row["image_id"] for row in context.catalog.read("outcomes", unit.key).to_pylist() if row["broken_any"]}
    assert broken - set(context.catalog.read("adversarials", unit.key)["image_id"].to_pylist())
    assert verify_unit(unit, context) == UnitCheck(24, 0, 0, ())


def test_where_only_points_of_broken_images_are_kept_the_others_are_counted_not_judged(context: Context) -> None:
    unit = attack_unit(context, "apgd-ce-5", save_points="broken")
    assert execute(unit, context).error is None
    statuses = Counter(context.catalog.read("outcomes", unit.key)["status"].to_pylist())
    broken = statuses["broken"]
    assert 0 < broken < 24
    assert verify_unit(unit, context) == UnitCheck(broken, 0, 24 - broken, ())

    def forge(rows: list[Row]) -> None:
        next(row for row in rows if row["status"] == "robust").update(status="broken", broken_any=True)

    rewritten(context, unit.key, forge)
    (failure,) = verify_unit(unit, context).failures
    assert failure.reason.startswith("no stored point: ")


def test_where_no_points_are_kept_clean_predictions_are_all_that_is_judged(context: Context) -> None:
    unit = attack_unit(context, "apgd-ce-5", save_points="none")
    assert execute(unit, context).error is None
    assert verify_unit(unit, context) == UnitCheck(0, 0, 24, ())
    rewritten(context, unit.key, lambda rows: rows[3].update(clean_prediction=11))
    rewritten(context, unit.key, lambda rows: rows[4].update(status="skipped"))
    assert [failure.image_id for failure in verify_unit(unit, context).failures] == list(unit.shard.ids[3:5])


def test_no_memory_for_a_batch_is_an_error_not_a_failed_verdict(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = attack_unit(context, "clean")
    assert execute(unit, context).error is None

    def full(*_arguments: object, **_keywords: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("igd_ray.units.judged.clean_predictions", full)
    with pytest.raises(IgdError, match="memory does not suffice to judge 24 images as one batch"):
        verify_unit(unit, context)


def all_cells(tmp_path: Path) -> list[Cell]:
    return list(planned(tmp_path / "none", n=24, defenses="none,loir-8,random-8", shard_size=4).cells)


def test_a_sample_is_spread_evenly_and_always_the_same(tmp_path: Path) -> None:
    cells = all_cells(tmp_path)
    assert len(cells) == 3 * 3 * 6
    three = [labels_of(cell) for cell in sample_cells(cells, "run", 3)]
    assert len({defense for defense, _ in three}) == len({attack for _, attack in three}) == 3
    for count in (9, 18):
        pairs = Counter(labels_of(cell) for cell in sample_cells(cells, "run", count))
        assert set(pairs.values()) == {count // 9}
        assert len(pairs) == 9
    # More of a sample contain the fewer, in whatever order the cells come.
    few, many = sample_cells(cells, "run", 5), sample_cells(cells[::-1], "run", 11)
    assert {id(cell) for cell in few} < {id(cell) for cell in many}
    assert few != sample_cells(cells, "other", 5)
    assert sample_cells(cells, "run", 1000) == cells
    with pytest.raises(InputError, match="--sample must be at least 1, not 0"):
        sample_cells(cells, "run", 0)


def test_the_settings_of_a_run_are_those_it_was_given(finished: Path) -> None:
    run = find_run(Catalog(finished), None)
    settings = settings_of(run, {"catalog": str(finished), **LOCAL})
    assert settings == settings_for(finished, **FEW, **LOCAL)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"n": ', "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"modell": "demo"}', "unknown setting 'modell'"),
        ('{"n": -1}', "n: input should be greater than or equal to 1"),
        ('{"attacks": ["apgd-ce-5", 7]}', "cannot be used here"),
        ('{"attacks": ["nothing"]}', "unknown attack 'nothing'"),
        ('{"actors": 4}', "cannot be used here"),
        ('{"model_arg": {"device": "cuda"}}', "--model-arg device: a factory cannot have"),
    ],
)
def test_stored_settings_that_are_none_are_refused_in_one_line(config: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings_of(StoredRun("run", "model", config), LOCAL)
    assert "\n" not in str(caught.value)


def test_where_a_run_is_done_again_is_said_here_not_by_the_catalog() -> None:
    stored = json.dumps({"catalog": "/elsewhere", "executor": "ray", "device": "cuda"})
    settings = settings_of(StoredRun("run", "model", stored), {"catalog": "here", **LOCAL})
    assert (settings.catalog, settings.executor, settings.device) == ("here", "local", "cpu")


def test_code_that_only_a_catalog_names_does_not_run() -> None:
    run = StoredRun("run", "model", json.dumps({"model": "folder/net.py:net", "weights": "net.safetensors"}))
    with pytest.raises(InputError, match=r"is code, 'folder/net\.py:net'; .*, name it with --model"):
        settings_of(run, LOCAL)
    assert settings_of(run, {**LOCAL, "model": "net.py:net"}).model == "net.py:net"


def test_settings_that_go_only_with_others_do_not_stand_in_the_way() -> None:
    stored = EvaluateSettings(defenses=("none",), from_search=("abc",)).model_dump(mode="json")
    assert settings_of(StoredRun("run", "model", json.dumps(stored)), LOCAL).from_search == ("abc",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 7}, "the images here are not those that the run evaluated"),
        ({"probe_n": 151}, "its rankings or their images differ"),
    ],
)
def test_another_plan_than_the_runs_is_refused(finished: Path, change: Row, message: str) -> None:
    run = find_run(Catalog(finished), None)
    settings = settings_for(finished, **{**FEW, **change})
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
        with pytest.raises(InputError, match=f"give run '{plan.run_id}' here: {message}") as caught:
            require_same_run(workspace, run, plan)
    assert run.run_id in str(caught.value)
