"""A unit of work: a key, what it computes, and the rows it commits."""

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from igd_ray.catalog import Catalog
from igd_ray.data import LabeledImages
from igd_ray.errors import first_line
from igd_ray.pipeline.setup import Context

Rows = Sequence[Mapping[str, object]]


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


def shards_of(name: str, images: LabeledImages, size: int) -> tuple[Shard, ...]:
    """Cut the set `name` into shards of `size` images, the last one shorter."""
    return tuple(Shard.of(name, images, start, start + size) for start in range(0, len(images), size))


class Unit(Protocol):
    """Something a worker computes and commits whole."""

    @property
    def key(self) -> str:
        """The hash of everything the result depends on."""
        ...

    @property
    def kind(self) -> str:
        """What it is, for people."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it commits to, in this order; the unit is done when all hold its key."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Keys of units that must be done before."""
        ...

    @property
    def shard(self) -> Shard:
        """The images it covers."""
        ...

    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute the rows to commit, by table."""
        ...


@dataclass(frozen=True)
class UnitReport:
    """What a worker says of a unit: it is committed, or why not."""

    key: str
    kind: str
    images: int
    seconds: float
    error: str | None = None


def is_done(catalog: Catalog, unit: Unit) -> bool:
    """Tell whether all of the unit's rows are committed."""
    return all(catalog.has(table, unit.key) for table in unit.tables)


def execute(unit: Unit, context: Context) -> UnitReport:
    """Compute and commit `unit`, its last table last.

    What an interrupted attempt left in the tables before is written again, so that all rows are of one attempt.
    An exception becomes a report: an error is an error, and other units go on.
    """
    started = time.perf_counter()
    error = None
    if not is_done(context.catalog, unit):
        try:
            tables = unit.compute(context)
            for table in unit.tables:
                context.catalog.commit(table, unit.key, tables[table], replace=table != unit.tables[-1])
        except Exception as exception:  # any failure of the science is the unit's, not the worker's
            error = f"{type(exception).__name__}: {first_line(exception)}"
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), time.perf_counter() - started, error)


def host_name() -> str:
    """Return this machine's name, for the record."""
    return socket.gethostname()
