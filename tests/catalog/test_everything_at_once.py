"""Three runs, merges and questions on one catalog at once, each in a process of its own."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.toys.commands import igd, igd_command
from tests.toys.runs import rows

pytestmark = pytest.mark.slow

EVALUATE = [
    *("evaluate", "--executor", "local", "--n", "16", "--shard-size", "2", "--probe-n", "200"),
    *("--defenses", "none,random-8", "--attacks", "square-10,apgd-ce-3,tr-apgd-ce-3"),
]

# Two of them have the same units.
RUNS = [[*EVALUATE, "--seed", seed] for seed in ("0", "0", "1")]
COUNT = "SELECT count(*) AS n, count(DISTINCT (unit_key, image_id)) AS different FROM stored_outcomes"
COUNTING = ["sql", COUNT, "--format", "json"]
BESIDE = [["compact", "--keep", "0"], COUNTING, ["status", "--json"]]


def ask(arguments: list[str], catalog: Path) -> subprocess.CompletedProcess[str]:
    command = igd_command(*arguments, "--catalog", str(catalog))
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_three_runs_merges_and_questions_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together = tmp_path / "together"
    # So that a question finds a catalog from the start.
    igd([*RUNS[0], "--attacks", "clean", "--catalog", str(together)], capsys)
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(ask, run, together) for run in RUNS]

        def again_and_again(arguments: list[str]) -> list[subprocess.CompletedProcess[str]]:
            done = [ask(arguments, together)]
            while not all(run.done() for run in runs):
                done.append(ask(arguments, together))
            return done

        beside = list(threads.map(again_and_again, BESIDE))
    every = [run.result() for run in runs] + [each for several in beside for each in several]
    assert [each.stderr for each in every if each.returncode] == []
    counts = [json.loads(each.stdout)[0] for each in beside[BESIDE.index(COUNTING)]]
    assert all(count["n"] == count["different"] for count in counts)
    assert [count["n"] for count in counts] == sorted(count["n"] for count in counts), "what was there stays"

    one_by_one = tmp_path / "one-by-one"
    for run in [[*RUNS[0], "--attacks", "clean"], *RUNS]:
        igd([*run, "--catalog", str(one_by_one)], capsys)
    assert sorted(map(str, rows(together))) == sorted(map(str, rows(one_by_one)))
