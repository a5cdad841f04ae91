"""A catalog in a simulated place: every operation can fail, be repeated, be delayed or be the last of its process.

Processes are threads of which one runs at a time. The schedule says which goes on, for how many operations of the
place, and what happens to the first of them. Everything follows from the schedule: one that found a fault finds it
again.
"""

import random
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import inf
from threading import Lock
from types import MappingProxyType, SimpleNamespace
from typing import ClassVar

import pyarrow as pa
import pytest

from igd_ray.catalog import SCHEMAS, Catalog, sealed, tables
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.compaction.joined import joined_parquet, piece_of
from igd_ray.catalog.sealed import BytesSource
from igd_ray.catalog.tables import UnreadableError
from igd_ray.errors import IgdError
from tests.toys.parsed_files import (
    OpenedFile,
    ParsedFile,
    Remembered,
    conformed,
    joined,
    kept,
    pieced,
    required,
    written,
)

Files = dict[str, dict[str, bytes]]

TABLES = ("adversarials", "outcomes")

# What can happen to an operation. The last two are of a process that dies before it, or as soon as it is done.
FAULTS = ("none", "fails", "fails after", "repeated", "dies", "dies after")

# For how many operations a process goes on at once, at most: one of these in each schedule.
LONGEST = (1, 3, 10)

# How often a reader reads.
READS = 3

# As many columns as the invariants ask about, so that many schedules fit into a minute.
SMALL = {
    "adversarials": pa.schema([("unit_key", pa.string()), ("image_id", pa.string()), ("attempt", pa.int32())]),
    "outcomes": pa.schema([("unit_key", pa.string()), ("image_id", pa.string()), ("attempt", pa.int32())]),
    "splits": SCHEMAS["splits"],
    "compacted": SCHEMAS["compacted"],
}
MODULES = ("store", "tables", "merged", "sealed", "compaction.merging", "compaction.results", "compaction.deleting")


class Killed(BaseException):
    """The process is no more."""


class ViolationError(AssertionError):
    """An invariant does not hold."""


def token_hex(_bytes: int) -> str:
    """Return another token each time, the same in each run of a schedule: names of files follow from the schedule."""
    process = Process.running
    assert process is not None
    process.tokens += 1
    return f"{process.number:08x}{process.tokens:08x}"


