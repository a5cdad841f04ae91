"""`igd verify` as a user types it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.verbs.verify import MOST_LINES
from tests.toys.tampering import rewrite

SMALL = ["--n", "8", "--shard-size", "4", "--probe-n", "150", "--search-n", "60", "--executor", "local", "--json"]
CELLS = ["--defenses", "none,loir-8", "--attacks", "apgd-ce-5,tr-apgd-ce-5"]

MODEL_FILE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""

Rows = list[dict[str, object]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "results"
    assert main(["evaluate", "--catalog", str(folder), *SMALL, *CELLS]) == 0
    return folder


@pytest.fixture
def catalog(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished catalog, to be changed."""
    return shutil.copytree(finished, tmp_path / "results")


def one(catalog: Path, statement: str) -> dict[str, object]:
    return run_query(Catalog(catalog), statement).slice(0, 1).to_pylist()[0]


def test_verdicts_that_hold_end_in_one_line_and_exit_0(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    capsys.readouterr()
    assert main(["verify", "--catalog", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["defense", "attack", "images", "hold", "fail", "skipped", "without_points"]
    assert [line.split()[2:] for line in lines[2:6]] == [["8", "8", "0", "0", "0"]] * 4
    assert lines[-1] == "all 32 verdicts hold"
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before, "nothing is written"


def test_json_has_a_row_for_each_defense_and_attack(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["verify", "--catalog", str(finished), "--json", "--device", "cpu"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["defense"], row["attack"]) for row in rows} == {
        (defense, attack) for defense in ("none", "loir-8") for attack in ("apgd-ce-5", "tr-apgd-ce-5")
    }
    assert all((row["images"], row["hold"], row["fail"], row["failures"]) == (8, 8, 0, []) for row in rows)


def test_a_sample_says_how_much_it_is_of(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["verify", "--catalog", str(finished), "--sample", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["verified 2 of 8 cells", "all 8 verdicts hold"]
    rows = [line.split() for line in lines[2:4]]
    assert {defense for defense, *_ in rows} == {"none", "loir-8"}
    assert {attack for _, attack, *_ in rows} == {"apgd-ce-5", "tr-apgd-ce-5"}


def test_a_verdict_that_does_not_hold_is_named_and_exits_1(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = one(
        catalog,
        "SELECT unit_key, image_id FROM outcomes WHERE defense = 'loir-8' AND attack = 'apgd-ce-5' "
        "AND status = 'robust' ORDER BY image_id",
    )

    def change(rows: Rows) -> None:
        next(each for each in rows if each["image_id"] == row["image_id"])["status"] = "broken"

    rewrite(catalog, "outcomes", str(row["unit_key"]), change)
    capsys.readouterr()
    assert main(["verify", "--catalog", str(catalog)]) == 1
    captured = capsys.readouterr()
    line = f"loir-8 / apgd-ce-5, image {row['image_id']}: "
    assert captured.out.splitlines()[-1].startswith(line)
    assert "stored status 'broken'; now status 'robust'; its top two logits are " in captured.out
    error = captured.err.splitlines()[-1]
    assert error.startswith(f"igd: error: 1 of 32 stored verdicts do not hold, first {line}")
    assert main(["verify", "--catalog", str(catalog), "--json"]) == 1
    failed = [each for each in json.loads(capsys.readouterr().out) if each["fail"]]
    assert [failure["image_id"] for each in failed for failure in each["failures"]] == [row["image_id"]]


def test_many_failures_are_counted_not_all_printed(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in Catalog(catalog).keys("outcomes"):
        rewrite(catalog, "outcomes", key, lambda rows: [row.update(distance=0.5) for row in rows] and None)
    capsys.readouterr()
    assert main(["verify", "--catalog", str(catalog)]) == 1
    captured = capsys.readouterr()
    assert sum(line.count("stored distance 0.5") for line in captured.out.splitlines()) == MOST_LINES
    assert captured.out.splitlines()[-1] == f"and {32 - MOST_LINES} more, which --json lists"
    assert "32 of 32 stored verdicts do not hold" in captured.err


def test_the_latest_evaluation_is_verified_unless_a_run_is_named(
    catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(one(catalog, "SELECT run_id FROM runs WHERE verb = 'evaluate'")["run_id"])
    arguments = ["--catalog", str(catalog), *SMALL, "--defenses", "none", "--attacks", "clean"]
    assert main(["evaluate", *arguments]) == 0
    assert main(["rank", *[word for word in arguments if word not in ("--shard-size", "4")][:-4]]) == 0
    capsys.readouterr()
    assert main(["verify", "--catalog", str(catalog)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all 8 verdicts hold"
    assert main(["verify", "--catalog", str(catalog), "--run", first]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all 32 verdicts hold"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nothing"], "has no run 'nothing'"),
        (["--sample", "0"], "--sample must be at least 1, not 0"),
        (["--sampel", "3"], "did you mean '--sample'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_verified_is_told_in_one_line(
    finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["verify", "--catalog", str(finished), *words]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("igd: error: ")
    assert message in error[0]


def test_there_must_be_a_catalog_with_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--catalog", str(tmp_path / "none")]) == 2
    assert "no catalog at" in capsys.readouterr().err
    Catalog(tmp_path / "empty").create()
    assert main(["verify", "--catalog", str(tmp_path / "empty")]) == 2
    assert "has no evaluation to verify" in capsys.readouterr().err


def test_a_run_of_another_verb_and_damaged_settings_are_refused(
    catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = str(one(catalog, "SELECT run_id FROM runs WHERE verb = 'evaluate'")["run_id"])
    rewrite(catalog, "runs", run_id, lambda rows: rows[0].update(config='{"model": "demo\\u001b", "n": "many"}'))
    assert main(["verify", "--catalog", str(catalog)]) == 2
    assert f"the settings of run {run_id!r} cannot be used here: n: " in capsys.readouterr().err
    rewrite(catalog, "runs", run_id, lambda rows: rows[0].update(verb="rank"))
    assert main(["verify", "--catalog", str(catalog), "--run", run_id]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("igd: error: ")


def test_another_model_than_the_runs_is_refused_and_the_same_elsewhere_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(MODEL_FILE)
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(MODEL_FILE, scope)
    for name in ("first", "second"):
        save_file(scope["net"]().state_dict(), tmp_path / f"{name}.safetensors")
    shutil.copy(tmp_path / "first.safetensors", tmp_path / "moved.safetensors")
    model = ["--model", f"{tmp_path / 'net.py'}:net"]
    catalog = ["--catalog", str(tmp_path / "r")]
    weights = ["--weights", str(tmp_path / "first.safetensors")]
    assert main(["evaluate", *catalog, *SMALL, *model, *weights, "--attacks", "fgsm"]) == 0
    run_id = str(one(tmp_path / "r", "SELECT run_id FROM runs")["run_id"])
    (tmp_path / "first.safetensors").unlink()

    def verify(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["verify", *catalog, *words])
        captured = capsys.readouterr()
        return code, (captured.out if code == 0 else captured.err).splitlines()[-1]

    code, line = verify()
    assert code == 2
    assert "if you trust that file, name it with --model" in line
    code, line = verify(*model)
    assert code == 2
    assert "first.safetensors" in line
    code, line = verify(*model, "--weights", str(tmp_path / "second.safetensors"))
    assert code == 2
    assert f"the settings of run {run_id!r} give run " in line
    assert "name the run's with --model and --weights" in line
    code, line = verify(*model, "--weights", str(tmp_path / "moved.safetensors"))
    assert (code, line) == (0, "all 8 verdicts hold")


def test_an_evaluation_without_verdicts_yet_is_said_so(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (catalog / "outcomes").glob("[0-9a-f]*.parquet"):
        file.unlink()
    assert main(["verify", "--catalog", str(catalog)]) == 1
    assert "has no verdicts yet" in capsys.readouterr().err


def test_an_unfinished_evaluation_is_verified_as_far_as_it_is(
    catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = one(catalog, "SELECT unit_key FROM outcomes WHERE defense = 'loir-8'")
    (catalog / "outcomes" / f"{row['unit_key']}.parquet").unlink()
    capsys.readouterr()
    assert main(["verify", "--catalog", str(catalog)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["1 of 8 cells have no verdicts yet", "all 28 verdicts hold"]
