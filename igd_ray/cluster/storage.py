"""Commits of workers: by the worker itself if it shares the driver's storage, else on the driver's node."""

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from igd_ray.catalog import Catalog
from igd_ray.errors import IgdError, first_line
from igd_ray.units.base import BrokenWorkerError

PREFIX = "storage-"

# A note this old was left by a driver that was killed. A living driver writes its note again when a worker starts.
SECONDS_TO_KEEP = 24 * 3600.0


class StorageCheck:
    """Finds out whether a worker sees the driver's catalog: each must read what the other wrote.

    Args:
        catalog: the driver's catalog.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._name = f"{PREFIX}{secrets.token_hex(6)}"
        self._token = secrets.token_hex(16)

    def __enter__(self) -> "StorageCheck":
        for name, age in self._catalog.notes().items():
            if name.startswith(PREFIX) and age > SECONDS_TO_KEEP:
                self._catalog.delete_note(name)
        self._catalog.write_note(self._name, self._token)
        return self

    def __exit__(self, *_error: object) -> None:
        # Delete the answers of workers that were killed before the driver read them.
        for name in self._catalog.notes():
            if name.startswith(self._name):
                self._catalog.delete_note(name)

    def ask(self) -> tuple[str, str]:
        """Return the question for a worker: the name and the text of the driver's note.

        Raises:
            IgdError: if the note is gone and cannot be written again.
        """
        if self._catalog.read_note(self._name) != self._token:
            self._catalog.write_note(self._name, self._token)
        return self._name, self._token

    def confirms(self, worker: int) -> bool:
        """Return whether the driver sees the answer of `worker`, and delete the answer."""
        name = f"{self._name}-{worker}"
        answered = self._catalog.read_note(name) == self._token
        self._catalog.delete_note(name)
        return answered


def answer(catalog: Catalog, question: tuple[str, str], worker: int) -> None:
    """Answer the driver's question through a worker's `catalog`, if the note is in it."""
    name, token = question
    if catalog.read_note(name) == token:
        try:
            catalog.write_note(f"{name}-{worker}", token)
        except IgdError:  # readable but not writable: without an answer, the driver's node commits
            return


class CatalogKeeper:
    """An actor on the driver's node that reads and commits for workers that do not see the catalog."""

    def __init__(self, root: str) -> None:
        self._root = root

    @cached_property
    def _catalog(self) -> Catalog:
        # Opened at first use: if the construction of an actor fails, Ray reports only a traceback.
        return Catalog(self._root)

    def check(self) -> None:
        """Verify that the catalog can be opened on this node.

        Raises:
            InputError: if it cannot.
        """
        self._catalog.check()

    def has(self, table: str, key: str) -> bool:
        """Return whether a result is committed."""
        return self._catalog.has(table, key)

    def read(self, table: str, key: str) -> pa.Table:
        """Return a result."""
        return self._catalog.read(table, key)

    def commit_unit(self, key: str, rows: Mapping[str, pa.Table | Sequence[Mapping[str, object]]]) -> bool:
        """Commit a unit's rows."""
        return self._catalog.commit_unit(key, rows)

    def finish_unit(self, tables: Sequence[str], key: str) -> bool:
        """Finish what an interrupted commit began; tell whether the unit is committed."""
        return self._catalog.finish_unit(tables, key)


class KeptCatalog(Catalog):
    """A worker's catalog that reads and commits through the driver's node, and opens nothing on its own node."""

    def __init__(self, root: str, keeper: Any) -> None:
        self._name = root
        self._keeper = keeper

    def has(self, table: str, key: str) -> bool:
        """Return whether the result `key` of `table` is committed."""
        return bool(self._ask("has", table, key))

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of the result `key` of `table`."""
        return self._ask("read", table, key)

    def commit_unit(self, key: str, rows: Mapping[str, pa.Table | Sequence[Mapping[str, object]]]) -> bool:
        """Make the driver's node write a unit's rows, all of them or none."""
        return bool(self._ask("commit_unit", key, rows))

    def finish_unit(self, tables: Sequence[str], key: str) -> bool:
        """Make the driver's node finish what an interrupted commit began; tell whether the unit is committed."""
        return bool(self._ask("finish_unit", tables, key))

    def _ask(self, method: str, *arguments: object) -> Any:
        import ray

        try:
            return ray.get(getattr(self._keeper, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise BrokenWorkerError(
                f"it cannot reach the catalog any more, {type(error).__name__}: {first_line(error)}"
            ) from None
