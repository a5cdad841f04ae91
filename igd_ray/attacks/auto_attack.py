"""AutoAttack: an ensemble without parameters to tune (Croce & Hein, ICML 2020)."""

from collections.abc import Mapping

from torch import Tensor

from igd_ray.attacks.apgd import APGD, TargetedAPGD
from igd_ray.attacks.base import Attack, Points, search_in_sequence
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

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its attacks, in sequence."""
        return tuple(name for name, _ in VERSIONS[self.version])

    @property
    def ways(self) -> frozenset[str]:
        """Those of its attacks."""
        return frozenset[str]().union(*(attack.ways for _, attack in VERSIONS[self.version]))

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {
            "attack": "autoattack",
            "version": self.version,
            "stages": [dict(attack.settings) for _, attack in VERSIONS[self.version]],
        }

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that there are enough classes for every attack of the version."""
        for _, attack in VERSIONS[self.version]:
            attack.check(num_classes, norm)

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """A first look, then all of every attack and a look at its points."""
        bounds = [attack.most_passes(num_classes) for _, attack in VERSIONS[self.version]]
        return 1 + sum(queries + 1 for queries, _ in bounds), sum(gradients for _, gradients in bounds)

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the version's attacks in sequence."""
        return search_in_sequence(VERSIONS[self.version], target, images, labels, threat, seed)

    def __repr__(self) -> str:
        return f"AutoAttack({self.version!r})"
