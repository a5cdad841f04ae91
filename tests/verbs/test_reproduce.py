"""`igd reproduce` at small scale on the embedded model: measured beside published, and what differs is said."""

import json
from pathlib import Path

import pytest

from igd_ray.cli import main
from igd_ray.experiments import experiment_names

SMALL = ("--scale", "small", "--executor", "local", "--n", "8", "--probe-n", "200", "--search-n", "40")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("reproduced") / "results")


def reproduce(name: str, catalog: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["reproduce", name, *SMALL, "--catalog", catalog, "--json", *words]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_a_table_stands_beside_the_paper_s(catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    attacks = ["--defenses", "none,loir-8", "--attacks", "aa,tr-apgd-ce-2"]
    report = reproduce("table1", catalog, capsys, *attacks)
    assert "at small scale, with the model at hand (demo on digits)" in str(report["title"])
    rows = {(row["row"], row["column"]): row for row in report["rows"]}  # type: ignore[attr-defined]
    clean = rows["loir-8", "clean"]
    assert clean["published"] == 79.9, "of loir-50 on OAAT, the first base model of the table"
    assert clean["difference"] == pytest.approx(clean["measured"] - 79.9)
    assert clean["low"] < clean["measured"] <= clean["high"]
    assert rows["none", "iwwc"]["measured"] is None, "the worst case asks for all nine attacks"
    assert rows["none", "aa"]["published"] == 51.10


def test_an_analysis_and_its_figure(tmp_path: Path, catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = reproduce("fig8", catalog, capsys, "--figure", str(tmp_path / "fig8.svg"))
    assert (tmp_path / "fig8.svg").read_text().startswith("<svg ")
    assert all(row["published"] is None for row in report["rows"])  # type: ignore[attr-defined]
    table = reproduce("table7", catalog, capsys, "--attacks", "pgd-3")
    found = {row["column"]: row for row in table["rows"]}  # type: ignore[attr-defined]
    assert found["post_attack"]["published"] == 20.31
    assert found["post_attack"]["low"] is None, "a change is no share of images"


@pytest.mark.parametrize("name", experiment_names())
def test_a_dry_run_plans_every_experiment(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", name, *SMALL, "--catalog", str(tmp_path / "r"), "--dry-run", "--json"]) == 0
    assert '"total"' in capsys.readouterr().out
    assert not (tmp_path / "r").exists()


def test_a_table_is_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table1", *SMALL, "--figure", str(tmp_path / "t.svg")]) == 2
    assert "table1 is a table" in capsys.readouterr().err
