"""`--until decided`: where it ends, that it goes on where it was, and that the place of work does not matter."""

import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.errors import InputError
from igd_ray.execution.executor import in_process
from igd_ray.identity import derive_seed
from igd_ray.planning.evaluation import looks, plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.statistics import Comparison
from tests.execution.test_kill import finished_units
from tests.toys.commands import igd_command, interruptible
from tests.toys.runs import rows, run_evaluation, settings_for

# Two random neurons of 64 lose most images at once; ten of them lose some, and the noise of these masks changes others.
CHOICE: dict[str, object] = {
    "n": 48,
    "shard_size": 8,
    "defenses": "none,random-2,confidence-8",
    "attacks": "apgd-ce-5,tr-apgd-ce-5",
    "mode": "cascade",
    "until": "decided",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("decided") / "results"
    assert not run_evaluation(catalog, in_process("cpu"), **CHOICE).failed
    return catalog


def images(catalog: Path) -> dict[str, list[str]]:
    """The images of each defense, in the order in which the run took them."""
    order = Workspace(settings_for(catalog, **CHOICE)).test.ids
    evaluated = {(row["defense"], row["image_id"]) for row in rows(catalog)}
    return {name: [each for each in order if (name, each) in evaluated] for name in {name for name, _ in evaluated}}


def compared(catalog: Path, defense: str, among: list[str]) -> Comparison:
    """The defense against none on some images, from the rows."""
    robust: dict[tuple[object, object], bool] = {}
    for row in rows(catalog):
        place = row["defense"], row["image_id"]
        robust[place] = robust.get(place, True) and row["status"] == "robust"
    gained = sum(robust[defense, image] and not robust["none", image] for image in among)
    lost = sum(robust["none", image] and not robust[defense, image] for image in among)
    return Comparison(len(among), gained, lost, anytime=True)


def test_the_looks_reach_every_shard_and_grow_with_what_is_known() -> None:
    assert list(looks(1)) == [1]
    assert list(looks(9)) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    many = list(looks(1000))
    assert many[-1] == 1000
    assert all(second - first <= max(1, first / 4) for first, second in pairwise(many))


def test_a_defense_ends_at_the_first_look_that_decides_it_and_the_others_go_on(finished: Path) -> None:
    evaluated = images(finished)
    order = Workspace(settings_for(finished, **CHOICE)).test.ids
    for defense in ("random-2", "confidence-8"):
        mine = evaluated[defense]
        assert mine == list(order[: len(mine)])
        assert len(mine) % 8 == 0
        for end in range(8, len(mine), 8):
            assert not compared(finished, defense, mine[:end]).is_decided, f"{defense} was decided after {end} images"
        assert compared(finished, defense, mine).is_decided or len(mine) == 48
    assert len(evaluated["random-2"]) < len(evaluated["none"]) == max(map(len, evaluated.values()))


def test_claims_and_intervals_of_the_report_are_those_that_hold_at_every_look(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = images(finished)
    for row in run_query(Catalog(finished), "FROM claims").to_pylist():
        expected = compared(finished, row["defense"], evaluated[row["defense"]])
        assert (row["images"], row["gained"], row["lost"]) == expected[:3]
        assert (row["test"], row["claim"]) == ("anytime", expected.verdict)
        assert row["p"] == pytest.approx(expected.p, rel=1e-9)
    worst = {row["defense"]: row for row in run_query(Catalog(finished), "FROM worst_case").to_pylist()}
    loss = compared(finished, "random-2", evaluated["random-2"])
    assert worst["random-2"]["gain"] == pytest.approx((loss.gained - loss.lost) / loss.images)
    assert worst["random-2"]["sequence_low"] <= worst["random-2"]["low"]
    assert main(["report", "--catalog", str(finished), "--output", str(finished / "page.html")]) == 0
    capsys.readouterr()
    page = (finished / "page.html").read_text()
    assert "Images came in a random order until each gain was decided: " in page
    assert f"random-2 is decided as a loss after {loss.images} of at most 48 images" in page
    assert "Wilson" not in page
    assert "valid at every look" in page


def test_the_same_command_again_computes_nothing_and_verify_finds_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*.parquet")}
    assert run_evaluation(finished, **CHOICE).computed == 0
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*.parquet")} == before
    assert main(["verify", "--catalog", str(finished)]) == 0
    assert "cells have no verdicts as the run ended before" in capsys.readouterr().out


def test_the_order_is_drawn_by_the_seed_and_the_images(tmp_path: Path) -> None:
    def order(**changes: object) -> tuple[str, ...]:
        return Workspace(settings_for(tmp_path / "results", **{**CHOICE, **changes})).test.ids

    split = order(until=None)
    assert order() == tuple(sorted(split, key=lambda image: derive_seed(image, "order:0")))
    assert order() != order(seed=1) != split
    # Images keep their order when there are more of them.
    assert [image for image in order(n=96) if image in split] == list(order())


def test_one_attack_keeps_its_units_whatever_ends_the_run(tmp_path: Path) -> None:
    """A look plans the units of the whole evaluation, no others."""
    plan = plan_evaluation(Workspace(settings_for(tmp_path / "results", **CHOICE)))
    look = plan.until({"none": 3, "random-2": 1, "confidence-8": 3})
    keys = {cell.unit.key for cell in plan.cells}
    assert {cell.unit.key for cell in look.cells} < keys
    assert look.run_id == plan.run_id
    assert {len(cell.unit.shard.ids) for cell in look.cells} == {8}
    assert (
        plan.run_id != plan_evaluation(Workspace(settings_for(tmp_path / "results", **CHOICE | {"until": None}))).run_id
    )


@pytest.mark.parametrize("defenses", ["none", "random-2", "random-2,confidence-8"])
def test_without_two_to_compare_it_is_refused(tmp_path: Path, defenses: str) -> None:
    with pytest.raises(InputError, match="--defenses none,"):
        settings_for(tmp_path / "results", **CHOICE | {"defenses": defenses})


def test_a_dry_run_tells_the_bound_and_the_first_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICE.items()]
    assert main(["evaluate", "--executor=local", f"--catalog={tmp_path / 'results'}", *given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("At most")
    assert "of which before the first look, at which it may end" in printed
    assert not (tmp_path / "results").exists()


def everything(catalog: Path) -> list[object]:
    units = run_query(Catalog(catalog), "SELECT * FROM run_units ORDER BY ALL").to_pylist()
    noise = run_query(Catalog(catalog), "SELECT * FROM noise ORDER BY ALL").to_pylist()
    return [rows(catalog), units, noise]


@pytest.mark.slow
def test_a_run_killed_between_looks_ends_as_if_nothing_had_happened(finished: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    given = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICE.items()]
    command = [
        "evaluate",
        "--executor=local",
        "--device=cpu",
        "--probe-n=200",
        "--search-n=100",
        f"--catalog={catalog}",
        *given,
    ]
    for units in (4, 11):
        process = interruptible(igd_command(*command))
        while finished_units(catalog) < units:
            assert process.poll() is None, "it finished before it could be stopped"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert main(command) == 0
    assert everything(catalog) == everything(finished)
