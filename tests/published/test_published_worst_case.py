"""What README says of the published worst case, from its committed outcome rows: what the plan saved, and reused."""

import pyarrow.parquet as pq
import pytest
from published import REPOSITORY

from igd_ray.protocol import NINE_ATTACKS

Row = dict[str, object]

DEFENSES = ("none", "cdir-16", "loir-16")
OTHER_K = "loir-8"

# Gradients that APGD with EoT averages a step, as published; on the deterministic base model one was computed.
EOT = 20


@pytest.fixture(scope="module")
def outcomes() -> list[Row]:
    return pq.read_table(REPOSITORY / "docs" / "results" / "cifar10-worst-case.parquet").to_pylist()


def run_with(outcomes: list[Row], defense: str, *, skipping: bool) -> str:
    """The id of the run that evaluated `defense`, as a cascade or not."""
    nine = [row for row in outcomes if row["attack"] in NINE_ATTACKS]
    skipped = {row["run_id"] for row in nine if row["status"] == "skipped"}
    (run,) = {
        str(row["run_id"]) for row in nine if row["defense"] == defense and (row["run_id"] in skipped) == skipping
    }
    return run


def passes(rows: list[Row], eot: int = 1) -> int:
    """Forward and backward passes, each unit's once, where one gradient stands for `eot`."""
    units = {
        (row["unit_key"], row["image_id"]): (int(str(row["forwards"])), int(str(row["backwards"]))) for row in rows
    }
    return sum(forwards - backwards + 2 * eot * backwards for forwards, backwards in units.values())


def test_the_cascade_takes_at_most_half_the_passes_of_nine_separate_attacks(outcomes: list[Row]) -> None:
    full, cascade = (run_with(outcomes, "loir-16", skipping=skipping) for skipping in (False, True))
    images = {row["image_id"] for row in outcomes if row["run_id"] == full}

    def cell(defense: str, attack: str) -> list[Row]:
        found = [row for row in outcomes if (row["run_id"], row["defense"], row["attack"]) == (full, defense, attack)]
        assert len(found) == len(images)
        return found

    # Each defense has its transfers computed anew; on the base model itself they are its attacks.
    transfers = [attack for attack in NINE_ATTACKS if attack.startswith("tr-")]
    on_base = sum(passes(cell("none", attack), EOT if attack == "tr-apgd-eot" else 1) for attack in transfers)
    separate = len(DEFENSES) * on_base
    separate += sum(passes(cell(defense, attack)) for defense in DEFENSES[1:] for attack in NINE_ATTACKS)
    nine = [row for row in outcomes if row["run_id"] == cascade and row["attack"] in NINE_ATTACKS]
    cascaded = passes([row for row in nine if row["image_id"] in images])
    assert cascaded <= 0.5 * separate
    readme = (REPOSITORY / "README.md").read_text()
    assert f"{cascaded / 1e6:.2f} million passes instead of {separate / 1e6:.2f} million" in readme


def test_the_cascade_has_the_worst_case_of_all_attacks(outcomes: list[Row]) -> None:
    """But for single images: attacks on fewer images draw other random numbers."""
    full, cascade = (run_with(outcomes, "loir-16", skipping=skipping) for skipping in (False, True))
    images = {row["image_id"] for row in outcomes if row["run_id"] == full}
    for defense in DEFENSES:
        standing = []
        for run in (full, cascade):
            mine = [row for row in outcomes if row["run_id"] == run and row["defense"] == defense]
            nine = [row for row in mine if row["attack"] in NINE_ATTACKS and row["image_id"] in images]
            standing.append(images - {row["image_id"] for row in nine if row["status"] != "robust"})
        assert len(standing[0] ^ standing[1]) <= 2, defense


def test_another_k_computed_no_attack_on_the_base_model_again(outcomes: list[Row]) -> None:
    """Its transfers are judged from points that the first runs left."""
    (second,) = {row["run_id"] for row in outcomes if row["defense"] == OTHER_K}
    before = {row["unit_key"] for row in outcomes if row["run_id"] != second}
    own = {row["unit_key"] for row in outcomes if row["run_id"] == second} - before
    assert {row["defense"] for row in outcomes if row["unit_key"] in own} == {OTHER_K}
    assert all(row["backwards"] == 0 for row in outcomes if row["unit_key"] in own)
