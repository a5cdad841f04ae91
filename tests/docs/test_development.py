"""The files of docs/development.md are complete: each is written, imported and run as the page says."""

import re
from pathlib import Path

import mypy.api
import pytest

from tests.docs.documents import blocks
from tests.toys.commands import run_python
from tests.toys.places import REPOSITORY

PAGE = "development.md"
FILE = re.compile(r"# (\w+\.py)\n")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What running the page's Python prints, in a process of its own, since the files register themselves."""
    folder = tmp_path_factory.mktemp("development")
    for block in files():
        (folder / FILE.match(block)[1]).write_text(block)
    (script,) = (block.text for block in blocks("python") if block.page == PAGE and not FILE.match(block.text))
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = run_python(script, folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "igd: error" not in done.stderr, done.stderr
    return done.stdout


def files() -> list[str]:
    return [block.text for block in blocks("python") if block.page == PAGE and FILE.match(block.text)]


def test_the_ranking_gives_scores_and_its_masks_are_evaluated(printed: str) -> None:
    assert printed.count("mean-activation  penultimate") == 10, "a row a class"
    assert re.search(r"^mean-activation-8 +8 ", printed, re.MULTILINE)


def test_the_defense_is_evaluated(printed: str) -> None:
    assert re.search(r"^rounding +8 ", printed, re.MULTILINE)


def test_the_attack_is_a_column_and_the_adaptive_attack_aims_at_two_passes(printed: str) -> None:
    header = next(line for line in printed.splitlines() if line.startswith("defense"))
    assert "corners-5" in header.split()
    (audited,) = re.findall(r"^audit-first-pass-5 +(\S+)", printed, re.MULTILINE)
    assert audited == "mean-activation-8", "rounding has one pass"


@pytest.mark.slow
def test_the_files_are_typed_as_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for block in files():
        (tmp_path / FILE.match(block)[1]).write_text(block)
    flags = ["--strict", "--ignore-missing-imports", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    report, _, code = mypy.api.run([*flags, *map(str, tmp_path.glob("*.py"))])
    assert code == 0, report


def test_the_page_answers_where_things_go() -> None:
    text = (REPOSITORY / "docs" / PAGE).read_text()
    things = re.findall(r"^\| (an? [\w ]+) \| ", text, re.MULTILINE)
    asked = ["attack", "adaptive attack", "defense", "ranking", "model source", "data source", "query", "view", "verb"]
    assert {thing.partition(" ")[2] for thing in things} >= {*asked, "check", "setting"}
    for path in re.findall(r"`((?:igd_ray|catalog|tests)/[\w./]*)`", text):
        folder, _, name = path.rpartition("/")
        assert (REPOSITORY / (folder if "NAME" in name else path)).exists(), path
