"""What cannot be used is told in one line, with exit code 2, at once, and nothing is written."""

import shlex
import signal
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
import torch

from igd_ray.cli import VERBS, main
from igd_ray.cluster.executor import RayExecutor
from igd_ray.models.zoo import zoo_entries
from tests.verbs.bad_inputs import DEEP, MANY_DIGITS, OWN, SHARED, STUDIES, write_files

# Of computing: a busy machine takes longer by the clock.
SECONDS = 5

# Seconds of computing that each answer took.
SPENT: dict[str, float] = {}

ROWS = [*((f"{verb} {flags}", expected) for verb in STUDIES for flags, expected in SHARED), *OWN]

WORKING = "--model net.py:net --weights grey.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that rows name; no row may change anything in it, so that all share it."""
    made = tmp_path_factory.mktemp("bad")
    write_files(made)
    return made


@pytest.fixture(scope="module")
def imported() -> None:
    """Import what verbs import when they run, which takes seconds once and is no answer to a row."""
    for verb in VERBS:
        import_module(f"igd_ray.verbs.{verb}")
    for module in ("open_clip", "timm", "igd_ray.cluster"):
        import_module(module)
    zoo_entries()


@pytest.fixture
def refusing(imported: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where Ray would start, or the answer takes too long."""

    def late(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"not refused within {SECONDS} seconds")

    def starts(_executor: RayExecutor) -> NoReturn:
        raise AssertionError("not refused: Ray would start")

    monkeypatch.setattr(RayExecutor, "__enter__", starts)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    started = time.process_time()
    yield
    SPENT[request.node.name] = time.process_time() - started
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def arguments(row: str) -> list[str]:
    """The words of a row."""
    replaced = {"digits": MANY_DIGITS, "deep": DEEP, "long": "x" * 5000}
    words = shlex.split(row.replace("FILE", WORKING))
    for name, text in replaced.items():
        words = [word.replace(f"{{{name}}}", text) for word in words]
    return words


def test_there_are_many_rows() -> None:
    assert len(set(ROWS)) >= 400


@pytest.mark.parametrize(("row", "expected"), ROWS, ids=lambda value: value)
def test_bad_input(
    row: str,
    expected: str,
    folder: Path,
    refusing: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--device cuda" in row and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(folder)
    words = arguments(row)
    if words[0].startswith("RAY_ADDRESS="):
        monkeypatch.setenv(*words.pop(0).split("="))
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    code = main(words)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert code == 2, captured.err[:300]
    assert captured.out == ""
    assert len(lines) == 1, captured.err[:300]
    assert lines[0].startswith("igd: error: ")
    assert expected in lines[0]
    assert len(lines[0]) < 1000
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


def test_the_slowest_answer_took_less(capsys: pytest.CaptureFixture[str]) -> None:
    if not SPENT:
        pytest.skip("no row was answered before, in this process")
    slowest = max(SPENT, key=lambda row: SPENT[row])
    with capsys.disabled():
        print(f"\nslowest of {len(SPENT)} bad inputs: {SPENT[slowest]:.2f} s of computing for {slowest}")
    assert SPENT[slowest] < SECONDS


@pytest.mark.skipif(find_spec("optuna") is not None, reason="optuna is installed, so nothing is missing")
def test_a_sampler_whose_package_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--sampler", "optuna"]) == 2
    line = capsys.readouterr().err
    assert "needs a package of its own: pip install 'igd-ray[optuna]'; bisection, grid and random need none" in line
