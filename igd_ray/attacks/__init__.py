"""Attacks: searches for misclassified points within a threat model, checked and judged by their base class.

Every module here and in `adaptive` is imported, so that it registers its labels.
"""

from importlib import import_module
from pkgutil import walk_packages

from igd_ray.attacks.adaptive.best_start import BestStartAPGD
from igd_ray.attacks.adaptive.detached_mask import DetachedMaskAPGD
from igd_ray.attacks.adaptive.eot_square import EoTSquare
from igd_ray.attacks.adaptive.joint_loss import JointLossAPGD
from igd_ray.attacks.adaptive.line import LineAPGD
from igd_ray.attacks.adaptive.oracle_mask import OracleMaskAPGD
from igd_ray.attacks.adaptive.warm_start import WarmStartedAPGD
from igd_ray.attacks.apgd import APGD, TargetedAPGD
from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import Attack, AttackError, AttackResult
from igd_ray.attacks.fab import FAB
from igd_ray.attacks.pgd import FGSM, PGD
from igd_ray.attacks.pyautoattack import moved_points
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
    "BestStartAPGD",
    "DetachedMaskAPGD",
    "EoTSquare",
    "JointLossAPGD",
    "LineAPGD",
    "OracleMaskAPGD",
    "RayS",
    "Square",
    "TargetedAPGD",
    "TransferAPGD",
    "TransferEOT",
    "TransferTargetedAPGD",
    "WarmStartedAPGD",
    "moved_points",
]

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
