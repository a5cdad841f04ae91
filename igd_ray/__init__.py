"""Evaluate interpretability-guided test-time adversarial defenses at scale."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

    from igd_ray.notebook import Evaluation, evaluate

__all__ = ["Evaluation", "connect", "evaluate"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: everything that an evaluation needs takes seconds to import.
    if name in ("Evaluation", "evaluate"):
        from igd_ray import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect(catalog: str) -> "duckdb.DuckDBPyConnection":
    """Return a DuckDB connection with every view over a catalog, for notebooks and scripts.

    It reads the catalog and nothing else: it cannot write, and has no access to other files. Answers come as Arrow
    (`.to_arrow_table()`), as pandas (`.df()`) or as polars (`.pl()`, where it is installed). What is committed later
    is seen by a new connection.

    Args:
        catalog: the folder or the address of the results, such as ``results``.

    Raises:
        InputError: if there is no catalog, or it is of another schema version.
        duckdb.Error: if a file cannot be read.
    """
    # Imported here: most who import the package ask for something else.
    from igd_ray import catalog as catalogs

    return catalogs.connect(catalogs.Catalog(catalog))
