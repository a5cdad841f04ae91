"""Test-time defenses: modules that take images in [0, 1] and give logits and gradients."""

from importlib import import_module
from pkgutil import iter_modules

from igd_ray.defenses.anti_adversary import AntiAdversaryDefense
from igd_ray.defenses.base import Defense
from igd_ray.defenses.confidence import ConfidenceMaskingDefense
from igd_ray.defenses.hedge import HedgeDefense
from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.defenses.smoothing import SmoothingOnly
from igd_ray.defenses.sodef import SodefDefense

__all__ = [
    "AntiAdversaryDefense",
    "ConfidenceMaskingDefense",
    "Defense",
    "HedgeDefense",
    "InterpretabilityGuidedDefense",
    "SmoothingOnly",
    "SodefDefense",
    "class_masks",
]

# A kind of defense registers itself when its file is imported.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
