"""Attacks: searches for misclassified points within a threat model, checked and judged by their base class."""

from igd_ray.attacks.apgd import APGD, TargetedAPGD
from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import Attack, AttackError, AttackResult
from igd_ray.attacks.fab import FAB
from igd_ray.attacks.fgsm import FGSM
from igd_ray.attacks.pgd import PGD
from igd_ray.attacks.rays import RayS
from igd_ray.attacks.square import Square
from igd_ray.attacks.transfer import TransferAPGD, TransferEOT, TransferTargetedAPGD

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "AttackError",
    "AttackResult",
    "AutoAttack",
    "RayS",
    "Square",
    "TargetedAPGD",
    "TransferAPGD",
    "TransferEOT",
    "TransferTargetedAPGD",
]
