"""No defense: the base model itself, which every defense is compared with."""

from torch import nn

from igd_ray.defenses.registry import DefenseKind, Parts, register
from igd_ray.defenses.specs import NONE, DefenseSpec


@register
class Undefended(DefenseKind):
    """`none`."""

    name = NONE

    def build(self, spec: DefenseSpec, parts: Parts) -> nn.Module:
        """Return the base model itself."""
        return parts.model
