"""Defenses without useful gradients: what looks robust falls to the gradient of a stand-in, or to the mean of many."""

from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from tests.planning.test_own_defenses import FOLDER, JPEG, RESIZING, TWO_PASSES
from tests.toys.runs import rows, run_evaluation

ROUNDED = """
from torch import nn

class Rounded(nn.Module):
    def __init__(self, model, levels):
        super().__init__()
        self.model, self.levels = model, levels
    def forward(self, x):
        return self.model((x * self.levels).round() / self.levels)

def factory(model, levels=32):
    return Rounded(model, levels)
"""


AVERAGED = """
from dataclasses import dataclass

from igd_ray.attacks import APGD

@dataclass(frozen=True, repr=False)
class Averaged(APGD):
    loss: str = "ce"
    steps: int = 10
    eot: int = 20
"""


def broken(catalog: Path, defense: str, attack: str) -> int:
    found = [row for row in rows(catalog) if (row["defense"], row["attack"]) == (defense, attack)]
    assert found
    return sum(row["status"] == "broken" for row in found)


def test_bpda_breaks_what_gradients_do_not_see(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ROUNDED)
    catalog = tmp_path / "results"
    run_evaluation(
        catalog, defenses=f"none,mine={file}:factory,two={TWO_PASSES}", attacks="apgd-ce-10,audit-bpda-10", n=24
    )
    assert broken(catalog, "none", "apgd-ce-10") >= 5
    assert broken(catalog, "mine", "apgd-ce-10") == 0
    assert broken(catalog, "mine", "audit-bpda-10") >= broken(catalog, "none", "apgd-ce-10") - 2
    # The other defenses have gradients to follow.
    assert {row["defense"] for row in rows(catalog) if row["attack"] == "audit-bpda-10"} == {"mine"}
    checks = run_query(
        Catalog(catalog), "SELECT defense, severity, value FROM checks WHERE \"check\" = 'zero-gradient'"
    )
    severities = {row["defense"]: (row["severity"], row["value"]) for row in checks.to_pylist()}
    assert severities["mine"] == ("warning", 1.0)
    assert severities["none"][0] == "info"


def test_a_run_without_it_says_so(tmp_path: Path) -> None:
    run_evaluation(tmp_path / "results", defenses=f"none,jpeg={JPEG}", attacks="apgd-ce-2", n=8)
    (notes,) = run_query(Catalog(tmp_path / "results"), "SELECT notes FROM runs")["notes"].to_pylist()
    assert "not measured: audit-bpda on jpeg, whose own gradients are useless to attacks" in notes


@pytest.mark.slow
def test_random_resizing_falls_to_averaged_gradients(tmp_path: Path) -> None:
    """Ten steps each; whether a point is robust is the majority of nine fresh draws."""
    (tmp_path / "averaged.py").write_text(AVERAGED)
    catalog = tmp_path / "results"
    run_evaluation(
        catalog,
        defenses=f"none,resizing={RESIZING}",
        attacks=f"apgd-ce-10,averaged={tmp_path / 'averaged.py'}:Averaged",
        n=64,
        shard_size=64,
        judge_draws=9,
    )
    left = {"apgd-ce-10": 0, "averaged": 0}
    for row in rows(catalog):
        if row["defense"] == "resizing" and row["status"] != "misclassified" and not row["broken_majority"]:
            left[str(row["attack"])] += 1
    assert left["apgd-ce-10"] - left["averaged"] >= 6


@pytest.mark.slow
def test_jpeg_compression_falls_to_within_five_points_of_the_base_model(shared: Path, tmp_path: Path) -> None:
    """On 64 CIFAR images: robust to APGD, which is blind, and broken under the audit, as the base model is."""
    catalog = tmp_path / "results"
    run_evaluation(
        catalog,
        model=f"{shared}/models/cifar_resnet.py:resnet18",
        model_arg={"width": 16},
        weights=f"{shared}/models/cifar10_resnet18_w16.safetensors",
        data=f"parquet:{shared}/data/cifar10/{{split}}.parquet",
        classes="cifar10",
        defenses=f"none,jpeg={FOLDER / 'jpeg.py'}:factory",
        attacks="apgd-ce,audit-bpda",
        n=64,
        shard_size=64,
    )
    alone = run_query(Catalog(catalog), "SELECT defense, attack, robust_accuracy FROM accuracy").to_pylist()
    audited = run_query(Catalog(catalog), "SELECT defense, robust_accuracy FROM worst_case").to_pylist()
    robust = {row["defense"]: row["robust_accuracy"] for row in alone if row["attack"] == "apgd-ce"}
    assert robust["jpeg"] > robust["none"] + 0.2
    worst = {row["defense"]: row["robust_accuracy"] for row in audited}
    assert abs(worst["jpeg"] - worst["none"]) <= 0.05
