"""What starting a verb takes beside the import that it cannot do without."""

from pathlib import Path

from igd_ray.benchmarks.processes import IGD, Process, run_program, spread
from igd_ray.catalog import Catalog

# Commands that compute nothing, and the yardstick of each: what the verb cannot do without.
COMMANDS = {
    ("--help",): "import argparse",
    ("sql", "SELECT 1"): "import duckdb",
    ("status",): "import duckdb",
    ("evaluate", "--dry-run", "--n", "1", "--attacks", "apgd-ce"): "import torch",
}


def bench_start(folder: Path, rounds: int) -> list[dict[str, object]]:
    """Start each command on an empty catalog in `folder`, each time after its yardstick.

    Returns:
        rows of `command`, `yardstick`, and the columns of `spread`.

    Raises:
        IgdError: if a command fails.
    """
    catalog = Catalog(folder / "results")
    catalog.create()
    rows = []
    for words, yardstick in COMMANDS.items():
        place = [] if words == ("--help",) else ["--catalog", str(folder / "results")]
        pairs: list[tuple[Process, Process]] = []
        for _ in range(rounds):
            bare = run_program(folder, yardstick, [])
            pairs.append((run_program(folder, IGD, [*words, *place]), bare))
        rows.append({"command": " ".join(words), "yardstick": yardstick, **spread(pairs)})
    return rows
