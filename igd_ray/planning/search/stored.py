"""Searches and trials that the catalog holds."""

from collections.abc import Mapping
from typing import Any

from igd_ray.catalog import Catalog
from igd_ray.search import (
    Measurement,
    Setting,
    Trial,
)


def read_search(catalog: Catalog, search_id: str) -> dict[str, object]:
    """Return the row of a finished search.

    Raises:
        InputError: if there is none of that id.
    """
    row: dict[str, object] = catalog.read("searches", search_id).to_pylist()[0]
    return row


def read_trials(catalog: Catalog, search_id: str) -> list[Trial]:
    """Return the committed trials of a search, by number."""
    if not catalog.root.is_dir():
        return []
    keys = sorted(key for key in catalog.keys("trials") if key.startswith(f"{search_id}-"))
    return sorted(
        (_trial(row) for key in keys for row in catalog.read("trials", key).to_pylist()),
        key=lambda trial: trial.number,
    )


def _trial(row: Mapping[str, Any]) -> Trial:
    k = row["k"] if row["class_k"] is None else tuple(row["class_k"])
    counts = (tuple(row[f"class_{name}"]) for name in ("images", "base_correct", "gained", "lost"))
    # What a defense in a file does not take as an argument is NULL in its rows.
    noise = 0.0 if row["sigma"] is None else row["sigma"]
    setting = Setting(k, noise, 1.0 if row["tau"] is None else row["tau"], row["draws"] or 1)
    return Trial(row["trial"], setting, Measurement(*counts), row["feasible"], row["seconds"])
