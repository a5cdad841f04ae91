"""Test-time defenses: modules that take images in [0, 1] and give logits and gradients."""

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks

__all__ = ["InterpretabilityGuidedDefense", "class_masks"]
