"""The search for k, σ and τ: samplers, and clean accuracy from cached passes. Nothing here imports Ray."""

from igd_ray.search.bisection import Bisection, ClassBisections
from igd_ray.search.objective import CachedObjective, CleanAccuracy
from igd_ray.search.samplers import (
    BisectionSampler,
    KMode,
    ListSampler,
    PackageSampler,
    Proposal,
    Sampler,
    SearchSpace,
    grid,
    random_settings,
)
from igd_ray.search.space import Measurement, Noise, Setting, Trial, best_trials, most_accurate

__all__ = [
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
    "Proposal",
    "Sampler",
    "SearchSpace",
    "Setting",
    "Trial",
    "best_trials",
    "grid",
    "most_accurate",
    "random_settings",
]
