"""What README says of the published worst case, from its committed outcome rows: what the plan saved, and reused."""

import pyarrow.parquet as pq
import pytest
from published import REPOSITORY

from igd_ray.protocol import NINE_ATTACKS

Row = dict[str, object]

DEFENSES = ("none", "cdir-16", "loir-16")
BASE_ATTACKS = [name for name in NINE_ATTACKS if name.startswith("tr-")]

# Rows of attacks on the base model whose gradients were averaged over 20 passes, as published; no run reports them.
PUBLISHED_EOT = "published-eot"


@pytest.fixture(scope="module")
def outcomes() -> list[Row]:
    return pq.read_table(REPOSITORY / "docs" / "results" / "cifar10-worst-case.parquet").to_pylist()


def runs_of(outcomes: list[Row]) -> tuple[str, str, str]:
    """The ids of the full run, of the cascade, and of the cascade with another k."""
    ids = {str(row["run_id"]) for row in outcomes} - {PUBLISHED_EOT}
    second = next(run for run in ids if any(row["defense"] == "loir-8" for row in outcomes if row["run_id"] == run))
    cascade, full = sorted(
        ids - {second},
        key=lambda run: (
            not any(
                row["run_id"] == run and row["status"] == "skipped" for row in outcomes if row["attack"] in NINE_ATTACKS
            )
        ),
    )
    return full, cascade, second


def passes(rows: list[Row]) -> int:
    """Forward and backward passes, each unit's once."""
    counted = {
        (row["unit_key"], row["image_id"]): int(str(row["forwards"])) + int(str(row["backwards"])) for row in rows
    }
    return sum(counted.values())


def test_the_cascade_takes_at_most_half_the_passes_of_nine_separate_attacks(outcomes: list[Row]) -> None:
    full, cascade, _ = runs_of(outcomes)
    images = {row["image_id"] for row in outcomes if row["run_id"] == full}

    def cell(run: str, defense: str, attack: str) -> list[Row]:
        found = [row for row in outcomes if (row["run_id"], row["defense"], row["attack"]) == (run, defense, attack)]
        assert len(found) == len(images)
        return found

    separate = 0
    for defense in DEFENSES:
        for attack in NINE_ATTACKS:
            averaged = attack.endswith("apgd-eot")
            if attack in BASE_ATTACKS:
                separate += passes(cell(PUBLISHED_EOT if averaged else full, "none", attack))
            if attack not in BASE_ATTACKS or defense != "none":
                separate += passes(cell(PUBLISHED_EOT if averaged and defense == "none" else full, defense, attack))
    cascaded = passes(
        [
            row
            for row in outcomes
            if row["run_id"] == cascade and row["attack"] in NINE_ATTACKS and row["image_id"] in images
        ]
    )
    assert cascaded <= 0.5 * separate
    readme = (REPOSITORY / "README.md").read_text()
    assert f"{cascaded / 1e6:.2f} million passes" in readme
    assert f"{separate / 1e6:.2f} million" in readme


def test_the_cascade_has_the_worst_case_of_all_attacks(outcomes: list[Row]) -> None:
    """With one exception an image: attacks on fewer images draw other random numbers."""
    full, cascade, _ = runs_of(outcomes)
    images = {row["image_id"] for row in outcomes if row["run_id"] == full}
    for defense in DEFENSES:
        standing = []
        for run in (full, cascade):
            mine = [row for row in outcomes if row["run_id"] == run and row["defense"] == defense]
            nine = [row for row in mine if row["attack"] in NINE_ATTACKS and row["image_id"] in images]
            standing.append(images - {row["image_id"] for row in nine if row["status"] != "robust"})
        assert len(standing[0] ^ standing[1]) <= 2, defense


def test_another_k_computed_no_attack_on_the_base_model_again(outcomes: list[Row]) -> None:
    full, _, second = runs_of(outcomes)
    before = {row["unit_key"] for row in outcomes if row["run_id"] == full and row["defense"] == "none"}
    again = {row["unit_key"] for row in outcomes if row["run_id"] == second and row["defense"] == "none"}
    assert again <= before
