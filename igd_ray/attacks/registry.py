"""Attack labels: the names by which attacks are asked for and stand in the catalog.

A bare name means the published budget; a number after it is another budget and so another attack. `tr-` means
computed on the base model, evaluated on the defense; `audit-` means adaptive, on what other attacks left standing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from igd_ray.attacks.adaptive.best_start import BestStartAPGD
from igd_ray.attacks.adaptive.detached_mask import CONSTANT, IDENTITY, DetachedMaskAPGD
from igd_ray.attacks.adaptive.eot_square import EoTSquare
from igd_ray.attacks.adaptive.joint_loss import JointLossAPGD
from igd_ray.attacks.adaptive.line import TRANSFER, WHITE_BOX, LineAPGD
from igd_ray.attacks.adaptive.objective import TwoPassAttack
from igd_ray.attacks.adaptive.oracle_mask import OracleMaskAPGD
from igd_ray.attacks.adaptive.warm_start import StartedAPGD
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
from igd_ray.protocol import ATTACK_GROUPS, AUDIT_PREFIX

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

# Gradients, or answers of Square, that an audit averages where the defense is random: fewer than the published 20, for
# more attacks in the same time.
AUDIT_EOT = 4

# Adaptive attacks with their steps or queries.
AUDIT: Mapping[str, tuple[int, Callable[[int], Attack]]] = {
    "audit-transfer-start": (100, lambda n: StartedAPGD("cw", steps=n, eot=AUDIT_EOT, sources=[TRANSFER])),
    "audit-joint-loss": (100, lambda n: JointLossAPGD("dlr", steps=n, eot=AUDIT_EOT)),
    "audit-oracle-mask": (100, lambda n: OracleMaskAPGD("cw", steps=n)),
    "audit-detached-mask": (100, lambda n: DetachedMaskAPGD("cw", steps=n, eot=AUDIT_EOT, backward=CONSTANT)),
    "audit-identity-mask": (100, lambda n: DetachedMaskAPGD("cw", steps=n, eot=AUDIT_EOT, backward=IDENTITY)),
    "audit-line": (20, lambda n: LineAPGD("cw", steps=n, eot=AUDIT_EOT, sources=[TRANSFER, WHITE_BOX])),
    "audit-square-eot": (1000, lambda n: EoTSquare(n, eot=AUDIT_EOT)),
    "audit-best-start": (100, lambda n: BestStartAPGD("cw", steps=n, eot=AUDIT_EOT, sources=[TRANSFER])),
}

# Stages that ask for the target's class or logits only; the others follow gradients.
QUERY_STAGES = ("square", "square-eot", "rays")


@dataclass(frozen=True)
class NamedAttack:
    """What a label asks for.

    Attributes:
        label: the label itself.
        algorithm: what searches for points; None for `clean`.
        transfer: whether its points are computed on the base model.
    """

    label: str
    algorithm: Attack | None
    transfer: bool

    @property
    def audits(self) -> bool:
        """Whether it is adaptive: aimed at one defense, on the images that the other attacks left standing."""
        return self.label.startswith(AUDIT_PREFIX)

    @property
    def needs_two_passes(self) -> bool:
        """Whether it aims at the two passes of a defense, or starts from the point of an attack that does."""
        return isinstance(self.algorithm, TwoPassAttack | LineAPGD)


def expand_attacks(labels: Iterable[str]) -> tuple[str, ...]:
    """Return `labels`, each once and in order, with a group's attacks in its place: `iwwc`, the nine, and `audit`."""
    return tuple(dict.fromkeys(member for label in labels for member in ATTACK_GROUPS.get(label, (label,))))


def parse_attack(label: str) -> NamedAttack:
    """Return the attack called `label`.

    Raises:
        InputError: if there is none, naming close matches.
    """
    if label == CLEAN:
        return NamedAttack(label, None, transfer=False)
    transfer = label.startswith(TRANSFER_PREFIX)
    bare = label.removeprefix(TRANSFER_PREFIX)
    numbered = re.fullmatch(r"(.+)-([1-9][0-9]*)", bare)
    name, budget = (numbered[1], int(numbered[2])) if numbered else (bare, None)
    # A transfer that keeps two points is an attack of its own; any other is the direct attack on the base model.
    candidates: tuple[str, ...] = (TRANSFER_PREFIX + name, name) if transfer else (name,)
    # An adaptive attack aims at one defense, so that nothing of it carries over.
    if bare.startswith(TRANSFER_PREFIX) or (transfer and bare.startswith(AUDIT_PREFIX)):
        candidates = ()
    for candidate in candidates:
        if candidate in BUDGETED or candidate in AUDIT:
            published, build = BUDGETED[candidate] if candidate in BUDGETED else AUDIT[candidate]
            if budget == published:
                raise InputError(
                    f"attack {label!r}: {budget} is the published budget; write {label.rpartition('-')[0]!r}"
                )
            return NamedAttack(label, build(published if budget is None else budget), transfer)
        # AutoAttack rand carried over is not the published tr-apgd-eot: that runs on all images and keeps two points.
        if candidate in FIXED and budget is None and not (transfer and candidate in RANDOMISED):
            return NamedAttack(label, FIXED[candidate](), transfer)
    known = [*known_attacks(), *ATTACK_GROUPS]
    raise InputError(f"unknown attack {label!r}; known: {', '.join(known)}{did_you_mean(label, known)}")


def known_attacks() -> list[str]:
    """Return every label with its published budget."""
    names = [*FIXED, *BUDGETED]
    direct = [name for name in names if not name.startswith(TRANSFER_PREFIX)]
    carried = [TRANSFER_PREFIX + name for name in direct if name not in RANDOMISED]
    own = [name for name in names if name.startswith(TRANSFER_PREFIX) and name not in carried]
    return [CLEAN, *direct, *carried, *own, *AUDIT]
