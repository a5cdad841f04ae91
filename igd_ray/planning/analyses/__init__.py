"""Analyses: what stands behind the accuracies, each a plan of units; every module here registers its own."""

from importlib import import_module
from pkgutil import iter_modules

from igd_ray.planning.analyses.base import ANALYSES, Analysis, AnalysisPlan

__all__ = ["ANALYSES", "Analysis", "AnalysisPlan"]

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
