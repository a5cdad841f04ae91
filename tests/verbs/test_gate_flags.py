"""`igd evaluate --gate` as a pipeline runs it."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from igd_ray.cli import main
from igd_ray.verbs.submit import stage

SMALL = ["--n", "12", "--probe-n", "150", "--search-n", "60", "--executor", "local"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An evaluation, which its tests repeat from the catalog."""
    catalog = tmp_path_factory.mktemp("gates") / "results"
    words = ["evaluate", "--catalog", str(catalog), *SMALL, "--defenses", "none,loir-8", "--attacks", "clean,fgsm"]
    assert main(words) == 0
    return words


def test_a_claim_that_holds_ends_with_0(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([*command, "--gate", "clean >= 0.5"]) == 0
    captured = capsys.readouterr()
    assert "gate: loir-8: clean >= 0.5 holds (1.0000, 95 % interval 0.7575 to 1.0000, 12 images)" in captured.out
    assert captured.err.count("gate") == 0


def test_claims_that_fail_or_are_undecided_end_with_4_after_the_table(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    file = tmp_path / "junit.xml"
    gates = ["--gate", "gain >= 0", "--gate", "none: worst_case >= 1", "--gate", "clean >= 0.5"]
    assert main([*command, *gates, "--junit", str(file), "--json"]) == 4
    captured = capsys.readouterr()
    assert {row["defense"] for row in json.loads(captured.out)} == {"none", "loir-8"}
    lines = [line for line in captured.err.splitlines() if "gate" in line]
    assert len(lines) == 2
    assert lines[0].startswith("igd: gate: loir-8: gain >= 0 is undecided (")
    suite = ElementTree.parse(file).getroot()[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "2", "0"]


def test_gates_do_not_make_another_run(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*command, "--gate", "gain >= 0"])
    capsys.readouterr()
    catalog = command[command.index("--catalog") + 1]
    assert main(["status", "--catalog", catalog, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_gates_go_with_a_job(tmp_path: Path) -> None:
    given = [
        "--catalog",
        "/shared/results",
        "--defenses",
        "none,loir-8",
        "--gate",
        "gain >= 0",
        "--junit",
        "/shared/j.xml",
    ]
    assert stage("evaluate", given, tmp_path) == ["--gate=gain >= 0", "--junit=/shared/j.xml", "--config=settings.yaml"]
    assert "gate" not in (tmp_path / "settings.yaml").read_text()
