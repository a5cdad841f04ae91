"""The pictures of the pages, and the claim that they illustrate, are what the report makes of the committed rows."""

import pytest

from igd_ray.statistics import images_needed
from tests.published.pictures import ANALYSIS_PICTURES, FOLDER, PICTURES, WORST_CASE, analyzed, draw, read
from tests.published.published import REPOSITORY


@pytest.mark.parametrize("name", [*PICTURES, *ANALYSIS_PICTURES])
def test_a_picture_is_what_the_committed_rows_give(name: str) -> None:
    assert draw(name) == (FOLDER / f"{name}.svg").read_text(encoding="utf-8"), (
        "if the new one is as it should be: python -m tests.published.pictures"
    )


def test_every_picture_stands_on_a_page_with_words_for_who_cannot_see_it() -> None:
    pages = "".join(page.read_text() for page in sorted((REPOSITORY / "docs").glob("*.md")))
    for name in (*PICTURES, *ANALYSIS_PICTURES):
        assert f"](pictures/{name}.svg)" in pages
    assert "![](" not in pages


def test_the_page_quotes_the_claims_of_the_run() -> None:
    page = " ".join((REPOSITORY / "docs" / "worst-case.md").read_text().split())
    run = read(*WORST_CASE)
    for claim in run.claims:
        assert f"- {claim.defense} {claim.sentence}" in page
    loir = run.results.compared["loir-16"]
    needed = images_needed(loir.gained, loir.lost, loir.images)
    assert (loir.gained, loir.lost, needed) == (0, 1, 622)
    assert "about 630 images would decide it at 80 % power" in page


def test_the_page_quotes_what_the_analyses_found() -> None:
    page = " ".join((REPOSITORY / "docs" / "analyses.md").read_text().split())
    curve = {row["place"]: row for row in analyzed("cifar10-sensitivity-k")}
    assert f"from {curve[None]['robust']:.1f} % without a defense to {curve['4']['robust']:.1f} % at k = 4" in page
    changes = {(row["attack"], row["broken"], row["neurons"]): row["change"] for row in analyzed("cifar10-activations")}
    for attack in ("pgd", "gama-pgd"):
        true, after = (changes[attack, True, name] for name in ("true class", "class after the attack"))
        assert f"{true:+.1f} % and {after:+.1f} %".replace("-", "−") in page
    costs = {row["defense"]: row for row in analyzed("cifar10-cost") if row["quantity"] != "forward pass"}
    loir = costs["loir-16"]
    assert f"{loir['forward_passes']:.2f} ({loir['least']:.2f}–{loir['most']:.2f}) forward passes for loir-16" in page
    assert f"{costs['hedge']['forward_passes']:.1f} for hedge" in page
    overlap = analyzed("cifar10-overlap")
    assert len(overlap) == 10
    spearman = sum(float(str(row["spearman"])) for row in overlap) / 10
    assert f"Spearman's correlation of {spearman:.2f}" in page
    table = {(row["eps"], row["defense"]): row["robust"] for row in analyzed("cifar10-sensitivity-eps")}
    assert f"{table['32/255', 'none']:g} % and {table['32/255', 'loir-16']:g} %" in page
    worst = min(
        (row for row in analyzed("cifar10-classwise") if row["defense"] == "none"), key=lambda row: row["robust"]
    )
    assert f"class {worst['label']} ({worst['robust']} % of {worst['n']} images)" in page
