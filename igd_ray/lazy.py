"""Modules that are imported when something of them is first asked for: a verb waits for what it needs."""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["LazyModule", "fs", "pa", "pc", "pq"]


class LazyModule:
    """Stands for a module; `TYPE_CHECKING` imports the module itself, so that types are known.

    >>> LazyModule("math").sqrt(16)
    4.0
    """

    def __init__(self, name: str) -> None:
        """Stand for the module of this full name."""
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        """Import the module and return what it has of this name."""
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.fs as fs
    import pyarrow.parquet as pq
else:
    # A tenth of a second, for which a question to DuckDB need not wait.
    pa, fs = LazyModule("pyarrow"), LazyModule("pyarrow.fs")
    pc, pq = LazyModule("pyarrow.compute"), LazyModule("pyarrow.parquet")
