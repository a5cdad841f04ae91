"""Every defense through the pipeline: resolved from its label, computed, counted, stored with its settings."""

import json
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.errors import InputError
from igd_ray.planning.cost import costs
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.units.attack import AttackUnit
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.counting import PassCounter
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for

DEFENSES = "none,loir-8,cdir-8,random-8,random-drop-8,confidence-8,two-pass,smoothing-only,hedge,anti-adversary,sodef"
QUICK = {
    "sodef.projection_epochs": 1,
    "sodef.stability_epochs": 1,
    "sodef.classifier_epochs": 1,
    "hedge.steps": 2,
    "confidence.threshold": 0.8,
}
CHOICE = {"defenses": DEFENSES, "attacks": "apgd-ce-2,tr-apgd-ce-2", "defense_arg": QUICK, "n": 8, "shard_size": 8}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("defenses") / "results"
    assert not run_evaluation(catalog, **CHOICE).failed
    return catalog


def test_every_defense_faces_every_attack(finished: Path) -> None:
    found = {(row["defense"], row["attack"]) for row in rows(finished)}
    assert found == {(defense, attack) for defense in DEFENSES.split(",") for attack in ("apgd-ce-2", "tr-apgd-ce-2")}
    assert {row["status"] for row in rows(finished)} <= {"robust", "broken", "misclassified"}


def test_rows_hold_each_defense_s_settings_and_no_others(finished: Path) -> None:
    by_label = {row["defense"]: row for row in rows(finished)}
    held = {
        label: {name for name in ("k", "sigma", "tau", "draws", "layer", "ranking_id") if row[name] is not None}
        for label, row in by_label.items()
    }
    noise = {"sigma", "draws"}
    masked = {*noise, "k", "tau", "layer", "ranking_id"}
    assert held == {
        "none": set(),
        **dict.fromkeys(("loir-8", "cdir-8", "random-8", "random-drop-8", "confidence-8"), masked),
        "two-pass": {*noise, "tau", "layer"},
        "smoothing-only": noise,
        "hedge": set(),
        "anti-adversary": set(),
        "sodef": {"layer"},
    }
    assert by_label["random-drop-8"]["k"] == 56
    assert by_label["random-drop-8"]["ranking_id"] == by_label["random-8"]["ranking_id"]
    assert by_label["confidence-8"]["ranking_id"] == by_label["loir-8"]["ranking_id"]
    arguments = {label: json.loads(str(row["defense_arguments"])) for label, row in by_label.items()}
    assert arguments["hedge"] == {"epsilon": 0.15, "random_start": False, "step_size": 4 / 255, "steps": 2}
    assert arguments["confidence-8"] == {"threshold": 0.8}
    assert arguments["none"] == {}


def test_a_second_run_computes_nothing(finished: Path) -> None:
    assert run_evaluation(finished, **CHOICE).computed == 0


@pytest.mark.parametrize("label", [label for label in DEFENSES.split(",") if label != "none"])
def test_recorded_passes_equal_those_that_hooks_count_and_stay_below_the_bound(finished: Path, label: str) -> None:
    settings = settings_for(finished, **CHOICE)
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
        unit = next(unit for unit in plan.units if isinstance(unit, AttackUnit) and unit.defense.label == label)
        setup = WorkerSetup(workspace.source, str(finished), {"test": ImageArrays.of(workspace.test)})
        context = Context(setup, "cpu")
        counter = PassCounter(context.model.conv1)
        outcomes = unit.compute(context)["outcomes"]
        (bound,) = costs(Catalog(finished.parent / "empty"), [unit], num_classes=10)
    assert sum(int(str(row["forwards"])) for row in outcomes) == counter.forwards <= bound.forwards
    assert sum(int(str(row["backwards"])) for row in outcomes) == counter.backwards <= bound.backwards


def test_the_notes_say_on_which_images_each_preparation_worked(finished: Path) -> None:
    (notes,) = run_query(Catalog(finished), "SELECT notes FROM runs WHERE verb = 'evaluate'")["notes"].to_pylist()
    for method in ("loir: neurons ranked", "cdir: neurons ranked", "sodef: trained"):
        assert sum(note.startswith(f"{method} on 200 images") for note in notes) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"defenses": "none", "defense_arg": {"hedge.steps": 2}}, "no defense of the run takes it; add hedge"),
        ({"defenses": "hedge", "defense_arg": {"hedge.stepz": 2}}, "no defense has the argument 'hedge.stepz'"),
        ({"defenses": "hedge", "norm": "l2", "sigma": 0.1}, "hedge moves within an infinity-norm ball"),
        ({"defenses": "random-drop-64"}, "fewer than all can be dropped"),
        ({"defenses": "loir-65"}, "k must lie in 1…64"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_evaluation(tmp_path / "results", **given)
    assert not (tmp_path / "results").exists()
