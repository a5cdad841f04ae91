"""Splits units that do not fit into memory, and records the parts in the catalog."""

from igd_ray.catalog import Catalog
from igd_ray.units.base import Unit


class Halving:
    """Replaces units by parts where such a unit ran out of memory before, in this run or an earlier one.

    A part has its own key, and so its own seeds: its rows are those of a run with smaller shards.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # Listed once: in an object store each request costs as much as a small unit.
        self._halved: set[str] | None = None
        self._most_images: dict[str, int] = {}

    def fitting(self, unit: Unit) -> list[Unit]:
        """Return `unit`, or the parts that replace it."""
        if self._halved is None:
            self._halved = self._catalog.keys("splits")
        known = unit.key in self._halved
        most = self._most_images.get(unit.family)
        if not known and (most is None or len(unit.shard.ids) <= most):
            return [unit]
        parts = self._divide(unit, commit=not known)
        return [unit] if not parts else [small for part in parts for small in self.fitting(part)]

    def halve(self, unit: Unit) -> list[Unit]:
        """Return the parts of a unit that ran out of memory, [] if it cannot be split; later units are split alike."""
        parts = self._divide(unit, commit=True)
        if parts:
            self._most_images[unit.family] = max(len(part.shard.ids) for part in parts)
        return parts

    def _divide(self, unit: Unit, *, commit: bool) -> list[Unit]:
        if len(unit.shard.ids) < 2:
            return []
        parts = list(unit.halved())
        if parts and commit:
            rows = [{"unit_key": unit.key, "part_key": part.key, "images": len(part.shard.ids)} for part in parts]
            self._catalog.commit("splits", unit.key, rows)
            if self._halved is not None:
                self._halved.add(unit.key)
        return parts
