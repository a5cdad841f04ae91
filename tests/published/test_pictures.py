"""The pictures of the pages, and the claim that they illustrate, are what the report makes of the committed rows."""

import pytest

from igd_ray.statistics import images_needed
from tests.published.pictures import FOLDER, PICTURES, WORST_CASE, draw, read
from tests.published.published import REPOSITORY


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_committed_rows_give(name: str) -> None:
    assert draw(name) == (FOLDER / f"{name}.svg").read_text(encoding="utf-8"), (
        "if the new one is as it should be: python -m tests.published.pictures"
    )


def test_every_picture_stands_on_a_page_with_words_for_who_cannot_see_it() -> None:
    pages = "".join(page.read_text() for page in sorted((REPOSITORY / "docs").glob("*.md")))
    for name in PICTURES:
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
