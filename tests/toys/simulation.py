"""A catalog in a simulated place: every operation can fail, be repeated, be delayed or be the last of its process.

Processes are threads of which one runs at a time. Before each operation of the place the running one stops, and the
schedule says which goes on and what happens to its operation. Everything follows from the schedule: one that found a
fault finds it again.
"""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from types import MappingProxyType, SimpleNamespace

import pyarrow as pa
import pytest

from igd_ray.catalog import SCHEMAS, Catalog, sealed
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.sealed import BytesSource
from igd_ray.catalog.tables import UnreadableError
from igd_ray.errors import IgdError
from tests.toys.parsed_files import ParsedFile, Remembered, kept, written

TABLES = ("adversarials", "outcomes")

# What can happen to an operation. The last two are of a process that dies before it, or as soon as it is done.
FAULTS = ("none", "fails", "fails after", "repeated", "dies", "dies after")

# As many columns as the invariants ask about, so that many schedules fit into a minute.
SMALL = {
    "adversarials": pa.schema([("unit_key", pa.string()), ("image_id", pa.string()), ("attempt", pa.int32())]),
    "outcomes": pa.schema([("unit_key", pa.string()), ("image_id", pa.string()), ("attempt", pa.int32())]),
    "splits": SCHEMAS["splits"],
    "compacted": SCHEMAS["compacted"],
}
MODULES = ("store", "tables", "merged", "compaction", "sealed")


class Killed(BaseException):
    """The process is no more."""


class ViolationError(AssertionError):
    """An invariant does not hold."""


def token_hex(_bytes: int) -> str:
    """Return another token each time, the same in each run of a schedule: names of files follow from the schedule."""
    thread = threading.current_thread()
    assert isinstance(thread, ProcessThread)
    thread.tokens += 1
    return f"{thread.number:08x}{thread.tokens:08x}"


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
        for module in ("store", "tables", "merged"):
            patch.setattr(f"igd_ray.catalog.{module}.pq", SimpleNamespace(ParquetFile=ParsedFile))
        once = Remembered(sealed.sealed_parquet, written)
        for module in ("store", "tables", "merged", "compaction"):
            patch.setattr(f"igd_ray.catalog.{module}.sealed_parquet", once)
        patch.setattr("igd_ray.catalog.compaction.secrets", SimpleNamespace(token_hex=token_hex))
        patch.setattr("igd_ray.catalog.store.kept_rows", Remembered(sealed.kept_rows, kept))
        yield


class SimulatedPlace:
    """Files in memory; see `igd_ray.catalog.places.Place`."""

    address = "simulated"

    def __init__(self, files: dict[str, bytes], step: Callable[[str, Callable[[], object]], object]) -> None:
        self._files, self._step = files, step

    def write(self, name: str, content: bytes) -> None:
        self._step("write", lambda: self._files.__setitem__(name, content))

    def create(self, name: str, content: bytes) -> bool:
        # As the real ones, it takes a file of the same content for its own, made by a call whose answer was lost.
        return bool(self._step("write", lambda: self._files.setdefault(name, content) == content))

    def read(self, name: str) -> bytes:
        return self._step("read", lambda: self._get(name))  # type: ignore[return-value]

    def open(self, name: str) -> BytesSource:
        return BytesSource(self.read(name))

    def _get(self, name: str) -> bytes:
        if name not in self._files:
            raise FileNotFoundError(name)
        return self._files[name]

    def exists(self, name: str) -> bool:
        return name in self._files

    def names(self, folder: str) -> list[str]:
        prefix = f"{folder}/"
        start = len(prefix)
        return self._step(  # type: ignore[return-value]
            "read", lambda: sorted([name[start:] for name in self._files if name.startswith(prefix)])
        )

    def age(self, name: str) -> float:
        return 1e9

    def delete(self, name: str) -> None:
        try:
            self._step("write", lambda: self._files.pop(name, None))
        except IgdError:
            return

    def move(self, name: str, target: str) -> None:
        # As in an object store: a copy, then a deletion.
        self._step("write", lambda: self._files.__setitem__(target, self._get(name)))
        self._step("write", lambda: self._files.pop(name, None))

    def make(self, folders: object) -> None:
        return


