"""Which checks a run makes of each defense: of the model itself, of its noise, of its gradients, of stored points."""

from collections.abc import Mapping, Sequence

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.planning.cost import most_passes
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Shard
from igd_ray.units.inspection import GradientCheckUnit, InspectionUnit
from igd_ray.units.noise import NoiseUnit
from igd_ray.units.review import Reviewed, ReviewUnit

CheckUnit = InspectionUnit | NoiseUnit | GradientCheckUnit | ReviewUnit

# Images that the attacks of the gradient checks run on: enough for McNemar's test to tell 20 steps from 200.
GRADIENT_CHECK_IMAGES = 32

# These are made where the direct attacks on the defense may cost this many times as much: they are of use beside a
# protocol, and would dwarf a first look.
GRADIENT_CHECK_SHARE = 10


def plan_checks(
    defense: DefenseSpec,
    units: Mapping[str, Sequence[AttackUnit | TransferUnit]],
    *,
    inspected: Shard,
    shards: Sequence[Shard],
    protocol: str,
    seed: int,
    num_classes: int,
) -> list[CheckUnit]:
    """Return the checks of one defense.

    Args:
        defense: what is checked.
        units: of each attack on it, shard by shard.
        inspected: the images that the model is looked at on.
        shards: all images that are evaluated.
        protocol: see `igd_ray.checks.check_randomised`.
        seed: the run's seed.
        num_classes: of the model.
    """
    checks: list[CheckUnit] = [InspectionUnit(defense, inspected, protocol, seed)]
    if defense.is_random:
        checks += [NoiseUnit(defense, shard, seed) for shard in shards]
    attacking = [unit for of_attack in units.values() for unit in of_attack if unit.attack.algorithm is not None]
    if attacking:
        first = inspected.first(GRADIENT_CHECK_IMAGES)
        gradients = GradientCheckUnit(defense, first, attacking[0].threat, seed)
        direct = [unit for unit in attacking if isinstance(unit, AttackUnit) and not unit.attack.transfer]
        cost = sum(sum(most_passes(unit, num_classes)) for unit in direct)
        if cost >= GRADIENT_CHECK_SHARE * sum(gradients.most_passes(num_classes)):
            checks.append(gradients)
    for of_attack in units.values():
        if of_attack[0].attack.algorithm is not None and _keeps_points(of_attack[0]):
            parts = tuple(Reviewed(unit.key, _points_of(unit), unit.shard) for unit in of_attack)
            checks.append(ReviewUnit(defense, of_attack[0].attack, of_attack[0].threat, parts, seed))
    return checks


def _keeps_points(unit: AttackUnit | TransferUnit) -> bool:
    return isinstance(unit, TransferUnit) or unit.keeps != "none"


def _points_of(unit: AttackUnit | TransferUnit) -> str:
    return unit.source.key if isinstance(unit, TransferUnit) else unit.key
