"""The search for k: bisection, and clean accuracy from caches. No Ray in here."""

from igd_ray.search.bisection import Bisection
from igd_ray.search.objective import CachedObjective

__all__ = ["Bisection", "CachedObjective"]
