"""Every command of README and the pages runs, or stands in one list with the reason."""

import argparse
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import VERBS, main
from igd_ray.verbs.flags import Parser
from igd_ray.verbs.submit import stage
from tests.docs.conftest import SMALL
from tests.docs.documents import PAGES, Block, blocks, commands, inline, words
from tests.toys.places import REPOSITORY

# Commands, by how they start, that do not run here, each with the reason or with the test that runs it.
ELSEWHERE = {
    "make demo": "sets up an environment and runs igd demo: tests/docs/test_demo.py",
    "make test": "is this suite",
    "make check": "runs before this suite",
    "make lock": "resolves packages from the network",
    ". .venv/bin/activate": "is the environment of the tests",
    "uv build --wheel": "builds the wheel: tests/docs/test_wheel.py",
    "python -m igd_ray.models.demo.training": "takes a minute; less training: tests/models/demo/test_demo.py",
    "cd results && duckdb": "needs DuckDB's own program; the same file in Python's DuckDB: tests/verbs/test_verbs.py",
    "igd view": "serves until it is interrupted: tests/viewer/test_server.py",
    "igd doctor": "looks at the machine: tests/verbs/test_verbs.py",
    "python -m tests.toys.simulation": "takes ten minutes; fewer schedules: tests/catalog/test_simulation.py",
    "igd bench": "measures for minutes: tests/benchmarks/ and tests/cluster/test_bench.py",
    "igd zoo --check": "builds models for minutes: tests/verification/test_zoo.py",
    "ray up": "needs a cloud; the file's validation: tests/cluster/test_cluster_yaml.py",
    "ray d": "dashboard and down need a cloud",
}

# Verbs that attack or train: they plan here, and run in the slow test.
LONG = ("analyze", "evaluate", "reproduce", "train")

# Flags of other programs that the pages name.
FOREIGN_FLAGS = {"ray": {"--address", "--head"}, "duckdb": {"-init"}}

CIFAR = "../shared/"
HEAD = next(block for block in blocks("sh") if "ray start --head" in block.text)


def here(page: Path) -> list[str]:
    """The commands of a page that are not in the list; the block that starts a head is tests/docs/test_head.py's."""
    listed = [command for block in [HEAD] for command in commands([block])]
    mine = commands([block for block in blocks("sh") if block.page == page.name])
    return [command for command in mine if command not in listed and not command.startswith(tuple(ELSEWHERE))]


def run(command: str, *, plan: bool = True) -> None:
    """Run a documented command in the current folder, small; `plan` adds `--dry-run` to verbs that take long."""
    if not command.startswith("igd "):
        subprocess.run(["bash", "-c", command.replace("python ", f"{sys.executable} ")], check=True, timeout=120)
        return
    verb, *given = words(command)[1:]
    if verb == "submit":
        folder = Path("job")
        folder.mkdir()
        assert stage(given[0], given[1:], folder), command
        return
    if "ID" in given:
        search = run_query(Catalog("results"), "SELECT search_id FROM searches").to_pylist()[-1]["search_id"]
        given = [search if word == "ID" else word for word in given]
    if "RUN" in given:
        found = run_query(Catalog("results"), "SELECT run_id FROM runs").to_pylist()[0]["run_id"]
        given = [found if word == "RUN" else word for word in given]
    given = [word.removeprefix("s3://BUCKET/") for word in given]
    if "--model" in parser_of(verb)._option_string_actions and verb not in ("verify", "export"):
        given += SMALL
    if "--refine" in given:
        given += ["--refine-n", "2"]
    if plan and verb in LONG:
        given.append("--dry-run")
    assert main([verb, *given]) == 0, command


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"igd {verb}")
    import_module(f"igd_ray.verbs.{verb}").add_arguments(parser)
    return parser


def write_files(page: Path) -> None:
    """Write the Python files that a page shows, each under the name in its first line."""
    for block in blocks("python"):
        if block.page == page.name and (name := re.match(r"# (\w+\.py)\n", block.text)):
            Path(name[1]).write_text(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_their_order(page: Path, workplace: Path) -> None:
    write_files(page)
    for command in here(page):
        if CIFAR not in command:
            run(command)


def with_short_attack(command: str) -> str:
    """An evaluation with one attack of a few steps, in place of those that it names or that are chosen for it."""
    if words(command)[1] == "evaluate" and "--attacks" not in command:
        return f"{command} --attacks tr-apgd-ce-2"
    return re.sub(r"--attacks \S+", "--attacks tr-apgd-ce-2", command)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_evaluations_and_trainings_run(page: Path, workplace: Path) -> None:
    """On four images, and with attacks of a few steps in place of those that take minutes."""
    for command in here(page):
        # What `igd new` writes is what the evaluation behind it reads.
        if CIFAR not in command and words(command)[1] in {*LONG, "new"} and "--dry-run" not in command:
            run(with_short_attack(command), plan=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_the_cifar_model_run(page: Path, workplace: Path, shared: Path) -> None:
    """On four images, with one short attack, one page's commands after the other, so that a run can be verified."""
    for name in ("results-cifar", "results-worst-case"):
        (workplace / name).unlink()
    for command in here(page):
        if CIFAR in command:
            run(with_short_attack(command).replace(",sodef", ""), plan=False)


def test_the_list_of_what_does_not_run_here_is_short_and_true() -> None:
    written = commands(blocks("sh"))
    for start, why in ELSEWHERE.items():
        assert any(command.startswith(start) for command in written), f"no page has a command {start!r}; drop it"
        for file in re.findall(r"tests/\S+\.py", why):
            assert (REPOSITORY / file).is_file(), file
    assert len(ELSEWHERE) <= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_and_flags_that_a_page_names_exist(page: Path) -> None:
    """In blocks and in the text; `igd submit VERB …` stands for any verb."""
    flags = {flag for verb in VERBS for flag in parser_of(verb)._option_string_actions}
    for piece in [*inline(page), *commands([block for block in blocks("sh") if block.page == page.name])]:
        program = piece.split()[0] if piece.split() else ""
        if program == "igd" and len(piece.split()) > 1:
            verb = piece.split()[1]
            assert verb in VERBS or verb == "VERB", piece
        if program in ("igd", "RAY_ADDRESS=127.0.0.1:6399") or program.startswith("--"):
            for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", piece):
                assert flag in flags, f"{page.name} names {flag}, which no verb has"


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "check", "lock"])
def test_make_has_the_targets_that_pages_name(target: str) -> None:
    assert f"\n{target}: " in (REPOSITORY / "Makefile").read_text()
    assert any(f"make {target}" in page.read_text() for page in PAGES)


def test_every_block_says_what_it_is() -> None:
    known = ("sh", "sql", "python", "text")
    assert [block for block in blocks() if block.language not in known] == list[Block]()
