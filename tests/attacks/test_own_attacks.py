"""Attacks in files of the user's: told apart by their code, held to the contract, run like the package's own."""

import json
import re
from pathlib import Path

import pytest

from igd_ray.attacks.own import check_attack, named_attack, parse_own
from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.errors import InputError
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from tests.toys.runs import run_evaluation, settings_for

CORNERS = Path(__file__).parents[1] / "toys" / "own_attacks" / "corners.py"


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "mine.py"
    path.parent.mkdir()
    path.write_text(CORNERS.read_text())
    return path


def keys(tmp_path: Path, attack: str, **changes: object) -> set[str]:
    settings = settings_for(tmp_path / "results", attacks=attack, **{"n": 4, "defenses": "none", **changes})
    return {cell.unit.key for cell in plan_evaluation(Workspace(settings)).cells}


def test_it_is_told_apart_by_its_code_and_by_nothing_else(tmp_path: Path, a_file: Path) -> None:
    before = keys(tmp_path, f"mine={a_file}:Corners")
    assert keys(tmp_path, f"other={a_file}:Corners") == before, "its name is not part of what it computes"
    (a_file.parent / "beside.py").write_text("# not imported")
    assert keys(tmp_path, f"mine={a_file}:Corners") == before
    a_file.write_text(a_file.read_text().replace("queries: int = 4", "queries: int = 5"))
    assert keys(tmp_path, f"mine={a_file}:Corners").isdisjoint(before)


def test_it_runs_directly_as_a_transfer_and_adaptively(tmp_path: Path, a_file: Path) -> None:
    attacks = ",".join(f"{name}={a_file}:Corners" for name in ("mine", "tr-mine", "audit-mine"))
    choice = {"attacks": attacks, "defenses": "none,hedge", "defense_arg": {"hedge.steps": 2}, "n": 8}
    assert not run_evaluation(tmp_path / "results", **choice).failed
    found = run_query(
        Catalog(tmp_path / "results"),
        "SELECT attack, count(*) AS n, count(*) FILTER (status = 'error') AS errors FROM outcomes GROUP BY ALL "
        "ORDER BY ALL",
    ).to_pylist()
    assert found == [{"attack": attack, "n": 16, "errors": 0} for attack in ("audit-mine", "mine", "tr-mine")]
    assert run_evaluation(tmp_path / "results", **choice).computed == 0


def test_a_point_that_is_not_allowed_is_an_error_and_not_a_robust_image(tmp_path: Path, a_file: Path) -> None:
    a_file.write_text(a_file.read_text().replace("threat.epsilon *", "2 * threat.epsilon *"))
    summary = run_evaluation(tmp_path / "results", attacks=f"mine={a_file}:Corners", defenses="none", n=4)
    assert summary.failed
    (failure,) = run_query(Catalog(tmp_path / "results"), "SELECT DISTINCT status FROM outcomes").to_pylist() or [{}]
    assert failure in ({}, {"status": "error"})


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_an_exit_while_it_searches_is_an_error_and_not_the_exit_of_igd(
    tmp_path: Path, a_file: Path, leave: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file.write_text(a_file.read_text().replace("before = ", f"{leave}; before = "))
    words = [
        "evaluate",
        "--catalog",
        str(tmp_path / "results"),
        "--executor",
        "local",
        "--n",
        "4",
        "--defenses",
        "none",
    ]
    assert main([*words, "--attacks", f"mine={a_file}:Corners"]) == 1
    assert "mine.py calls sys.exit or os._exit (status 0), which would end the run" in capsys.readouterr().err


def test_what_it_prints_does_not_stand_among_results(
    tmp_path: Path, a_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file.write_text(a_file.read_text().replace("before = ", "print('searching'); before = "))
    words = [
        "evaluate",
        "--catalog",
        str(tmp_path / "results"),
        "--executor",
        "local",
        "--n",
        "4",
        "--defenses",
        "none",
    ]
    assert main([*words, "--attacks", f"mine={a_file}:Corners", "--json"]) == 0
    captured = capsys.readouterr()
    assert [row["defense"] for row in json.loads(captured.out)] == ["none"]
    assert "searching" in captured.err


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("mine=corners", "given as NAME=FILE.py:Attack"),
        ("mine@=a.py:A", "given as NAME=FILE.py:Attack"),
        ("aa=a.py:A", "one of this package's own"),
        ("tr-square=a.py:A", "one of this package's own"),
        ("iwwc=a.py:A", "one of this package's own"),
        ("Mine=a.py:A", "lower-case"),
        ("mine-3=a.py:A", "digit"),
        ("tr-audit-mine=a.py:A", "lower-case"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_read(entry: str, what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        check_attack(entry)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("import torch", "import sys; sys.exit(0)", "calls sys.exit"),
        ("import torch", "1 / 0", "ZeroDivisionError: division by zero"),
        ("class Corners(Attack)", "class Corners", "no subclass 'Corners' of igd_ray.attacks.Attack"),
        ("class Corners", "class Corner", "did you mean 'Corner'"),
        ("def most_passes", "def other", "most_passes"),
        ("queries: int = 4", "queries: int", "queries"),
        ("queries: int = 4", "queries: object = print", "its fields are its settings, and must be numbers"),
        ("queries: int = 4", "queries: float = float('nan')", "its fields are its settings, and must be numbers"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_that_names_it(a_file: Path, old: str, new: str, what: str) -> None:
    a_file.write_text(a_file.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=re.escape(what)) as error:
        named_attack(f"mine={a_file}:Corners")
    assert str(error.value).startswith("attack mine=mine.py:Corners: ")
    assert "\n" not in str(error.value)


def test_the_defense_that_it_attacks_must_be_there_and_its_name_be_its_own(tmp_path: Path, a_file: Path) -> None:
    assert parse_own(f"audit-mine@loir-8={a_file}:Corners").defense == "loir-8"
    with pytest.raises(InputError, match="attacks the defense 'hedge' only; add that to --defenses"):
        keys(tmp_path, f"mine@hedge={a_file}:Corners")
    with pytest.raises(InputError, match="two attacks are called 'mine'"):
        keys(tmp_path, f"mine={a_file}:Corners,mine={CORNERS}:Corners")


def test_verify_runs_its_file_only_where_the_command_names_it(
    tmp_path: Path, a_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = f"mine={a_file}:Corners"
    run_evaluation(tmp_path / "results", attacks=attack, defenses="none", n=4)
    catalog = ["--catalog", str(tmp_path / "results")]
    a_file.write_text("raise SystemExit('this must not run')")
    assert main(["verify", *catalog]) == 2
    assert f"name the run's attacks, where they are now: --attacks {attack}" in capsys.readouterr().err
    moved = tmp_path / "moved.py"
    moved.write_text(CORNERS.read_text())
    assert main(["verify", *catalog, "--attacks", f"mine={moved}:Corners"]) == 0
