"""What docs/worst-case.md says of the published rows: what the plan saved, and what it used again."""

import pyarrow.parquet as pq
import pytest

from igd_ray.protocol import NINE_ATTACKS
from tests.published.published import PUBLISHED_EOT, REPOSITORY

Row = dict[str, object]

DEFENSES = ("none", "cdir-16", "loir-16")
OTHER_K = "loir-8"


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


def passes(rows: list[Row]) -> int:
    """Forward and backward passes, each unit's once."""
    units = {(row["unit_key"], row["image_id"]): int(str(row["forwards"])) + int(str(row["backwards"])) for row in rows}
    return sum(units.values())


def test_the_cascade_takes_at_most_half_the_passes_of_nine_separate_attacks(outcomes: list[Row]) -> None:
    full, cascade = (run_with(outcomes, "loir-16", skipping=skipping) for skipping in (False, True))
    images = {row["image_id"] for row in outcomes if row["run_id"] == full}

    def cell(defense: str, attack: str) -> list[Row]:
        run = PUBLISHED_EOT if defense == "none" and attack.endswith("apgd-eot") else full
        found = [row for row in outcomes if (row["run_id"], row["defense"], row["attack"]) == (run, defense, attack)]
        assert {row["image_id"] for row in found} == images
        return found

    # On the base model AutoAttack, RayS and EoT are what their transfers start from.
    direct = [attack for attack in NINE_ATTACKS if f"tr-{attack}" in NINE_ATTACKS]
    transfers = [attack for attack in NINE_ATTACKS if attack not in direct]
    on_none = [attack for attack in NINE_ATTACKS if attack.removeprefix("tr-") not in direct or attack in direct]
    separate = sum(passes(cell("none", attack)) for attack in on_none)
    for defense in DEFENSES[1:]:
        separate += sum(passes(cell("none", attack)) for attack in transfers)
        separate += sum(passes(cell(defense, attack)) for attack in NINE_ATTACKS)
    nine = [row for row in outcomes if row["run_id"] == cascade and row["attack"] in NINE_ATTACKS]
    cascaded = passes([row for row in nine if row["image_id"] in images])
    assert cascaded <= 0.5 * separate
    page = (REPOSITORY / "docs" / "worst-case.md").read_text()
    assert f"{cascaded / 1e6:.2f} million passes instead of {separate / 1e6:.2f} million" in page


def test_the_published_eot_averages_twenty_gradients_that_are_one(outcomes: list[Row]) -> None:
    """On the base model: 20 times the backward passes of the platform's, which takes each gradient once."""
    averaged, once = (
        [row for row in outcomes if (row["defense"], row["attack"]) == ("none", "tr-apgd-eot") and row["run_id"] == run]
        for run in (PUBLISHED_EOT, run_with(outcomes, "loir-16", skipping=False))
    )
    assert sum(int(str(row["backwards"])) for row in averaged) == 20 * sum(int(str(row["backwards"])) for row in once)


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
    """Facing all nine: its transfers are judged from points that the first runs left, its own attacks are its own."""
    (second,) = {row["run_id"] for row in outcomes if row["defense"] == OTHER_K}
    assert {row["attack"] for row in outcomes if row["run_id"] == second} == {"clean", *NINE_ATTACKS}
    before = {row["unit_key"] for row in outcomes if row["run_id"] != second}
    own = {row["unit_key"] for row in outcomes if row["run_id"] == second} - before
    assert {row["defense"] for row in outcomes if row["unit_key"] in own} == {OTHER_K}
    transferred = [row for row in outcomes if row["unit_key"] in own and str(row["attack"]).startswith("tr-")]
    assert transferred
    assert all(row["backwards"] == 0 for row in transferred)
