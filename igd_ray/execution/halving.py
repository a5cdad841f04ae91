"""Units for which memory did not suffice, run as smaller ones; the catalog remembers."""

from collections.abc import Sequence
from typing import Protocol, cast

from igd_ray.catalog import Catalog
from igd_ray.units.base import Unit


class Divisible(Protocol):
    """A unit that can be run as others, which take less memory and have keys of their own."""

    def split(self) -> Sequence[Unit]:
        """Return those; none if it is as small as can be."""
        ...


def family(unit: Unit) -> str:
    """Return what units of about the same cost an image have in common: kind, defense and attack."""
    labels = (getattr(getattr(unit, name, None), "label", "") for name in ("defense", "attack"))
    return "/".join((unit.kind, *labels))


class Splitter:
    """Replaces units by smaller ones where memory did not suffice before, in this run or an earlier one.

    A part has a key, and so seeds, of its own: its rows are those of a run with smaller shards.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # Listed once: in an object store each look costs as much as a small unit.
        self._split: set[str] | None = None
        self._most_images: dict[str, int] = {}

    def fitting(self, unit: Unit) -> list[Unit]:
        """Return `unit`, or the parts that stand for it."""
        if self._split is None:
            self._split = self._catalog.keys("splits")
        known = unit.key in self._split
        most = self._most_images.get(family(unit))
        if not known and (most is None or len(unit.shard.ids) <= most):
            return [unit]
        parts = self._divide(unit, commit=not known)
        return [unit] if not parts else [small for part in parts for small in self.fitting(part)]

    def split(self, unit: Unit) -> list[Unit]:
        """Return the parts of a unit that ran out of memory, smaller from now on with all of its kind; or nothing."""
        parts = self._divide(unit, commit=True)
        if parts:
            self._most_images[family(unit)] = max(len(part.shard.ids) for part in parts)
        return parts

    def _divide(self, unit: Unit, *, commit: bool) -> list[Unit]:
        if not hasattr(unit, "split") or len(unit.shard.ids) < 2:
            return []
        parts = list(cast(Divisible, unit).split())
        if parts and commit:
            rows = [{"unit_key": unit.key, "part_key": part.key, "images": len(part.shard.ids)} for part in parts]
            self._catalog.commit("splits", unit.key, rows)
            if self._split is not None:
                self._split.add(unit.key)
        return parts
