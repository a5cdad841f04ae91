"""How fast a large catalog answers: whole processes of `igd` beside a yardstick, by turns."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from igd_ray.benchmarks.made_up_catalog import Size, add_run, run_id_of, write_sorted
from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import SECONDS_TO_SETTLE, compact
from igd_ray.errors import IgdError, InputError

# Of a run, as many as the test split of CIFAR-10 has.
IMAGES = 10_000

# The two programs note the most memory that they had: what the system says of an ended process counts its parent's.
_NOTE = """
def note(path):
    try:
        status = open("/proc/self/status").read()
    except OSError:
        return
    open(path, "w").write(status.partition("VmHWM:")[2].split()[0])
"""
IGD = f"""
import sys
from igd_ray.cli import main
{_NOTE}
code = main(sys.argv[2:])
note(sys.argv[1])
sys.exit(code)
"""
YARDSTICK = f"""
import sys
import duckdb
{_NOTE}
where = "WHERE run_id = $run" if sys.argv[3:] else ""
print(duckdb.execute(
    f\"\"\"
    SELECT run_id, defense, count(*), avg(robust::INT)
    FROM (
        SELECT run_id, defense, image_id, bool_and(status = 'robust') AS robust
        FROM read_parquet($file)
        {{where}}
        GROUP BY ALL
    )
    GROUP BY ALL
    ORDER BY ALL\"\"\",
    {{"file": sys.argv[2], **({{"run": sys.argv[3]}} if sys.argv[3:] else {{}})}},
).fetchall())
note(sys.argv[1])
"""


@dataclass(frozen=True)
class Process:
    """What a process took: seconds in all, seconds of processors, and the most memory in MiB, where that is known."""

    seconds: float
    processor_seconds: float
    memory: float | None


@dataclass(frozen=True)
class Question:
    """A command that is timed.

    Attributes:
        words: after ``igd``.
        run_id: the one run that it, and its yardstick, ask about; None for all.
        goal: how many times as long as the yardstick it may take.
    """

    words: tuple[str, ...]
    run_id: str | None = None
    goal: float | None = None


def bench_catalog(size: Size, rounds: int) -> list[dict[str, object]]:
    """Make a catalog, time what people ask it and its merging, and return a row for each command.

    Returns:
        rows of `command`; `seconds`, the median; `ratio`, the median of how many times as long as its yardstick it
        took, with the least and the largest; `processor_ratio`, the same of processor time, which others on the
        machine disturb less; `goal` for the ratio; `memory_MiB`, the largest; and `merged_MB`, the size of the merged
        outcomes, beside the command that merges them. Only the first run's files are there when merging is timed.

    Raises:
        InputError: for a size or number of rounds below 1.
        IgdError: if a command fails.
    """
    for flag, value in (("runs", size.runs), ("n", size.images), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"--{flag} must be at least 1, not {value}")
    with tempfile.TemporaryDirectory(prefix="igd-bench-") as name:
        folder = Path(name)
        catalog, rows = Catalog(folder / "results"), list[dict[str, object]]()
        catalog.create()
        parts = [folder / f"{run}.parquet" for run in range(size.runs)]
        for run, part in enumerate(parts):
            write_sorted(part, [add_run(catalog, run, size.images)])
            if run == 0:
                (row,) = _timed(folder, part, [Question(("sql", "FROM worst_case"))], 1)
                rows = [{**row, "command": f"{row['command']} (before merging)"}, _merging(folder, part)]
            # The second deletes what the first has merged.
            for _ in range(2):
                compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)
        write_sorted(folder / "sorted.parquet", map(pq.read_table, parts))
        return [*rows, *_timed(folder, folder / "sorted.parquet", _questions(folder, size), rounds)]


def _questions(folder: Path, size: Size) -> list[Question]:
    one = run_id_of(size.runs // 2)
    return [
        Question(("sql", "SELECT 1")),
        Question(("sql", "FROM worst_case"), goal=3),
        Question(("sql", f"FROM worst_case WHERE run_id = '{one}'"), run_id=one, goal=6),
        Question(("sql", "--file", "table8"), goal=3),
        Question(("status",), goal=3),
        Question(("report", "--run-id", one, "--output", str(folder / "report.html")), goal=10),
    ]


# A quarter of what merging took when each unit's file was read and written by itself.
MERGING_GOAL = 39.0


def _merging(folder: Path, sorted_file: Path) -> dict[str, object]:
    (row,) = _timed(folder, sorted_file, [Question(("compact", "--keep", "0"), goal=MERGING_GOAL)], 1)
    merged = sum(file.stat().st_size for file in (folder / "results" / "outcomes").glob("_merged-*.parquet"))
    return {**row, "merged_MB": round(merged / 1e6, 2)}


def _timed(folder: Path, sorted_file: Path, questions: Sequence[Question], rounds: int) -> list[dict[str, object]]:
    """Ask each question as many times, each time after its yardstick."""
    taken: dict[Question, list[tuple[Process, Process]]] = {question: [] for question in questions}
    for _ in range(rounds):
        for question, pairs in taken.items():
            one = [question.run_id] if question.run_id else []
            yardstick = _run(folder, YARDSTICK, [str(sorted_file), *one])
            pairs.append((_run(folder, IGD, [*question.words, "--catalog", str(folder / "results")]), yardstick))
    return [_row(question, pairs) for question, pairs in taken.items()]


def _row(question: Question, pairs: Sequence[tuple[Process, Process]]) -> dict[str, object]:
    waits = SECONDS_TO_SETTLE if question.words[0] == "compact" else 0.0
    ratios = [(mine.seconds - waits) / yardstick.seconds for mine, yardstick in pairs]
    processor = [mine.processor_seconds / yardstick.processor_seconds for mine, yardstick in pairs]
    memory = [mine.memory for mine, _ in pairs if mine.memory is not None]
    return {
        "command": " ".join(question.words).partition(" --output ")[0],
        "seconds": round(statistics.median(mine.seconds for mine, _ in pairs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "largest": round(max(ratios), 2),
        "processor_ratio": round(statistics.median(processor), 2),
        "goal": question.goal,
        "memory_MiB": round(max(memory)) if memory else None,
        "merged_MB": None,
    }


def _run(folder: Path, program: str, words: Sequence[str]) -> Process:
    """Run a Python program in a process of its own.

    Raises:
        IgdError: if it fails.
    """
    memory = folder / "memory"
    memory.unlink(missing_ok=True)
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, str(memory), *words], capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise IgdError(f"{' '.join(words)} failed: {(done.stderr.splitlines() or ['without a word'])[-1]}")
    return Process(
        seconds,
        after.children_user + after.children_system - before.children_user - before.children_system,
        int(memory.read_text()) / 1024 if memory.exists() else None,
    )
