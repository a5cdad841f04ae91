"""AutoAttack: an ensemble without parameters to tune (Croce & Hein, ICML 2020)."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from igd_ray.attacks.apgd import APGD, FEW_CLASSES, TargetedAPGD
from igd_ray.attacks.base import Attack, Points, check_given, search_in_sequence
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.fab import FAB
from igd_ray.attacks.square import Square
from igd_ray.errors import InputError, did_you_mean
from igd_ray.threat import Norm, ThreatModel

# The published budgets. "standard" is for deterministic targets, "rand" for randomised ones (20 gradients a step),
# "strong" is the stronger AutoAttack of Kulkarni & Weng, ECCV 2024, table 9.
VERSIONS: Mapping[str, tuple[tuple[str, Attack], ...]] = {
    "standard": (
        ("apgd-ce", APGD("ce")),
        ("apgd-t", TargetedAPGD()),
        ("fab-t", FAB()),
        ("square", Square()),
    ),
    "rand": (("apgd-ce", APGD("ce", eot=20)), ("apgd-dlr", APGD("dlr", eot=20))),
    "strong": (
        ("apgd-ce", APGD("ce", steps=200, restarts=10)),
        ("apgd-t", TargetedAPGD(steps=200, restarts=10)),
        ("fab-t", FAB(restarts=10)),
        ("square", Square(restarts=5)),
    ),
}


class AutoAttack(Attack):
    """The attacks of one AutoAttack version in sequence, each on the images still correct.

    Every attack starts from the seed of the generator given, so that the verdicts are those of pyautoattack's
    `AutoAttack(version=…, seed=…)` on the same batch.

    Args:
        version: "standard" (APGD-CE, APGD-T, FAB-T, Square), "rand" (APGD-CE and APGD-DLR, 20 gradients a step) or
            "strong" (as "standard": APGD with 200 steps and 10 restarts, FAB-T with 10 restarts, Square with 5).
    """

    def __init__(self, version: str = "standard") -> None:
        if version not in VERSIONS:
            raise InputError(
                f"AutoAttack version must be one of {', '.join(VERSIONS)}, not {version!r}"
                f"{did_you_mean(version, VERSIONS)}"
            )
        self.version = version
        self._collapse, self._few_classes = False, 0
        self._given: tuple[Tensor, Tensor] | None = None

    @property
    def _attacks(self) -> tuple[tuple[str, Attack], ...]:
        attacks = VERSIONS[self.version]
        if self._collapse:
            attacks = tuple((stage, attack.collapsed()) for stage, attack in attacks)
        if self._few_classes:
            attacks = tuple((stage, attack.for_classes(self._few_classes)) for stage, attack in attacks)
        return attacks

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its attacks, in sequence."""
        return tuple(name for name, _ in self._attacks)

    @property
    def ways(self) -> frozenset[str]:
        """Those of its attacks."""
        return frozenset[str]().union(*(attack.ways for _, attack in self._attacks))

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {
            "attack": "autoattack",
            "version": self.version,
            "stages": [dict(attack.settings) for _, attack in self._attacks],
            **({"few_classes": FEW_CLASSES} if self._few_classes else {}),
            **({"first_stage": "given"} if self._given else {}),
        }

    def for_classes(self, num_classes: int) -> Self:
        """With too few classes for the DLR losses of its attacks, their margins take their place."""
        fits = all(attack.for_classes(num_classes) is attack for _, attack in self._attacks)
        return self if fits else self._with(_few_classes=num_classes)

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return those of its attacks, each after its stage."""
        return tuple(
            f"{stage}: {note}" for stage, attack in self._attacks for note in attack.fallback_notes(num_classes)
        )

    def collapsed(self) -> Self:
        """Return the sequence of its attacks, collapsed; whether the target is deterministic is checked once."""
        eot = max(attack.eot for _, attack in self._attacks)
        return self if eot == 1 else self._with(_collapse=True, collapsed_eot=eot)

    def continuing(self, points: Tensor, fooled: Tensor) -> Self:
        """Return this attack with the points of its first stage, APGD-CE, which is then looked at but not run.

        Points, stages and verdicts are those of the attack itself if the points are the last misclassified ones of
        `TransferAPGD("ce")` with the same seed on the same target and images.

        Args:
            points: float32 [N, C, H, W], aligned with the images to be attacked.
            fooled: where there is one, bool [N].

        Raises:
            InputError: if the version is not "standard"; at the attack, if a point lies outside the ball or [0, 1].
        """
        if self.version != "standard":
            raise InputError(f"only AutoAttack 'standard' can continue given points, not {self.version!r}")
        return self._with(_given=(points, fooled))

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check every attack of the version, or what takes its place with so few classes."""
        for _, attack in self.for_classes(num_classes)._attacks:
            attack.check(num_classes, norm)

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """A first look, then all of every attack and a look at its points; of a given first stage only the latter."""
        attacks = [attack for _, attack in self._attacks]
        bounds = [attack.most_passes(num_classes) for attack in attacks]
        if self._given:
            # The look at the number of classes remains.
            bounds[0] = 1 + attacks[0].guard_passes, 0
        # The target is checked once, not by every attack.
        guards = self.guard_passes - sum(attack.guard_passes for attack in attacks)
        return 1 + guards + sum(queries + 1 for queries, _ in bounds), sum(gradients for _, gradients in bounds)

    @property
    def wasted_queries(self) -> int:
        """That of a run, and a look of each attack."""
        return super().wasted_queries + len(self._attacks)

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the version's attacks in sequence; with few classes, those of `for_classes`."""
        attacks = self.for_classes(target.num_classes(images))._attacks
        given = None
        if self._given:
            points, fooled = self._given
            check_given(points, fooled, images, threat, "the first stage's points")
            points, fooled = points.to(images.device), fooled.to(images.device)
            given = torch.where(fooled[:, None, None, None], points, images)
        return search_in_sequence(attacks, target, images, labels, threat, seed, given=given)

    def __repr__(self) -> str:
        said = [repr(self.version)]
        if self._given:
            said.append("first_stage='given'")
        said += [f"{name}={value}" for name, value in self.collapse_settings.items()]
        if self._few_classes:
            said.append(f"few_classes={FEW_CLASSES!r}")
        return f"AutoAttack({', '.join(said)})"
