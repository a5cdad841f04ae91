"""Whole processes of `igd` beside a yardstick, by turns: how many times as long they take, and their memory."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igd_ray.errors import IgdError

# Programs note the most memory that they had: what the system says of an ended process counts its parent's.
NOTE = """
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
{NOTE}
code = main(sys.argv[2:])
note(sys.argv[1])
sys.exit(code)
"""


@dataclass(frozen=True)
class Process:
    """What a process took: seconds in all, seconds of processors, and the most memory in MiB, where that is known."""

    seconds: float
    processor_seconds: float
    memory: float | None


def spread(pairs: Sequence[tuple[Process, Process]], *, waited_seconds: float = 0.0) -> dict[str, object]:
    """Return the columns that compare a command with its yardstick, of pairs of the one and the other.

    Args:
        pairs: a command's process, and its yardstick's just before it.
        waited_seconds: of the command's seconds, those in which it only waits.

    >>> mine, yardstick = Process(3.0, 2.0, 100.0), Process(1.0, 1.0, None)
    >>> spread([(mine, yardstick)])["ratio"], spread([(mine, yardstick)], waited_seconds=1.0)["ratio"]
    (3.0, 2.0)
    """
    ratios = [(mine.seconds - waited_seconds) / yardstick.seconds for mine, yardstick in pairs]
    processor = [mine.processor_seconds / yardstick.processor_seconds for mine, yardstick in pairs]
    memory = [mine.memory for mine, _ in pairs if mine.memory is not None]
    return {
        "seconds": round(statistics.median(mine.seconds for mine, _ in pairs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "largest": round(max(ratios), 2),
        "processor_ratio": round(statistics.median(processor), 2),
        "memory_MiB": round(max(memory)) if memory else None,
    }


def run_program(folder: Path, program: str, words: Sequence[str]) -> Process:
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
