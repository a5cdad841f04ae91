"""What README says the demo prints."""

from pathlib import Path

import pytest

from igd_ray.cli import main
from tests.docs.documents import blocks

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
