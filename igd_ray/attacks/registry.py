"""Attack labels: the names by which attacks are asked for and stand in the catalog.

A bare name means the published budget; a number after it is another budget and so another attack. `tr-` means
computed on the base model, evaluated on the defense.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from igd_ray.attacks.apgd import APGD, TargetedAPGD
from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import Attack
from igd_ray.attacks.fab import FAB
from igd_ray.attacks.fgsm import FGSM
from igd_ray.attacks.pgd import PGD
from igd_ray.attacks.rays import RayS
from igd_ray.attacks.square import Square
from igd_ray.attacks.transfer import TransferAPGD, TransferEOT, TransferTargetedAPGD
from igd_ray.errors import InputError, did_you_mean

CLEAN = "clean"
TRANSFER_PREFIX = "tr-"

# Attacks whose published budget is the only one.
FIXED: Mapping[str, Callable[[], Attack]] = {
    "aa": lambda: AutoAttack("standard"),
    "aa-rand": lambda: AutoAttack("rand"),
    "aa-strong": lambda: AutoAttack("strong"),
    "apgd-eot": lambda: AutoAttack("rand"),
    "fgsm": FGSM,
    # Base models are deterministic: identical gradients are not averaged but computed once.
    "tr-apgd-eot": lambda: TransferEOT(collapse=True),
}

# Those that average gradients over a target's randomness.
RANDOMISED = ("aa-rand", "apgd-eot")

# Attacks with a budget, steps or queries an image, that a label may change: `apgd-ce-20`, `square-1000`.
BUDGETED: Mapping[str, tuple[int, Callable[[int], Attack]]] = {
    "apgd-ce": (100, lambda steps: APGD("ce", steps=steps)),
    "apgd-cw": (100, lambda steps: APGD("cw", steps=steps)),
    "apgd-dlr": (100, lambda steps: APGD("dlr", steps=steps)),
    "apgd-t": (100, lambda steps: TargetedAPGD(steps=steps)),
    "fab-t": (100, lambda steps: FAB(steps=steps)),
    "square": (5000, lambda queries: Square(queries)),
    "rays": (10_000, lambda queries: RayS(queries)),
    "pgd": (50, lambda steps: PGD(steps)),
    "tr-apgd-ce": (100, lambda steps: TransferAPGD("ce", steps=steps)),
    "tr-apgd-cw": (100, lambda steps: TransferAPGD("cw", steps=steps)),
    "tr-apgd-dlr": (100, lambda steps: TransferAPGD("dlr", steps=steps)),
    "tr-apgd-t-dlr": (100, lambda steps: TransferTargetedAPGD(steps=steps)),
}

# Stages that ask for the target's class or logits only; the others follow gradients.
QUERY_STAGES = ("square", "square-eot", "rays")


@dataclass(frozen=True)
class AttackLabel:
    """What a label asks for.

    Attributes:
        label: the label itself.
        attack: the attack; None for `clean`.
        transfer: whether its points are computed on the base model.
    """

    label: str
    attack: Attack | None
    transfer: bool


def parse_attack(label: str) -> AttackLabel:
    """Return the attack called `label`.

    Raises:
        InputError: if there is none, naming close matches.
    """
    if label == CLEAN:
        return AttackLabel(label, None, transfer=False)
    transfer = label.startswith(TRANSFER_PREFIX)
    bare = label.removeprefix(TRANSFER_PREFIX)
    numbered = re.fullmatch(r"(.+)-([1-9][0-9]*)", bare)
    name, budget = (numbered[1], int(numbered[2])) if numbered else (bare, None)
    # A transfer that keeps two points is an attack of its own; any other is the direct attack on the base model.
    candidates = (TRANSFER_PREFIX + name, name) if transfer else (name,)
    for candidate in () if bare.startswith(TRANSFER_PREFIX) else candidates:
        if candidate in BUDGETED:
            published, build = BUDGETED[candidate]
            if budget == published:
                raise InputError(
                    f"attack {label!r}: {budget} is the published budget; write {label.rpartition('-')[0]!r}"
                )
            return AttackLabel(label, build(published if budget is None else budget), transfer)
        # AutoAttack rand carried over is not the published tr-apgd-eot: that runs on all images and keeps two points.
        if candidate in FIXED and budget is None and not (transfer and candidate in RANDOMISED):
            return AttackLabel(label, FIXED[candidate](), transfer)
    known = known_attacks()
    raise InputError(f"unknown attack {label!r}; known: {', '.join(known)}{did_you_mean(label, known)}")


def known_attacks() -> list[str]:
    """Return every label with its published budget."""
    names = [*FIXED, *BUDGETED]
    direct = [name for name in names if not name.startswith(TRANSFER_PREFIX)]
    carried = [TRANSFER_PREFIX + name for name in direct if name not in RANDOMISED]
    own = [name for name in names if name.startswith(TRANSFER_PREFIX) and name not in carried]
    return [CLEAN, *direct, *carried, *own]
