"""Shows the progress of a set of units: a bar on a terminal, lines of text otherwise."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from igd_ray.units.base import UnitReport

# Shortest time between two lines, without a terminal.
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows on standard error how many units are done, the rate, and the time left."""

    def __init__(self, title: str, *, done: int, total: int) -> None:
        self._title = title
        self._reused = done
        self._done = done
        self._total = total
        self._started = time.monotonic()
        self._last_line = self._started
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("so far,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, rate="")
        elif self._reused < self._total:
            reused = f", {self._reused} already there" if self._reused else ""
            self._say(f"{self._title}: {self._total} units{reused}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done > self._reused:
            self._say(self._line())

    def advance(self, report: UnitReport) -> None:
        """Count one more unit, or the parts that replace it."""
        if report.parts:
            self._total += report.parts - 1
        else:
            self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=self._total, rate=self._rate())
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES and self._done < self._total:
            self._say(self._line())
        if report.error is not None:
            text = f"{self._title}: unit {report.key[:12]} failed: {report.error}"
            if self._bar is not None:
                self._bar.console.print(text, highlight=False, markup=False)
            else:
                self._say(text)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{(self._done - self._reused) / seconds:.2g} units/s"

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        finished = max(self._done - self._reused, 1)
        left = (self._total - self._done) * seconds / finished
        tail = f", about {left:.0f} s left" if self._done < self._total else f" in {seconds:.0f} s"
        return f"{self._title}: {self._done}/{self._total} units, {self._rate()}{tail}"

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        print(line, file=sys.stderr, flush=True)
