"""Several runs beside each other, also of several catalogs."""

import json
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run

IMAGES = [f"{index:02d}" for index in range(10)]


def _commit(catalog: Catalog, run_id: str, robust: dict[str, int], images: list[str], **values: object) -> None:
    """Commit a run in which AutoAttack leaves the first `robust` images of each defense robust; None: not finished."""
    add_run(catalog, run_id, n=len(images), **values)
    add_plan(catalog, {f"{run_id}-{defense}": (defense, "aa", images) for defense in robust}, run_id)
    for defense, count in robust.items():
        if count is not None:
            statuses = {image: "robust" if place < count else "broken" for place, image in enumerate(images)}
            add_outcomes(catalog, f"{run_id}-{defense}", defense, "aa", statuses)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two catalogs, one with a run of 10 images, one with a run on 8 of them and a run on others."""
    folder = tmp_path_factory.mktemp("compared")
    here, there = Catalog(folder / "here"), Catalog(folder / "there")
    for catalog in (here, there):
        catalog.create()
    _commit(here, "monday", {"none": 2, "loir-2": 9, "hedge": None}, IMAGES)
    _commit(there, "tuesday", {"none": 2, "loir-2": 1, "hedge": 4}, IMAGES[:8], epsilon=0.2)
    _commit(there, "wednesday", {"none": 1}, ["x", "y"])
    return str(here.root), str(there.root)


def _compared(places: tuple[str, str], form: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    here, there = places
    runs = ["monday", f"{there}#tuesday", *(f"{there}#{run}" for run in more)]
    assert main(["report", "--catalog", here, "--format", form, "--compare", *runs]) == 0
    path = Path(here) / f"comparison.{form}"
    assert capsys.readouterr().out == f"comparison: {path}\n"
    return path.read_text()


def test_the_same_defense_is_compared_on_the_images_of_both(
    places: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(_compared(places, "json", capsys, "wednesday"))
    there = places[1]
    assert [run["label"] for run in found["runs"]] == ["monday", f"{there}#tuesday", f"{there}#wednesday"]
    assert found["runs"][0]["worst_cases"] == {"none": 0.2, "loir-2": 0.9, "hedge": None}
    columns = ("run", "defense", "images", "before", "after", "difference", "claim")
    # Of the 8 images of both, loir-2 had all and keeps one: seven lost, p = 2 / 2⁷.
    assert [tuple(row[name] for name in columns) for row in found["differences"]] == [
        (f"{there}#tuesday", "none", 8, 0.25, 0.25, 0.0, "undecided"),
        (f"{there}#tuesday", "hedge", None, None, None, None, "–"),
        (f"{there}#tuesday", "loir-2", 8, 1.0, 0.125, -0.875, "loss"),
        (f"{there}#wednesday", "none", 0, None, None, None, "–"),
    ]
    assert "0 images gained, 7 lost, p = 0.016" in found["differences"][2]["why"]
    assert found["unlike"] == [
        f"{there}#tuesday differs from monday: threat model linf, ε = 51/255, not linf, ε = 0.1."
    ]


def test_pages_and_documents_say_the_same(places: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    page = _compared(places, "html", capsys)
    assert "2 runs compared" in page
    assert "differs from monday: threat model" in page
    assert "−87.5" in page
    assert "| monday | loir-2 | 90.0 % (59.6–98.2) | +70.0 | ▲ gain (p = 0.016) |" in _compared(places, "md", capsys)
    assert "monday & loir-2 & 90.0 \\% (59.6--98.2) & +70.0" in _compared(places, "tex", capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "monday"], "two or more runs"),
        (["--compare", "monday", "monday"], "each once"),
        (["--compare", "monday", "mondy"], "no run 'mondy'; did you mean 'monday'"),
        (["--compare", "monday", "nowhere#"], "nowhere"),
        (["--compare", "monday", "tuesday", "--run-id", "monday"], "--run-id is for one run"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: list[str], message: str, places: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "comparison.html"
    assert main(["report", "--catalog", places[0], "--output", str(target), *words]) == 2
    assert message in capsys.readouterr().err
    assert not target.exists()
