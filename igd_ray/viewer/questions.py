"""Questions to a catalog that end when whoever asked goes away."""

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import duckdb

from igd_ray.catalog import Catalog, ask
from igd_ray.catalog.query import Reader
from igd_ray.errors import IgdError

Found = TypeVar("Found")


class Questions:
    """What is being asked for one page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[duckdb.DuckDBPyConnection] = []
        self._ended = False

    def ask(self, catalog: Catalog, question: Callable[[Reader], Found]) -> Found:
        """Return what `question` finds over `catalog`, as `igd_ray.catalog.ask` does.

        Raises:
            IgdError: also if `end` was called.
        """
        return ask(catalog, partial(self._asked, question))

    def _asked(self, question: Callable[[Reader], Found], reader: Reader) -> Found:
        with self._lock:
            if self._ended:
                raise IgdError("the question was given up")
            self._connections.append(reader.connection)
        try:
            return question(reader)
        finally:
            with self._lock:
                self._connections.remove(reader.connection)

    def end(self) -> None:
        """Interrupt what is being asked, and refuse what comes after it."""
        with self._lock:
            self._ended = True
            for connection in self._connections:
                connection.interrupt()
