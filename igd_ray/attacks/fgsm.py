"""FGSM: one step along the sign of the gradient (Goodfellow et al., ICLR 2015)."""

from dataclasses import dataclass, field
from typing import ClassVar

from igd_ray.attacks.base import UNSTATED
from igd_ray.attacks.pgd import PGD
from igd_ray.attacks.registry import register


@dataclass(frozen=True, repr=False)
class FGSM(PGD):
    """One step of size epsilon from the image itself, in the 2-norm along the gradient; draws nothing at random."""

    name: ClassVar[str] = "fgsm"

    steps: int = field(default=1, init=False, metadata=UNSTATED)
    step_size: float | None = field(default=1.0, init=False, metadata=UNSTATED)
    restarts: int = field(default=1, init=False, metadata=UNSTATED)
    random_start: bool = field(default=False, init=False, metadata=UNSTATED)


register("fgsm", FGSM)
