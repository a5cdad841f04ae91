"""The pages hold together: their links lead somewhere, README is short, and their SQL and Python run."""

import linecache
import re
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.ranking import RANKINGS
from tests.docs.documents import PAGES, Block, blocks
from tests.toys.places import REPOSITORY

MOST_LINES_OF_README = 200


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MOST_LINES_OF_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
        assert not heading or heading in anchors, f"{page.name} links to {target}"


def test_every_page_is_reached_from_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []


@pytest.mark.parametrize("text", [block.text for block in blocks("sql")])
def test_queries_run(text: str, filled: Path) -> None:
    assert run_query(Catalog(filled / "results"), text).column_names


def test_the_connection_in_python_answers(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(filled)
    (block,) = [block for block in blocks("python") if block.page == "sql.md"]
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(block.text, block.page, "exec"), names)
    assert "robust_accuracy" in capsys.readouterr().out
    assert names["attacks"].column_names[-1] == "alone"  # type: ignore[attr-defined]


def test_the_page_on_sql_names_the_queries_and_views_that_ship() -> None:
    text = (REPOSITORY / "docs" / "sql.md").read_text()
    queries = {file.stem for file in (REPOSITORY / "catalog" / "queries").glob("*.sql")}
    assert set(_first_column(text, "## Queries that ship")) == queries
    views = "".join(file.read_text() for file in (REPOSITORY / "catalog" / "views").glob("*.sql"))
    assert [view for view in _first_column(text, "## Views") if f"VIEW {view} AS" not in views] == []


def _first_column(text: str, heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    rows = [line for line in text.partition(heading)[2].partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in rows))


OWN_RANKINGS = [block for block in blocks("python") if "StatisticRanking" in block.text and block.page == "guide.md"]
NOTEBOOKS = [block for block in blocks("python") if "igd_ray.evaluate(" in block.text]
# tests/docs/test_commands.py writes the files that a page shows, and runs its commands beside them.
FILES = [block for block in blocks("python") if re.match(r"# \w+\.py\n", block.text)]
SCRIPTS = [
    block for block in blocks("python") if block.page == "guide.md" and block not in [*OWN_RANKINGS, *NOTEBOOKS, *FILES]
]


@pytest.mark.parametrize("block", OWN_RANKINGS, ids=lambda block: block.page)
def test_a_ranking_of_one_s_own_ranks(block: Block, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(block.text)
    name = re.findall(r"class (\w+)\(StatisticRanking\)", block.text)[0]
    given = ["--method", f"mine={tmp_path}/own.py:{name}", "--method-arg", "mine.power=2", "--catalog", f"{tmp_path}/r"]
    try:
        assert main(["rank", *given, "--n", "4", "--probe-n", "100", "--search-n", "50", "--executor", "local"]) == 0
    finally:
        RANKINGS.pop("mine", None)


@pytest.mark.parametrize("block", SCRIPTS)
def test_the_example_in_python_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.text, block.page, "exec"), {"__name__": "example"})
    assert "of 16 images stay correct" in capsys.readouterr().out


@pytest.mark.parametrize("block", NOTEBOOKS, ids=lambda block: block.page)
def test_the_notebook_prints_what_the_page_shows(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    # As a notebook does, so that the source of what a cell defines is found.
    name, lines = "<a cell of the page>", block.text.splitlines(keepends=True)
    linecache.cache[name] = len(block.text), None, lines, name
    exec(compile(block.text, name, "exec"), {"__name__": "__main__"})
    page = blocks()
    shown = page[page.index(block) + 1].text.partition("…")[0].splitlines()
    assert len(shown) > 10
    printed = capsys.readouterr().out.splitlines()[: len(shown)]
    assert [_without_numbers(line) for line in printed] == [_without_numbers(line) for line in shown]


def _without_numbers(line: str) -> str:
    """A line of a table in which another processor's rounding may change a verdict."""
    return " ".join(re.sub(r"-?\b[0-9][0-9a-f.]*\b", "0", line).split())
