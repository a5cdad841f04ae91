"""The queue of units, and how far it is: one becomes ready when all that it needs are done; parts may replace it."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from igd_ray.catalog import Catalog
from igd_ray.errors import IgdError
from igd_ray.units.base import Unit, UnitReport

# How far ahead in the queue a worker may take a unit of the family that it ran last.
LOOK_AHEAD = 8

SOURCE_FAILED = "its source unit failed"


@dataclass(slots=True)
class Blocked:
    """A unit that waits for others.

    Attributes:
        unit: the unit.
        order: its place among the ready units, once it is ready.
        open: number of units that it waits for.
        divided: whether it was replaced by its parts, and waits only for these.
    """

    unit: Unit
    order: int
    open: int
    divided: bool = False


class ReadyQueue:
    """A queue in the order of `units`, in which each unit waits until the units that it needs are done.

    A needed key that belongs to none of the units counts as done. A unit that was taken is running until it is put
    back, replaced, done or failed.

    Args:
        units: the units to run; each key counts once.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        unique: dict[str, Unit] = {}
        for unit in units:
            unique.setdefault(unit.key, unit)
        self._unfinished = set(unique)
        self._ready: list[tuple[int, Unit]] = []
        # The places that running units had among the ready ones.
        self._running: dict[str, int] = {}
        # The units that wait for each key.
        self._dependents: dict[str, list[Blocked]] = {}
        self._first, self._last = 0, len(unique)
        for order, unit in enumerate(unique.values()):
            self._add(unit, order)

    def __bool__(self) -> bool:
        """Return whether a unit waits or runs."""
        return bool(self._unfinished)

    def take(self, last: str = "") -> Unit | None:
        """Return the first ready unit, or a near one of the family `last`; None while all units wait for running ones.

        Raises:
            IgdError: if units wait that can never run.
        """
        if not self._ready:
            if self._unfinished and not self._running:
                raise self._circle()
            return None
        passed = [heappop(self._ready)]
        while last and passed[-1][1].family != last and self._ready and len(passed) < LOOK_AHEAD:
            passed.append(heappop(self._ready))
        alike = bool(last) and passed[-1][1].family == last
        order, unit = passed.pop(-1 if alike else 0)
        for entry in passed:
            heappush(self._ready, entry)
        self._running[unit.key] = order
        return unit

    def put_back(self, unit: Unit, *, last: bool) -> None:
        """Put a running unit back: in its former place, because long units come first, or in the last place."""
        order = self._running.pop(unit.key)
        if last:
            self._last += 1
            order = self._last
        heappush(self._ready, (order, unit))

    def replace(self, unit: Unit, parts: Sequence[Unit]) -> None:
        """Put `parts` before all others in place of a running unit, which is done when all parts are."""
        del self._running[unit.key]
        new = {part.key: part for part in parts if part.key not in self._unfinished}
        self._unfinished |= new.keys()
        self._first -= len(new)
        for order, part in enumerate(new.values(), start=self._first):
            self._add(part, order)
        keys = {part.key for part in parts}
        self._block(Blocked(unit, self._first, len(keys), divided=True), keys)

    def done(self, key: str) -> None:
        """Mark a running unit as done; units that waited for nothing else become ready."""
        del self._running[key]
        settled = [key]
        while settled:
            key = settled.pop()
            self._unfinished.remove(key)
            for blocked in self._dependents.pop(key, ()):
                # A failed unit is never subtracted, so that a unit that needs it never becomes ready.
                blocked.open -= 1
                if blocked.open:
                    continue
                if blocked.divided:
                    settled.append(blocked.unit.key)
                else:
                    heappush(self._ready, (blocked.order, blocked.unit))

    def failed(self, key: str) -> list[Unit]:
        """Mark a running unit as failed; remove and return the waiting units that can therefore never run."""
        del self._running[key]
        doomed = []
        lost = [key]
        self._unfinished.remove(key)
        while lost:
            for blocked in self._dependents.pop(lost.pop(), ()):
                if blocked.unit.key not in self._unfinished:
                    continue  # doomed already
                self._unfinished.remove(blocked.unit.key)
                lost.append(blocked.unit.key)
                if not blocked.divided:
                    doomed.append(blocked.unit)
        return doomed

    def settle(self, report: UnitReport) -> Iterator[UnitReport]:
        """Mark a running unit as ended; yield its `report`, and reports of the units that can therefore never run."""
        doomed = []
        if report.error is None:
            self.done(report.key)
        else:
            doomed = self.failed(report.key)
        yield report
        for unit in doomed:
            yield UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, SOURCE_FAILED)

    def _add(self, unit: Unit, order: int) -> None:
        open_needs = unit.needs & self._unfinished
        if open_needs:
            self._block(Blocked(unit, order, len(open_needs)), open_needs)
        else:
            heappush(self._ready, (order, unit))

    def _block(self, blocked: Blocked, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._dependents:
                self._dependents[key].append(blocked)
            else:
                self._dependents[key] = [blocked]

    def _circle(self) -> IgdError:
        blocked = (each for waiting in self._dependents.values() for each in waiting)
        left = (each for each in blocked if each.unit.key in self._unfinished)
        first = min(left, key=lambda each: each.order).unit
        return IgdError(
            f"expected units that can run one after another, but {len(self._unfinished)} need each other, "
            f"the first being {first.key[:12]} ({first.kind}): plan them without cycles"
        )


class Halving:
    """Replaces a unit by its halves where a unit of its kind and size ran out of memory before, in any run.

    A part has its own key, and so its own seeds: its rows are those of a run with smaller shards.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # Listed once: in an object store each request costs as much as a small unit.
        self._halved: set[str] | None = None
        self._most_images: dict[str, int] = {}

    def fitting(self, unit: Unit) -> list[Unit]:
        """Return `unit`, or the parts that replace it."""
        if self._halved is None:
            self._halved = self._catalog.keys("splits")
        known = unit.key in self._halved
        most = self._most_images.get(unit.family)
        if not known and (most is None or len(unit.shard.ids) <= most):
            return [unit]
        parts = self._divide(unit, commit=not known)
        return [unit] if not parts else [small for part in parts for small in self.fitting(part)]

    def halve(self, unit: Unit) -> list[Unit]:
        """Return the parts of a unit that ran out of memory, [] if it cannot be split; later units are split alike."""
        parts = self._divide(unit, commit=True)
        if parts:
            self._most_images[unit.family] = max(len(part.shard.ids) for part in parts)
        return parts

    def _divide(self, unit: Unit, *, commit: bool) -> list[Unit]:
        if len(unit.shard.ids) < 2:
            return []
        parts = list(unit.halved())
        if parts and commit:
            rows = [{"unit_key": unit.key, "part_key": part.key, "images": len(part.shard.ids)} for part in parts]
            self._catalog.commit("splits", unit.key, rows)
            if self._halved is not None:
                self._halved.add(unit.key)
        return parts


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

    def __exit__(self, *_error: object) -> None:
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
