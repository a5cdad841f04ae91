"""The search for k, σ and τ: samplers, and clean accuracy from caches. No Ray in here."""

from igd_ray.search.bisection import Bisection, ClassBisections
from igd_ray.search.objective import CachedObjective, CleanAccuracy
from igd_ray.search.samplers import (
    Asked,
    BisectionSampler,
    KMode,
    ListSampler,
    PackageSampler,
    Sampler,
    SearchSpace,
    grid,
    random_settings,
)
from igd_ray.search.space import Measurement, Noise, Setting, Trial, best_trials, most_accurate

__all__ = [
    "Asked",
    "Bisection",
    "BisectionSampler",
    "CachedObjective",
    "ClassBisections",
    "CleanAccuracy",
    "KMode",
    "ListSampler",
    "Measurement",
    "Noise",
    "PackageSampler",
    "Sampler",
    "SearchSpace",
    "Setting",
    "Trial",
    "best_trials",
    "grid",
    "most_accurate",
    "random_settings",
]
