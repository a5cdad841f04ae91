"""Where results are committed: by each worker where it shares the driver's storage, else on the driver's node."""

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from igd_ray.catalog import Catalog
from igd_ray.errors import IgdError, first_line
from igd_ray.units.base import BrokenWorkerError

PREFIX = "storage-"

# A note this old is taken for one that a killed driver left. A living driver writes its own again when a worker starts.
SECONDS_TO_KEEP = 24 * 3600.0


class StorageCheck:
    """Tells whether a worker's catalog is the driver's: each must read what the other wrote.

    Args:
        catalog: the driver's.
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
        # Workers that were ended before the driver looked have left their answers.
        for name in self._catalog.notes():
            if name.startswith(self._name):
                self._catalog.delete_note(name)

    def ask(self) -> tuple[str, str]:
        """Return what a worker is asked: the name of the driver's note, and what stands in it.

        Raises:
            IgdError: if the note is gone and cannot be written again.
        """
        if self._catalog.read_note(self._name) != self._token:
            self._catalog.write_note(self._name, self._token)
        return self._name, self._token

    def confirms(self, worker: int) -> bool:
        """Tell whether the driver sees the answer of `worker`, which is then deleted."""
        name = f"{self._name}-{worker}"
        answered = self._catalog.read_note(name) == self._token
        self._catalog.delete_note(name)
        return answered


def answer(catalog: Catalog, question: tuple[str, str], worker: int) -> None:
    """Answer the driver's question through a worker's `catalog`, where it holds the question."""
    name, token = question
    if catalog.read_note(name) == token:
        try:
            catalog.write_note(f"{name}-{worker}", token)
        except IgdError:  # readable but not writable: the driver, without an answer, commits
            return


class CatalogKeeper:
    """The driver's catalog for workers that do not see it; an actor on the driver's node."""

    def __init__(self, root: str) -> None:
        self._root = root

    @cached_property
    def _catalog(self) -> Catalog:
        # Opened when first asked for: of an actor whose construction fails Ray keeps no more than a traceback.
        return Catalog(self._root)

    def check(self) -> None:
        """Verify that the catalog can be opened on this node.

        Raises:
            InputError: if it cannot.
        """
        self._catalog.check()

    def has(self, table: str, key: str) -> bool:
        """Tell whether a result is committed."""
        return self._catalog.has(table, key)

    def read(self, table: str, key: str) -> pa.Table:
        """Return a result."""
        return self._catalog.read(table, key)

    def commit(self, table: str, key: str, rows: pa.Table | Sequence[Mapping[str, object]], replace: bool) -> bool:
        """Commit a result."""
        return self._catalog.commit(table, key, rows, replace=replace)


class KeptCatalog(Catalog):
    """A worker's catalog that asks the driver's node; nothing is opened on this one, which may not be able to."""

    def __init__(self, root: str, keeper: Any) -> None:
        self._name = root
        self._keeper = keeper

    def has(self, table: str, key: str) -> bool:
        """Tell whether the result `key` of `table` is committed."""
        return bool(self._ask("has", table, key))

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of the result `key` of `table`."""
        return self._ask("read", table, key)

    def commit(
        self, table: str, key: str, rows: pa.Table | Sequence[Mapping[str, object]], *, replace: bool = False
    ) -> bool:
        """Have the driver's node write `rows` as the result `key` of `table`, once."""
        return bool(self._ask("commit", table, key, rows, replace))

    def _ask(self, method: str, *arguments: object) -> Any:
        import ray

        try:
            return ray.get(getattr(self._keeper, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise BrokenWorkerError(
                f"its way to the catalog is gone, {type(error).__name__}: {first_line(error)}"
            ) from None