@contextmanager
def small_schemas() -> Iterator[None]:
    """Have the catalog know few tables of few columns, and write and parse equal files once."""
    named = {
        table: pa.schema(list(schema), metadata={"igd_schema": SCHEMAS[table].metadata[b"igd_schema"].decode()})
        for table, schema in SMALL.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(f"igd_ray.catalog.{module}.SCHEMAS", MappingProxyType(named))
        # No unit is split here: merges need not look for those that are.
        merged = {table: schema for table, schema in named.items() if table != "splits"}
        for module in ("merging", "deleting"):
            patch.setattr(f"igd_ray.catalog.compaction.{module}.SCHEMAS", MappingProxyType(merged))
        for module in ("store", "tables", "merged"):
            patch.setattr(f"igd_ray.catalog.{module}.pq", SimpleNamespace(ParquetFile=ParsedFile))
        patch.setattr(tables, "pa", SimpleNamespace(**{**vars(pa), "PythonFile": lambda file, _mode: file}))
        patch.setattr(tables, "SealedFile", OpenedFile)
        patch.setattr(tables, "_require_schema", Remembered(tables._require_schema, required))
        conform = Remembered(tables.conform, conformed)
        for module in ("store", "tables", "merged"):
            patch.setattr(f"igd_ray.catalog.{module}.conform", conform)
        once = Remembered(sealed.sealed_parquet, written)
        for module in ("store", "tables", "merged", "compaction.merging", "compaction.results"):
            patch.setattr(f"igd_ray.catalog.{module}.sealed_parquet", once)
        join = Remembered(joined_parquet, joined)
        patch.setattr("igd_ray.catalog.compaction.merging.joined_parquet", join)
        patch.setattr("igd_ray.catalog.compaction.results.piece_of", Remembered(piece_of, pieced))
        patch.setattr("igd_ray.catalog.compaction.merging.time", SimpleNamespace(sleep=lambda _: None, monotonic=float))
        patch.setattr("igd_ray.catalog.compaction.merging.secrets", SimpleNamespace(token_hex=token_hex))
        patch.setattr("igd_ray.catalog.store.kept_rows", Remembered(sealed.kept_rows, kept))
        yield


class SimulatedPlace:
    """Files in memory, by folder and name; see `igd_ray.catalog.places.Place`."""

    address = "simulated"

    def __init__(self, files: Files, step: Callable[[str, Callable[[], object]], object]) -> None:
        self._files, self._step = files, step

    def write(self, name: str, content: bytes) -> None:
        folder, file = _parts(name)
        self._step("write", lambda: self._files[folder].__setitem__(file, content))

    def create(self, name: str, content: bytes) -> bool:
        folder, file = _parts(name)
        # As the real ones, it takes a file of the same content for its own, made by a call whose answer was lost.
        return bool(self._step("write", lambda: self._files[folder].setdefault(file, content) == content))

    def read(self, name: str) -> bytes:
        return self._step("read", lambda: self._get(name))  # type: ignore[return-value]

    def open(self, name: str) -> BytesSource:
        return BytesSource(self.read(name))

    def _get(self, name: str) -> bytes:
        folder, file = _parts(name)
        try:
            return self._files[folder][file]
        except KeyError:
            raise FileNotFoundError(name) from None

    def exists(self, name: str) -> bool:
        folder, file = _parts(name)
        return file in self._files[folder]

    def names(self, folder: str) -> list[str]:
        return self._step("read", lambda: sorted(self._files[folder]))  # type: ignore[return-value]

    def age(self, name: str) -> float:
        return 1e9

    def delete(self, name: str) -> None:
        folder, file = _parts(name)
        try:
            self._step("write", lambda: self._files[folder].pop(file, None))
        except IgdError:
            return

    def move(self, name: str, target: str) -> None:
        # As in an object store: a copy, then a deletion.
        (folder, file), (to, new) = _parts(name), _parts(target)
        self._step("write", lambda: self._files[to].__setitem__(new, self._get(name)))
        self._step("write", lambda: self._files[folder].pop(file, None))

    def make(self, folders: object) -> None:
        return


def _parts(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    return folder, file


@lru_cache
def rows_of(key: str, attempt: int) -> pa.Table:
    """Return the rows of a unit in either table."""
    return pa.Table.from_pylist([{"unit_key": key, "image_id": image, "attempt": attempt} for image in "ab"])


class Thread(threading.Thread):
    """Runs one process after another, as starting a thread for each would take longer than what the process does."""

    idle: ClassVar[list["Thread"]] = []

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._wake = Lock()
        self._wake.acquire()
        self._work: Callable[[], None] | None = None
        self.start()

    @classmethod
    def do(cls, work: Callable[[], None]) -> None:
        """Run `work` in a thread that has nothing to do, which `work` puts into `idle` again at its end."""
        thread = cls.idle.pop() if cls.idle else cls()
        thread._work = work
        thread._wake.release()

    def run(self) -> None:
        """Wait for work, do it, and again."""
        while True:
            self._wake.acquire()
            assert self._work is not None
            self._work()


class Process:
    """A process of the simulation: it does as many operations of the place as it may, then another one goes on.

    Args:
        number: its own.
        work: what it does.
        simulation: where.
    """

    running: ClassVar["Process | None"] = None

    def __init__(self, number: int, work: Callable[[Catalog], None], simulation: "Simulation") -> None:
        self.number, self.tokens = number, 0
        self.error: BaseException | None = None
        self.has_begun = self.is_over = False
        self._work, self._simulation = work, simulation
        self._fault, self._left, self._is_dead = "none", 0.0, False
        self._go = Lock()
        self._go.acquire()
        self._catalog = Catalog("simulated")
        self._catalog.place = self._catalog.tables.place = SimulatedPlace(simulation.files, self._step)
        self._catalog.tables.say = lambda line: None  # type: ignore[method-assign]

    def go_on(self) -> None:
        """Have it go on in its thread."""
        Process.running = self
        if self.has_begun:
            self._go.release()
        else:
            self.has_begun = True
            Thread.do(self._run_in_thread)

    def may(self, operations: float, fault: str = "none") -> None:
        """Let it do its next operations when it goes on, the first of them with this fault."""
        self._left, self._fault = operations, fault

    def run(self) -> None:
        """Do its work, in whatever thread."""
        Process.running, self.has_begun = self, True
        try:
            self._work(self._catalog)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_over = True

    def _run_in_thread(self) -> None:
        self.run()
        next_one = self._simulation.choose()
        Thread.idle.append(threading.current_thread())  # type: ignore[arg-type]
        self._simulation.hand_over(next_one)

    def _step(self, kind: str, operation: Callable[[], object]) -> object:
        if not self._left:
            next_one = self._simulation.choose()
            if next_one is not self:
                self._simulation.hand_over(next_one)
                self._go.acquire()
        self._left -= 1
        fault, self._fault = self._fault, "none"
        if fault == "none" and not self._is_dead:
            return operation()
        if fault == "dies" or self._is_dead:
            self._is_dead = True
            raise Killed
        if fault == "fails":
            raise (OSError if kind == "read" else IgdError)("the simulated place is out of reach")
        answer = operation()
        if fault == "repeated":
            answer = operation()
        if fault == "dies after":
            self._is_dead = True
            raise Killed
        if fault == "fails after":
            raise (OSError if kind == "read" else IgdError)("the simulated place did not answer")
        return answer


class Simulation:
    """Some drivers' workers, some merges and a reader on one catalog.

    Args:
        units: how many there are.
        workers: how many try to compute each of them.
        merges: how many merge while they do.

    Attributes:
        choose: says which process goes on when one stops or ends, and lets it do something; None for the caller.
    """

    def __init__(self, units: int = 2, workers: int = 3, merges: int = 2) -> None:
        self.files: Files = defaultdict(dict)
        self.acknowledged: set[str] = set()
        self.keys = [f"u{number}" for number in range(units)]
        self.choose: Callable[[], Process | None] = lambda: None
        self._back = Lock()
        self._back.acquire()
        self._started = 0
        self.processes = [
            *(self._start(lambda catalog, n=n: self._work(catalog, n)) for n in range(workers)),
            *map(self._start, (*[self._merge] * merges, self._read)),
        ]

    def _start(self, work: Callable[[Catalog], None]) -> Process:
        self._started += 1
        return Process(self._started, work, self)

    def hand_over(self, process: Process | None) -> None:
        """Have a process go on, or the caller."""
        if process is None:
            self._back.release()
        else:
            process.go_on()

    def go_on(self, process: Process) -> None:
        """Have a process go on, and those that `choose` says after it; wait until it says the caller.

        Raises:
            ViolationError: if one found that an invariant does not hold, or ended with an error that it must not have.
        """
        process.go_on()
        self._back.acquire()
        for each in self.processes:
            if each.error is not None:
                raise each.error

    def advance(self, process: Process, fault: str = "none", operations: float = 1) -> None:
        """Let a process do its next operations, the first of them with this fault.

        Raises:
            ViolationError: as `go_on` does.
        """
        process.may(operations, fault)
        self.go_on(process)

    def finish(self) -> None:
        """Let all end without further faults, compute what is missing, and look at the result.

        Raises:
            ViolationError: if an invariant does not hold.
        """
        self.choose = lambda: None
        last = (lambda catalog: self._work(catalog, 9), self._merge, self._read, self._merge, self._read)
        for process in (*self.processes, *map(self._start, last)):
            process.may(inf)
            if not process.has_begun:
                process.run()
            elif not process.is_over:
                self.go_on(process)
            if process.error is not None:
                raise process.error
        if self.acknowledged != set(self.keys):
            raise ViolationError(f"never finished: {set(self.keys) - self.acknowledged}")

    def stop(self) -> None:
        """End all processes."""
        self.choose = lambda: None
        for process in self.processes:
            if process.has_begun and not process.is_over:
                process.may(1, "dies")
                process.go_on()
                self._back.acquire()

    def _work(self, catalog: Catalog, attempt: int) -> None:
        for key in self.keys:
            try:
                if not catalog.finish_unit(TABLES, key):
                    catalog.commit_unit(key, dict.fromkeys(TABLES, rows_of(key, attempt)))
            except (IgdError, OSError):
                continue  # reported as a failure, and not acknowledged
            self.acknowledged.add(key)

    def _merge(self, catalog: Catalog) -> None:
        try:
            compact(catalog, keep_seconds=0, settle_seconds=0, least=1)
        except (IgdError, OSError):
            return

    def _read(self, catalog: Catalog) -> None:
        for _ in range(READS):
            for _ in range(20):
                promised = set(self.acknowledged)
                try:
                    answer = {table: self._rows(catalog, table) for table in TABLES}
                except FileNotFoundError:
                    catalog.merged.forget()  # merged meanwhile: asked again, as `ask` does
                    continue
                except UnreadableError as error:
                    raise ViolationError(f"nothing is damaged, but {error}") from error
                except (IgdError, OSError):
                    break
                self._judge(answer, promised)
                break

    def _rows(self, catalog: Catalog, table: str) -> list[dict[str, object]]:
        rows = []
        for file, others in catalog.files(table).items():
            held = catalog.tables.load(table, file, ParsedFile.dictionaries)
            rows += [row for row in held if row["unit_key"] not in others]
        return rows

    def _judge(self, answer: dict[str, list[dict[str, object]]], promised: set[str]) -> None:
        for table, rows in answer.items():
            for key in self.keys:
                mine = [row for row in rows if row["unit_key"] == key]
                if len({row["attempt"] for row in mine}) > 1:
                    raise ViolationError(f"rows of several attempts at {key} in {table}: {mine}")
                if len({row["image_id"] for row in mine}) != len(mine):
                    raise ViolationError(f"an image more than once in {table}: {mine}")
                if mine and len(mine) != 2:
                    raise ViolationError(f"half a result in {table}: {mine}")
                if key in promised and not mine:
                    raise ViolationError(f"{key} was acknowledged and is not in {table}")
        attempts = [{row["unit_key"]: row["attempt"] for row in answer[table]} for table in TABLES]
        for key in attempts[0].keys() & attempts[1].keys():
            if attempts[0][key] != attempts[1][key]:
                raise ViolationError(
                    f"torn: {key} has points of attempt {attempts[0][key]}, verdicts of {attempts[1][key]}"
                )


def simulate(seed: int) -> None:
    """Run one schedule.

    Raises:
        ViolationError: naming the seed, if an invariant does not hold.
    """
    chance = random.Random(seed)
    simulation = Simulation(*map(chance.choice, ((1, 1, 2), (2, 2, 3), (1, 2))))
    longest = chance.choice(LONGEST)
    rate = chance.choice([0.0, 0.02, 0.1])
    # Some wait until the others are done, and some come first.
    weights = {process: chance.random() ** 2 for process in simulation.processes}

    def choose() -> Process | None:
        running = [process for process in weights if not process.is_over]
        if not running or any(process.error for process in weights):
            return None
        (process,) = chance.choices(running, [weights[each] for each in running])
        fault = chance.choice(FAULTS[1:]) if chance.random() < rate else "none"
        process.may(chance.randint(1, longest), fault)
        return process

    simulation.choose = choose
    try:
        first = choose()
        assert first is not None
        simulation.go_on(first)
        simulation.finish()
    except ViolationError as violation:
        raise ViolationError(f"seed {seed}: {violation}") from violation
    finally:
        simulation.stop()


def simulate_many(count: int, first: int = 0) -> None:
    """Run the schedules of `count` seeds from `first` on.

    Raises:
        ViolationError: naming the seed of the first in which an invariant does not hold.
    """
    for seed in range(first, first + count):
        simulate(seed)


def main() -> None:
    """Run as many schedules as the first argument says, from the seed that the second says."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with small_schemas():
        simulate_many(count, first)
    print(f"{count} schedules from seed {first}: every invariant held")


if __name__ == "__main__":
    main()
