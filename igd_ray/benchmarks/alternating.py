"""This project and the straightforward alternative, by turns: how many times as fast, with spread, and memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from igd_ray.errors import InputError


@dataclass
class Taken:
    """What repeated runs of one side took.

    Attributes:
        seconds: of each run.
        memory: the most MiB that a run added to what the process held before it; None where the system does not tell.
        answer: the last run's.
    """

    seconds: list[float] = field(default_factory=list)
    memory: float | None = None
    answer: object = None


def require_rounds(rounds: int) -> None:
    """Check the number of repetitions.

    Raises:
        InputError: if it is less than 1.
    """
    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, not {rounds}")


def alternate(*sides: Callable[[], object], rounds: int) -> list[Taken]:
    """Run every side once per round, one after another, and return what each took."""
    taken = [Taken() for _ in sides]
    for _ in range(rounds):
        for side, mine in zip(sides, taken, strict=True):
            before, started = _held_after_reset(), time.perf_counter()
            mine.answer = side()
            mine.seconds.append(time.perf_counter() - started)
            if before is not None and (most := _mebibytes("VmHWM")) is not None:
                mine.memory = max(mine.memory or 0.0, most - before)
    return taken


def comparison(ours: Taken, other: Taken, *, share: float = 1.0, goal: float | None = None) -> dict[str, object]:
    """Return the columns that compare two sides.

    Args:
        ours: this project's side.
        other: the alternative, run for `share` of what it is compared for.
        share: in (0, 1]; the alternative's seconds are divided by it.
        goal: the least speed-up that the project promises; None where it promises none.

    >>> row = comparison(Taken([1.0, 2.0, 1.0]), Taken([3.0, 3.0, 3.0]), share=0.5, goal=4)
    >>> row["seconds"], row["alternative_seconds"], row["speedup"], row["least"], row["largest"]
    (1.0, 6.0, 6.0, 3.0, 6.0)
    """
    speedups = [theirs / share / mine for mine, theirs in zip(ours.seconds, other.seconds, strict=True)]
    return {
        "seconds": round(statistics.median(ours.seconds), 4),
        "alternative_seconds": round(statistics.median(other.seconds) / share, 4),
        "speedup": round(statistics.median(speedups), 2),
        "least": round(min(speedups), 2),
        "largest": round(max(speedups), 2),
        "goal": goal,
        "memory_MiB": _rounded(ours.memory),
        "alternative_memory_MiB": _rounded(other.memory),
    }


class CountedImages:
    """Counts the images that pass through a model as a whole; a context manager."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.images = 0

    def __enter__(self) -> "CountedImages":
        self._hook = self._model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])


def _rounded(mebibytes: float | None) -> float | None:
    return None if mebibytes is None else round(mebibytes, 1)


def _held_after_reset() -> float | None:
    """Forget the most memory that this process has held, and return the MiB that it holds now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _mebibytes("VmRSS")


def _mebibytes(entry: str) -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.partition(f"{entry}:")[2].split()[0]) / 1024
