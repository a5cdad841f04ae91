"""What README says the demo prints, and that merging its catalog changes no answer."""

from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from tests.docs.documents import blocks
from tests.toys.answers import require_equal_by_merging

ELISION = "…\n"


@pytest.mark.slow
def test_the_demo_prints_what_readme_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = (block.text for block in blocks("text") if block.page == "README.md" and ELISION in block.text)
    assert main(["demo", "--executor", "local", "--catalog", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    start, _, end = shown.partition(ELISION)
    assert printed.startswith(start)
    assert end == "report: results/report.html\n"
    assert f"report: {tmp_path / 'results' / 'report.html'}\n" in printed
    # What people see first answers alike from small files and from merged ones.
    require_equal_by_merging(Catalog(tmp_path / "results"), plain=("worst_case",))
