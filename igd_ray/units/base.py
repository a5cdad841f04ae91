"""A unit of work: a key, what it computes, and the rows it commits; and the arithmetic that makes rows repeatable."""

import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.data import LabeledImages
from igd_ray.errors import first_line
from igd_ray.identity import content_hash
from igd_ray.models.sources import exiting_file, exits_raised
from igd_ray.units.replica import Context

Rows = Sequence[Mapping[str, object]]

# Kernels may sum in another order with more threads, and the numbers would then depend on the machine. Parallelism
# comes from more workers.
THREADS = 1


@dataclass(frozen=True)
class Shard:
    """A run of consecutive images of one set.

    Attributes:
        images: the set's name, "probe", "search" or "test".
        start, stop: positions in the set.
        ids: the images' ids, which contain a digest of their content.
        digest: the hash of ids and labels, for the keys of units.
    """

    images: str
    start: int
    stop: int
    ids: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, name: str, images: LabeledImages, start: int, stop: int) -> "Shard":
        """Return the shard `start`…`stop` of `images`, the set called `name`."""
        part = images.select(slice(start, stop))
        return cls(name, start, start + len(part), part.ids, part.fingerprint)

    def halves(self) -> tuple["Shard", "Shard"]:
        """Return the first and the second half, the first one larger for an odd number of images."""
        middle = (len(self.ids) + 1) // 2
        return self._part(0, middle), self._part(middle, len(self.ids))

    def first(self, images: int) -> "Shard":
        """Return the first `images` images, or all where there are not so many."""
        return self if images >= len(self.ids) else self._part(0, images)

    def _part(self, first: int, last: int) -> "Shard":
        digest = content_hash([self.digest, first, last])
        return Shard(self.images, self.start + first, self.start + last, self.ids[first:last], digest)


def shards_of(name: str, images: LabeledImages, size: int) -> tuple[Shard, ...]:
    """Cut the set `name` into shards of `size` images, the last one shorter."""
    return tuple(Shard.of(name, images, start, start + size) for start in range(0, len(images), size))


class Passes(NamedTuple):
    """Passes of one image through the base model: upper bounds before a unit runs."""

    forwards: int
    backwards: int


class Unit(ABC):
    """Something that one worker computes and commits whole.

    A plan makes units; nothing is computed then. From there on, in this order:

    1. `key` tells whether the unit is done: every table of `tables` holds rows under it.
    2. `needs` tells when it may run: the units with these keys are done.
    3. `compute` runs on a worker and returns the rows of each table, which `execute` commits, all or none of them.
    4. Where memory is too small for it, `halved` gives the units that run instead.

    `most_passes`, `family` and `title` serve estimates, schedules and people; no result depends on them.

    A subclass is a frozen dataclass, which travels to workers. It says its `kind`, `tables`, `shard`, `key` and
    `compute`; the other methods have defaults.

    Attributes:
        kind: what it is, for people.
        tables: the tables that it commits to, in this order.
        shard: the images that it covers.
    """

    tables: ClassVar[tuple[str, ...]]

    if TYPE_CHECKING:
        # At run time a property here would be the default of the subclasses' dataclass field.
        @property
        def kind(self) -> str: ...
        @property
        def shard(self) -> Shard: ...

    @property
    @abstractmethod
    def key(self) -> str:
        """The hash of everything that the result depends on, and of nothing else."""

    @abstractmethod
    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute the rows to commit, by table."""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of units that must be done before."""
        return frozenset()

    def halved(self) -> "tuple[Unit, ...]":
        """Return units that stand for this one and take about half its memory; none if it is as small as can be."""
        return ()

    def most_passes(self, num_classes: int) -> Passes:
        """Return upper bounds of its passes, for a model of `num_classes`; by default one forward pass per image."""
        return Passes(len(self.shard.ids), 0)

    @property
    def most_repeated_passes(self) -> Passes:
        """Return an upper bound of further passes: of attacks that are repeated because noise spoils them."""
        return Passes(0, 0)

    @property
    def family(self) -> str:
        """What units that cost about the same time and memory an image have in common."""
        return self.kind

    @property
    def title(self) -> str:
        """What it is called where units are counted, for people."""
        return self.kind


@dataclass(frozen=True)
class UnitReport:
    """What became of a unit: it is committed, or why not.

    Attributes:
        attempt: how often it was tried, this time included, by all runs of the catalog.
        out_of_memory: the error is a lack of memory, which fewer images at once may not have.
        parts: how many smaller units stand for it from now on; their reports follow.
        memory: the most memory of a GPU that it took, in bytes; 0 on a CPU.
    """

    key: str
    kind: str
    images: int
    seconds: float
    error: str | None = None
    attempt: int = 1
    out_of_memory: bool = False
    parts: int = 0
    memory: int = 0


def is_done(catalog: Catalog, unit: Unit) -> bool:
    """Tell whether all of the unit's rows are committed."""
    return all(catalog.has(table, unit.key) for table in unit.tables)


class BrokenWorkerError(Exception):
    """A worker cannot go on, for a reason that lies in none of its units."""


def execute(unit: Unit, context: Context, attempt: int = 1) -> UnitReport:
    """Compute and commit `unit`, unless it is committed or an interrupted attempt only has to be finished.

    Where several workers compute one unit, all of its rows are of the first that commits.
    An exception becomes a report: an error is an error, and other units go on. So does an exit in a file of the user's.

    Raises:
        BrokenWorkerError: if this worker can run no unit any more.
    """
    started = time.perf_counter()
    error = None
    out_of_memory = False
    try:
        # A unit without tables, which only costs what leasing it costs, has nothing to commit.
        if not unit.tables:
            unit.compute(context)
        elif not context.catalog.finish_unit(unit.tables, unit.key):
            # What code of the user's prints must not stand among results.
            with exits_raised(), redirect_stdout(sys.stderr):
                computed = unit.compute(context)
            rows = {table: _numbered(table, computed[table], attempt) for table in unit.tables}
            context.catalog.commit_unit(unit.key, rows)
    except BrokenWorkerError:
        raise
    except SystemExit as exit:
        if (file := exiting_file(exit)) is None:
            raise
        error = f"{file} calls sys.exit or os._exit (status {exit.code!r}), which would end the run; remove the call"
    except Exception as exception:  # any failure of the science is the unit's, not the worker's
        error = f"{type(exception).__name__}: {first_line(exception)}"
        out_of_memory = is_out_of_memory(exception)
    seconds = time.perf_counter() - started
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), seconds, error, attempt, out_of_memory)


def _numbered(table: str, rows: Rows, attempt: int) -> Rows:
    """Return `rows` with the number of the attempt, where `table` has it."""
    return [{**row, "attempt": attempt} for row in rows] if "attempt" in SCHEMAS[table].names else rows


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether `error` says that a GPU or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch's allocator for the CPU raises a bare RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def host_name() -> str:
    """Return this machine's name, for the record."""
    return socket.gethostname()


@contextmanager
def reproducible() -> Iterator[None]:
    """While open, PyTorch computes with one thread per worker and full float32 precision, on a GPU too."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.set_num_threads(THREADS)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = cudnn
