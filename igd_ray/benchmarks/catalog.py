"""How fast a large catalog answers: whole processes of `igd` beside a yardstick, by turns."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from igd_ray.benchmarks.made_up_catalog import Size, add_run, run_id_of, write_sorted
from igd_ray.benchmarks.processes import IGD, NOTE, Process, run_program, spread
from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import SECONDS_TO_SETTLE, compact
from igd_ray.errors import InputError

# Of a run, as many as the test split of CIFAR-10 has.
IMAGES = 10_000

YARDSTICK = f"""
import sys
import duckdb
{NOTE}
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
        InputError: for a size below 1.
        IgdError: if a command fails.
    """
    for flag, value in (("runs", size.runs), ("n", size.images)):
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
            yardstick = run_program(folder, YARDSTICK, [str(sorted_file), *one])
            pairs.append((run_program(folder, IGD, [*question.words, "--catalog", str(folder / "results")]), yardstick))
    return [_row(question, pairs) for question, pairs in taken.items()]


def _row(question: Question, pairs: Sequence[tuple[Process, Process]]) -> dict[str, object]:
    waits = SECONDS_TO_SETTLE if question.words[0] == "compact" else 0.0
    return {
        "command": " ".join(question.words).partition(" --output ")[0],
        **spread(pairs, waited_seconds=waits),
        "goal": question.goal,
        "merged_MB": None,
    }
