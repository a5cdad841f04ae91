"""`igd train` and `igd rank --import-from`, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest

from igd_ray.cli import main
from igd_ray.planning.training import SodefEpochUnit

SMALL = ["--n", "12", "--probe-n", "150", "--executor", "local"]
QUICK = [
    word for stage in ("projection", "stability", "classifier") for word in ("--defense-arg", f"sodef.{stage}_epochs=1")
]


def test_training_prints_an_epoch_a_row_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "sodef", "--catalog", str(tmp_path / "r"), *SMALL, *QUICK, "--json"]
    computed: list[int] = []
    compute = SodefEpochUnit.compute

    def stop_at_the_third(unit: SodefEpochUnit, context):
        if unit.epoch == 2 and computed == [0, 1]:
            raise KeyboardInterrupt
        computed.append(unit.epoch)
        return compute(unit, context)

    monkeypatch.setattr(SodefEpochUnit, "compute", stop_at_the_third)
    assert main(arguments) == 130
    computed.append(-1)
    assert main(arguments) == 0
    assert computed == [0, 1, -1, 2]
    table = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in table] == ["projection", "stability", "classifier"]
    assert all(row["loss"] > 0 for row in table)
    # What was trained serves the evaluation.
    evaluate = ["evaluate", "--catalog", str(tmp_path / "r"), *SMALL, *QUICK]
    assert main([*evaluate, "--defenses", "none,sodef", "--attacks", "clean", "--json"]) == 0
    assert computed == [0, 1, -1, 2]
    assert {row["defense"] for row in json.loads(capsys.readouterr().out)} == {"none", "sodef"}


def test_a_dry_run_of_a_training_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "sodef", "--catalog", str(tmp_path / "r"), *SMALL, *QUICK, "--dry-run", "--json"]
    assert main(arguments) == 0
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["sodef-epoch"]["units"] == 3
    assert rows["activations at penultimate"]["forward_passes"] == 150
    assert not (tmp_path / "r").exists()


def test_an_imported_ranking_serves_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "layer4"
    folder.mkdir()
    for neuron in range(64):
        np.save(folder / f"unit{neuron}.npy", np.full(10, 64 - neuron, dtype=np.float32))
    common = ["--catalog", str(tmp_path / "r"), *SMALL]
    assert main(["rank", *common, "--method", "loir", "--import-from", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["top_neurons"] for row in rows] == [list(range(8))] * 10
    ranking = rows[0]["ranking_id"]
    arguments = ["evaluate", *common, "--ranking", ranking, "--defenses", "loir-8", "--attacks", "clean", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["n"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "--method", "cdir", "--import-from", "missing"], "missing"),
        (["rank", "--import-from", "missing"], "needs --method loir or --method cdir"),
        (
            ["rank", "--method", "loir", "--import-from", "missing", "--signed"],
            "--signed is an option of loir rankings",
        ),
        (["rank", "--method", "loir", "--similarity", "wpmi"], "--similarity is an option of cdir rankings"),
        (["train", "sodef", "--defense-arg", "hedge.steps=3"], "hedge.steps: sodef does not take it"),
        (["train", "sodef", "--layer", "layer2"], "its layer is penultimate, not 'layer2'"),
        (["train", "sodef", "--probe-n", "5"], "the probe set has no image of 5 of 10 classes"),
        (["evaluate", "--defenses", "hedge", "--defense-arg", "hedge.steps=-1"], "steps must be at least 0, not -1"),
        (["evaluate", "--defenses", "hedge", "--defense-arg", "hedge.step_size=.inf"], "inf is not a finite number"),
        (["evaluate", "--defenses", "confidence-8", "--defense-arg", "confidence.threshold=2"], "threshold must"),
        (["rank", "--import-from", "missing", "--method", "loir,cdir"], "name one --method, not loir, cdir"),
        (["train", "sodef", "--defense-arg", "sodef.epoch=1"], "no defense has the argument 'sodef.epoch'"),
        (["train", "sodef", "--defense-arg", "sodef"], "--defense-arg must be NAME=VALUE, such as hedge.steps=20"),
        (["train", "hedge"], "invalid choice: 'hedge'"),
        (["rank", "--similarity", "wmpi"], "similarity must be one of soft-wpmi, wpmi, rank-reorder, not 'wmpi'"),
        (["rank", "--method", "cdir", "--prompt-template", "a photo"], "a template must have {}"),
        (["rank", "--layer", "layer9"], "the model has no layer 'layer9'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    small = [] if "--probe-n" in arguments else SMALL
    assert main([*arguments, "--catalog", str(tmp_path / "r"), *small, "--executor", "local"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("igd: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("method", ["random", "loir"])
def test_a_dry_run_of_a_ranking_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    assert main(["rank", "--method", method, "--catalog", str(tmp_path / "r"), *SMALL, "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["what"] == "total"
    assert rows[-1]["units"] == len(rows) - 1 == (method == "loir")
