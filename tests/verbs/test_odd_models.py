"""Models that answer otherwise than one expects and can be evaluated all the same, from evaluation to verification."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.models.demo import WEIGHTS_FILE

NETS = """
from igd_ray.models.demo import DemoResNet


class Probabilities(DemoResNet):
    def forward(self, images):
        return super().forward(images).softmax(dim=1)


def logits():
    return DemoResNet()


def probabilities():
    return Probabilities()
"""

AUDIT = [
    *("audit-transfer-start-3", "audit-joint-loss-3", "audit-oracle-mask-3", "audit-detached-mask-3"),
    *("audit-identity-mask-3", "audit-line-3", "audit-square-eot-3", "audit-best-start-3"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    weights = load_file(WEIGHTS_FILE)
    save_file(weights, tmp_path / "own.safetensors")
    # Every digit is answered by the next one.
    rotated = {name: weights[name].roll(1, dims=0).contiguous() for name in ("linear.weight", "linear.bias")}
    save_file({**weights, **rotated}, tmp_path / "rotated.safetensors")
    return tmp_path


def model(folder: Path, factory: str, weights: str) -> list[str]:
    return ["--model", f"{folder / 'nets.py'}:{factory}", "--weights", str(folder / f"{weights}.safetensors")]


@pytest.mark.parametrize(("factory", "severity"), [("logits", "info"), ("probabilities", "warning")])
def test_probabilities_are_evaluated_and_warned_of(
    folder: Path, factory: str, severity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = folder / "results"
    given = ["--catalog", str(catalog), "--executor", "local", "--n", "12", "--attacks", "apgd-ce-5,square-20"]
    assert main(["evaluate", *model(folder, factory, "own"), *given]) == 0
    output = capsys.readouterr().out
    assert ("check output-range (none): the outputs sum to 1 and lie in [0, 1]" in output) is (severity == "warning")
    (finding,) = run_query(
        Catalog(catalog), """SELECT severity FROM checks WHERE "check" = 'output-range'"""
    ).to_pylist()
    assert finding == {"severity": severity}
    (row,) = run_query(Catalog(catalog), "SELECT n, clean_accuracy FROM worst_case").to_pylist()
    assert row == {"n": 12, "clean_accuracy": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_a_model_that_is_always_wrong_has_accuracy_0_everywhere(
    folder: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = str(folder / "results")
    rotated = model(folder, "logits", "rotated")
    ordinary = ["clean", "apgd-ce-5", "apgd-t-3", "fab-t-3", "square-20", "rays-20", "tr-apgd-ce-5", "tr-rays-20"]
    given = ["--catalog", catalog, "--executor", "local", "--n", "12", "--probe-n", "150", "--search-n", "60"]
    attacks = ["--attacks", ",".join([*ordinary, *AUDIT])]
    arguments = ["evaluate", *rotated, *given, "--defenses", "none,loir-8", *attacks, "--mode", mode]
    assert main(arguments) == 0
    capsys.readouterr()

    outcomes = run_query(Catalog(catalog), "SELECT defense, attack, status FROM outcomes").to_pylist()
    assert {row["status"] for row in outcomes} == {"misclassified"}
    assert {row["attack"] for row in outcomes if row["defense"] == "loir-8"} == {*ordinary, *AUDIT}
    for view in ("accuracy", "worst_case"):
        for row in run_query(Catalog(catalog), f"SELECT clean_accuracy, robust_accuracy FROM {view}").to_pylist():
            assert row == {"clean_accuracy": 0.0, "robust_accuracy": 0.0}

    assert main([*arguments, "--json"]) == 0  # from the catalog
    for row in json.loads(capsys.readouterr().out):
        assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())
        assert (row["n"], row["clean"], row["worst_case"]) == (12, 0, 0)
    assert main(["report", "--catalog", catalog]) == 0
    capsys.readouterr()
    assert main(["verify", "--catalog", catalog, "--model", rotated[1], "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert {(row["defense"], row["attack"]) for row in checked} == {(row["defense"], row["attack"]) for row in outcomes}
    assert {(row["images"], row["hold"], row["fail"]) for row in checked} == {(12, 12, 0)}
