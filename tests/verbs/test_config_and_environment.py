"""A run repeated from its record, and settings from the environment."""

import json
from pathlib import Path

import pytest
import yaml

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from igd_ray.verbs.submit import stage
from tests.toys.commands import igd

SMALL = ["--n", "6", "--probe-n", "150", "--search-n", "60", "--executor", "local"]


def runs(catalog: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(igd(["status", "--catalog", str(catalog), "--json"], capsys))
    return found


@pytest.mark.parametrize(
    "words",
    [
        [
            "evaluate",
            "--defenses",
            "none,loir-8",
            "--attacks",
            "fgsm",
            "--eps",
            "4/255",
            "--sigma",
            "0.01",
            "--seed",
            "3",
        ],
        ["search", "--ks", "1,8,64", "--taus", "0.01,0.1"],
        ["rank", "--method", "loir,random", "--signed"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_is_repeated_from_its_record_with_equal_keys(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "settings.yaml"
    igd([*words, *SMALL, "--catalog", str(first)], capsys)
    (run,) = runs(first, capsys)
    file.write_text(igd(["config", "show", str(run["run_id"]), "--catalog", str(first)], capsys))
    igd([words[0], "--config", str(file), "--executor", "local", "--catalog", str(second)], capsys)
    assert [each["run_id"] for each in runs(second, capsys)] == [run["run_id"]]
    keys = [
        {(table, key) for table in ("outcomes", "rankings", "trials") for key in Catalog(each).keys(table)}
        for each in (first, second)
    ]
    assert keys[0]
    assert keys[0] == keys[1]


def test_settings_are_shown_without_defaults_and_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    igd(["evaluate", *SMALL, "--attacks", "clean", "--catalog", f"{tmp_path}/r"], capsys)
    text = igd(["config", "show", "--catalog", f"{tmp_path}/r"], capsys)
    assert text.startswith("# Run ")
    assert yaml.safe_load(text) == {"attacks": ["clean"], "n": 6, "probe_n": 150, "search_n": 60}


def test_a_run_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Catalog(tmp_path / "r").create()
    assert main(["config", "show", "0123", "--catalog", f"{tmp_path}/r"]) == 2
    assert "the catalog has no run to report on" in capsys.readouterr().err


def test_the_environment_names_catalog_and_executor_and_flags_and_files_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGD_CATALOG", f"{tmp_path}/environment")
    monkeypatch.setenv("IGD_EXECUTOR", "local")
    words = ["evaluate", "--n", "4", "--attacks", "clean"]
    igd(words, capsys)
    assert len(json.loads(igd(["status", "--json"], capsys))) == 1
    file = tmp_path / "settings.yaml"
    file.write_text(f"catalog: {tmp_path}/file\n")
    igd([*words, "--config", str(file)], capsys)
    igd([*words, "--config", str(file), "--catalog", f"{tmp_path}/flag"], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment", "file", "flag", "settings.yaml"]
    (tmp_path / "job").mkdir()
    stage("evaluate", ["--attacks", "clean"], tmp_path / "job")
    assert yaml.safe_load((tmp_path / "job" / "settings.yaml").read_text())["catalog"] == f"{tmp_path}/environment"


def test_an_executor_that_does_not_exist_is_refused_by_the_variable_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGD_EXECUTOR", "slurm")
    assert main(["evaluate", "--catalog", f"{tmp_path}/r", "--attacks", "clean"]) == 2
    assert capsys.readouterr().err == "igd: error: IGD_EXECUTOR must be one of ray, local, not 'slurm'\n"
    assert list(tmp_path.iterdir()) == []
