"""Attack labels: the names by which attacks are asked for and stand in the catalog.

An attack's file registers its labels. A bare label means the published budget; a number after it is another budget and
so another attack. `tr-` means computed on the base model, evaluated on the defense; `audit-` means adaptive, on what
other attacks left robust.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from igd_ray.attacks.base import Attack
from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import ATTACK_GROUPS, AUDIT_PREFIX, TRANSFER_PREFIX, attack_order

CLEAN = "clean"

# What a label looks like without a budget.
LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*")

# Gradients, or answers of Square, that an adaptive attack averages where the defense is random: fewer than the
# published 20, for more attacks in the same time.
AUDIT_EOT = 4

# Budgets of more digits never end.
MOST_DIGITS = 7


@dataclass(frozen=True)
class Registration:
    """What an attack's file says of one label.

    Attributes:
        label: without a budget.
        build: makes the attack of the published budget; takes another one as a keyword argument.
        budget: the setting, steps or queries, that a number behind the label changes; None where nothing does.
        idea: of an adaptive attack, for readers of a report.
        gives: the name under which other adaptive attacks start from its points.
        on_deterministic: the label of the transfer that takes its place, in its budget, on a deterministic base model.
        file: of the user's, that workers have to import for it.
        defense: the label of the only defense that it attacks; None for all.
    """

    label: str
    build: Callable[..., Attack]
    budget: str | None = None
    idea: str = ""
    gives: str | None = None
    on_deterministic: str | None = None
    file: Path | None = None
    defense: str | None = None

    @property
    def published(self) -> int | None:
        """The published budget; None where the label has none."""
        return None if self.budget is None else int(getattr(self.build(), self.budget))

    def attack(self, budget: int | None = None) -> Attack:
        """Return the attack, of the published budget by default."""
        if budget is None:
            return self.build()
        assert self.budget is not None, self.label
        return self.build(**{self.budget: budget})


# Of every module of `igd_ray.attacks`, by label.
REGISTERED: dict[str, Registration] = {}


def register(
    label: str,
    build: Callable[..., Attack],
    *,
    budget: str | None = None,
    idea: str = "",
    gives: str | None = None,
    on_deterministic: str | None = None,
) -> None:
    """Make an attack known under `label`; see `Registration` for the arguments.

    Raises:
        InputError: if the label is taken or cannot be read back, or an adaptive attack has no idea.
    """
    if label in REGISTERED or label in ATTACK_GROUPS or label == CLEAN:
        raise InputError(f"there is an attack {label!r} already; register another label")
    if not LABEL.fullmatch(label):
        raise InputError(
            f"an attack's label is lower-case words with hyphens between them, none of which begins with a digit, "
            f"not {label!r}"
        )
    if label.startswith(AUDIT_PREFIX) and not idea:
        raise InputError(f"the adaptive attack {label!r} needs an idea, for readers of the report; give idea=")
    REGISTERED[label] = Registration(label, build, budget, idea, gives, on_deterministic)


@dataclass(frozen=True)
class NamedAttack:
    """What a label asks for.

    Attributes:
        label: the label itself.
        algorithm: what searches for points; None for `clean`.
        transfer: whether its points are computed on the base model, or on `source_model`.
        registration: what its file says of it; None for `clean`.
        source_model: of a transfer from another model, that model's spec, FILE.py:factory.
    """

    label: str
    algorithm: Attack | None
    transfer: bool
    registration: Registration | None = None
    source_model: str | None = None

    @property
    def audits(self) -> bool:
        """Whether it is adaptive: aimed at one defense, on the images that the other attacks left robust."""
        return self.label.startswith(AUDIT_PREFIX)

    @property
    def needs_two_passes(self) -> bool:
        """Whether it aims at the two passes of a defense, or starts from the point of an attack that does."""
        return self.algorithm is not None and self.algorithm.needs_two_passes

    @property
    def needs_surrogate(self) -> bool:
        """Whether it follows the gradient of a stand-in, for defenses whose own gradient is useless."""
        return self.algorithm is not None and self.algorithm.needs_surrogate

    @property
    def averages(self) -> bool:
        """Whether it averages answers over a target's randomness."""
        return self.algorithm is not None and self.algorithm.eot > 1

    @property
    def idea(self) -> str:
        """The idea of an adaptive attack."""
        return "" if self.registration is None else self.registration.idea

    def aims_at(self, defense: str) -> bool:
        """Return whether it attacks the defense of that label."""
        return self.registration is None or self.registration.defense in (None, defense)

    def of(self, algorithm: Attack | None) -> "NamedAttack":
        """Return `algorithm` under this label."""
        return replace(self, algorithm=algorithm)


def expand_attacks(labels: Iterable[str]) -> tuple[str, ...]:
    """Return `labels`, each once and in order, with a group's attacks in its place: `iwwc`, the nine, and `audit`."""
    return tuple(dict.fromkeys(member for label in labels for member in ATTACK_GROUPS.get(label, (label,))))


def is_in_a_file(entry: str) -> bool:
    """Tell whether `entry` names code in a file, see `igd_ray.attacks.own`, rather than a label of this package."""
    return "=" in entry or "@" in entry


def parse_attack(label: str) -> NamedAttack:
    """Return the attack called `label`.

    Raises:
        InputError: if there is none, naming close matches.
    """
    if label == CLEAN:
        return NamedAttack(label, None, transfer=False)
    transfer = label.startswith(TRANSFER_PREFIX)
    numbered = re.fullmatch(rf"(.+)-([1-9][0-9]{{0,{MOST_DIGITS - 1}}})", label)
    name, budget = (numbered[1], int(numbered[2])) if numbered else (label, None)
    # A transfer that keeps several points has a label of its own; any other is the direct attack on the base model.
    registration = REGISTERED.get(name)
    if registration is None and transfer and _carries_over(bare := name.removeprefix(TRANSFER_PREFIX)):
        registration = REGISTERED[bare]
    if registration is None or (budget is not None and registration.budget is None):
        known = [*known_attacks(), *ATTACK_GROUPS]
        raise InputError(f"unknown attack {label!r}; known: {', '.join(known)}{did_you_mean(label, known)}")
    if budget is not None and budget == registration.published:
        raise InputError(f"attack {label!r}: {budget} is the published budget; write {name!r}")
    return NamedAttack(label, registration.attack(budget), transfer, registration)


def known_attacks() -> list[str]:
    """Return every label with its published budget, in the order of the protocol."""
    carried = [TRANSFER_PREFIX + label for label in REGISTERED if _carries_over(label)]
    return sorted({CLEAN, *REGISTERED, *carried}, key=attack_order)


def giving(name: str) -> NamedAttack | None:
    """Return the attack whose points other adaptive attacks know as `name`; None if there is none."""
    return next((parse_attack(each.label) for each in REGISTERED.values() if each.gives == name), None)


def _carries_over(label: str) -> bool:
    """Tell whether `tr-` before the registered `label` means that attack, computed on the base model."""
    if label not in REGISTERED or label.startswith((TRANSFER_PREFIX, AUDIT_PREFIX)):
        return False
    # The published tr-apgd-eot runs on all images and keeps two points: AutoAttack rand carried over is another attack.
    return REGISTERED[label].attack().eot == 1
