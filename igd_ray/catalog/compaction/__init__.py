"""Merging small files into few."""

from igd_ray.catalog.compaction.merging import (
    FILES_OF_A_MERGE,
    KEEP_SECONDS,
    SECONDS_TO_SETTLE,
    UNITS_OF_A_MERGE,
    Compaction,
    compact,
)

__all__ = ["FILES_OF_A_MERGE", "KEEP_SECONDS", "SECONDS_TO_SETTLE", "UNITS_OF_A_MERGE", "Compaction", "compact"]