class ProcessThread(threading.Thread):
    """What a process of the simulation is made of."""

    def __init__(self, number: int, work: Callable[[], None]) -> None:
        super().__init__(target=work, daemon=True)
        self.number, self.tokens = number, 0


@lru_cache
def rows_of(key: str, attempt: int) -> pa.Table:
    """Return the rows of a unit in either table."""
    return pa.Table.from_pylist([{"unit_key": key, "image_id": image, "attempt": attempt} for image in "ab"])


class Process:
    """A process of the simulation: it stops before each operation, until it is told to go on."""

    def __init__(self, number: int, work: Callable[[Catalog], None], files: dict[str, bytes]) -> None:
        self.error, self.is_over = None, False
        self.error: BaseException | None
        self._fault, self._stops = "none", True
        self._go, self._stopped = Lock(), Lock()
        self._go.acquire()
        self._stopped.acquire()
        catalog = Catalog("simulated")
        catalog.place = catalog.tables.place = SimulatedPlace(files, self._step)
        catalog.tables.say = lambda line: None  # type: ignore[method-assign]
        ProcessThread(number, lambda: self._run(work, catalog)).start()
        self._stopped.acquire()

    def advance(self, fault: str) -> None:
        """Let it do its next operation, with this fault, and run to the one after."""
        self._fault = fault
        self._go.release()
        self._stopped.acquire()

    def finish(self, fault: str = "none") -> None:
        """Let it do all its other operations, each with this fault, without a stop."""
        if not self.is_over:
            self._stops = False
            self.advance(fault)

    def _run(self, work: Callable[[Catalog], None], catalog: Catalog) -> None:
        self._stop()
        try:
            work(catalog)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_over = True
        self._stopped.release()

    def _stop(self) -> None:
        if self._stops:
            self._stopped.release()
            self._go.acquire()

    def _step(self, kind: str, operation: Callable[[], object]) -> object:
        self._stop()
        fault = self._fault
        if fault == "dies":
            raise Killed
        if fault == "fails":
            raise (OSError if kind == "read" else IgdError)("the simulated place is out of reach")
        answer = operation()
        if fault == "repeated":
            answer = operation()
        if fault == "dies after":
            raise Killed
        if fault == "fails after":
            raise (OSError if kind == "read" else IgdError)("the simulated place did not answer")
        return answer


class Simulation:
    """Some drivers' workers, two merges and a reader on one catalog.

    Args:
        units: how many there are.
        workers: how many try to compute each of them.
    """

    def __init__(self, units: int = 2, workers: int = 3) -> None:
        self.files: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self.keys = [f"u{number}" for number in range(units)]
        self._started = 0
        self.processes = [
            *(self._start(lambda catalog, n=n: self._work(catalog, n)) for n in range(workers)),
            *map(self._start, (self._merge, self._merge, self._read)),
        ]

    def _start(self, work: Callable[[Catalog], None]) -> Process:
        self._started += 1
        return Process(self._started, work, self.files)

    def running(self) -> list[Process]:
        """Return the processes that are not over."""
        return [process for process in self.processes if not process.is_over]

    def advance(self, process: Process, fault: str) -> None:
        """Let a process do one operation.

        Raises:
            ViolationError: if it found that an invariant does not hold, or ended with an error that it must not have.
        """
        process.advance(fault)
        if process.error is not None:
            raise process.error

    def finish(self) -> None:
        """Let all end without further faults, compute what is missing, and look at the result.

        Raises:
            ViolationError: if an invariant does not hold.
        """
        last = (lambda catalog: self._work(catalog, 9), self._merge, self._merge, self._read)
        for process in (*self.processes, *map(self._start, last)):
            process.finish()
            if process.error is not None:
                raise process.error
        if self.acknowledged != set(self.keys):
            raise ViolationError(f"never finished: {set(self.keys) - self.acknowledged}")

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.finish("dies")

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
        for _ in range(2):
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
            held = catalog.tables.load(table, file, lambda parquet: parquet.read().to_pylist())
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
    simulation = Simulation(units=chance.choice([1, 1, 2]), workers=chance.choice([2, 2, 3]))
    rate = chance.choice([0.0, 0.02, 0.1])
    try:
        while running := simulation.running():
            fault = chance.choice(FAULTS[1:]) if chance.random() < rate else "none"
            simulation.advance(chance.choice(running), fault)
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
