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
from types import MappingProxyType

import pyarrow as pa
import pytest

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.sealed import BytesSource
from igd_ray.catalog.tables import UnreadableError
from igd_ray.errors import IgdError
from igd_ray.units.base import Rows

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


@contextmanager
def small_schemas() -> Iterator[None]:
    """Have the catalog know few tables of few columns."""
    named = {
        table: pa.schema(list(schema), metadata={"igd_schema": SCHEMAS[table].metadata[b"igd_schema"].decode()})
        for table, schema in SMALL.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(f"igd_ray.catalog.{module}.SCHEMAS", MappingProxyType(named))
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
        return self._step(  # type: ignore[return-value]
            "read", lambda: sorted(name[len(prefix) :] for name in self._files if name.startswith(prefix))
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


class Process:
    """A process of the simulation: it stops before each operation, until it is told to go on."""

    def __init__(self, name: str, work: Callable[[Catalog], None], files: dict[str, bytes]) -> None:
        self.name, self.error, self.is_over = name, None, False
        self.error: BaseException | None
        self._fault = "none"
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        catalog = Catalog("simulated")
        catalog.place = catalog.tables.place = SimulatedPlace(files, self._step)
        catalog.tables.say = lambda line: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._run, args=(work, catalog), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def advance(self, fault: str) -> None:
        """Let it do its next operation, with this fault, and run to the one after."""
        self._fault = fault
        self._go.release()
        self._stopped.acquire()

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
    """Two drivers' workers, a merge and a reader on one catalog.

    Args:
        units: how many there are.
        workers: how many try to compute each of them.
    """

    def __init__(self, units: int = 2, workers: int = 3) -> None:
        self.files: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self.keys = [f"u{number}" for number in range(units)]
        self.processes = [
            *(Process(f"worker {n}", lambda catalog, n=n: self._work(catalog, n), self.files) for n in range(workers)),
            Process("merge", self._merge, self.files),
            Process("another merge", self._merge, self.files),
            Process("reader", self._read, self.files),
        ]

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
        while running := self.running():
            self.advance(running[0], "none")
        for work in (lambda catalog: self._work(catalog, 9), self._merge, self._merge, self._read):
            last = Process("last", work, self.files)
            while not last.is_over:
                self.advance(last, "none")
        if self.acknowledged != set(self.keys):
            raise ViolationError(f"never finished: {set(self.keys) - self.acknowledged}")

    def stop(self) -> None:
        """End all processes."""
        for process in self.running():
            process.advance("dies")
            while not process.is_over:
                process.advance("dies")

    def _work(self, catalog: Catalog, attempt: int) -> None:
        for key in self.keys:
            try:
                if not catalog.finish_unit(TABLES, key):
                    rows: dict[str, Rows] = {
                        table: [{"unit_key": key, "image_id": image, "attempt": attempt} for image in "ab"]
                        for table in TABLES
                    }
                    catalog.commit_unit(key, rows)
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
    simulation = Simulation()
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
