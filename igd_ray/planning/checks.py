"""Which checks a run makes of each defense: of the model itself, of its noise, of its gradients, of stored points."""

from collections.abc import Mapping, Sequence

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.units.base import Shard
from igd_ray.units.checks.defense import DefenseCheckUnit, GradientCheckUnit
from igd_ray.units.checks.noise import NoiseUnit
from igd_ray.units.checks.stored_points import CheckedShard, StoredPointsCheckUnit
from igd_ray.units.judged import JudgedUnit

CheckUnit = DefenseCheckUnit | NoiseUnit | GradientCheckUnit | StoredPointsCheckUnit

# Images that the attacks of the gradient checks run on: enough for McNemar's test to tell 20 steps from 200.
GRADIENT_CHECK_IMAGES = 32

# These are made where the direct attacks on the defense may cost this many times as much: they are of use beside a
# protocol, and would dwarf a first look.
GRADIENT_CHECK_SHARE = 10


def plan_checks(
    defense: DefenseSpec,
    units: Mapping[str, Sequence[JudgedUnit]],
    *,
    inspected: Shard,
    shards: Sequence[Shard],
    planned_images: int,
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
        planned_images: how many the run evaluates at most: what is checked does not depend on where it ends.
        protocol: see `igd_ray.checks.check_randomised`.
        seed: the run's seed.
        num_classes: of the model.
    """
    checks: list[CheckUnit] = [DefenseCheckUnit(defense, inspected, protocol, seed)]
    if defense.is_random:
        checks += [NoiseUnit(defense, shard, seed) for shard in shards]
    attacking = [unit for of_attack in units.values() for unit in of_attack if unit.judges_points]
    if attacking:
        first = inspected.first(GRADIENT_CHECK_IMAGES)
        gradients = GradientCheckUnit(defense, first, attacking[0].threat, seed)
        direct = [unit for unit in attacking if not unit.is_transfer and not unit.attack.transfer]
        cost = sum(sum(unit.most_passes(num_classes)) for unit in direct)
        cost = cost * planned_images // sum(len(shard.ids) for shard in shards)
        if cost >= GRADIENT_CHECK_SHARE * sum(gradients.most_passes(num_classes)):
            checks.append(gradients)
    for of_attack in units.values():
        if of_attack[0].judges_points and of_attack[0].save_points != "none":
            parts = tuple(CheckedShard(unit.key, unit.points_unit.key, unit.shard) for unit in of_attack)
            checks.append(StoredPointsCheckUnit(defense, of_attack[0].attack, of_attack[0].threat, parts, seed))
    return checks
