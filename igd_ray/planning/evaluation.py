"""An evaluation: which units fill the table of defenses and attacks, and what their outcomes say together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from igd_ray.attacks.registry import NamedAttack
from igd_ray.checks import LARGE_EPSILON_FACTOR
from igd_ray.config import EvaluateSettings
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.identity import unit_key
from igd_ray.planning.attack_units import (
    BaseAttacks,
    Cell,
    Mode,
    TablePlanner,
    asked_attacks,
    engine_notes,
    priority,
)
from igd_ray.planning.cost import naive_units
from igd_ray.planning.defenses import NeededDefenses, needed_defenses
from igd_ray.planning.published import published_attack
from igd_ray.planning.workspace import Workspace
from igd_ray.protocol import NOT_MEASURED, idea_note
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard, Unit
from igd_ray.units.checks.defense import (
    INSPECTED_IMAGES,
    CheckedShard,
    DefenseCheckUnit,
    GradientCheckUnit,
    StoredPointsCheckUnit,
)
from igd_ray.units.checks.noise import NoiseUnit
from igd_ray.units.judged import JudgedUnit, SavePoints, points_to_save

CheckUnit = DefenseCheckUnit | NoiseUnit | GradientCheckUnit | StoredPointsCheckUnit

# Images that the attacks of the gradient checks run on: enough for McNemar's test to tell 20 steps from 200.
GRADIENT_CHECK_IMAGES = 32

# These are made where the direct attacks on the defense may cost this many times as much: they are of use beside a
# protocol, and would dwarf a first look.
GRADIENT_CHECK_SHARE = 10

# With --until decided a look comes after so many shards more, as a share of those before, and after one at least: many
# workers then have something to do, and at most a fifth of the images come after the one that would have decided.
SHARE_OF_A_LOOK = 1 / 4


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation computes.

    Attributes:
        cells: the table, shard by shard.
        inspections: units of checks.
        sources: units whose points others need, without a cell of their own.
        fallbacks: what each attack replaced, as the model has too few classes for it.
        needed: the defenses, and the rankings and trainings that they need first.
        naive: gives what separate runs would compute for each defense, to tell what the plan saves; not to be run.
        notes: for the report: on which images everything was done, and what the plan leaves out.
        looks: after how many shards --until decided looks whether it may end; none without it.
        reaching: plans what is done by then.
        part_of: the run that this is a look of.
    """

    cells: tuple[Cell, ...]
    inspections: tuple[CheckUnit, ...]
    sources: tuple[AttackUnit, ...]
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needed: NeededDefenses = field(default_factory=NeededDefenses)
    naive: Callable[[], list[JudgedUnit]] = list
    notes: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    reaching: "Callable[[Mapping[str, int]], EvaluationPlan] | None" = None
    part_of: str | None = None

    @property
    def units(self) -> list[Unit]:
        """All units, each once, the first to start first: what others need, then the dearest."""
        attacking = [*self.sources, *(cell.unit for cell in self.cells)]
        unique: dict[str, Unit] = {}
        for unit in [*sorted(attacking, key=priority), *self.inspections]:
            unique.setdefault(unit.key, unit)
        return list(unique.values())

    @cached_property
    def run_id(self) -> str:
        """The hash of the table: the same evaluation has the same id, whenever it is asked for."""
        if self.part_of is not None:
            return self.part_of
        cells = [[cell.defense, cell.attack, cell.unit.key] for cell in self.cells]
        return unit_key("run", cells=sorted(cells), inspections=sorted(unit.key for unit in self.inspections))[:12]

    def rows(self) -> list[dict[str, object]]:
        """Return what the run consists of, for the table `run_units`: cells, sources, checks and what they need."""
        run_id = self.run_id
        rows = [run_unit(run_id, cell.unit, cell.defense, cell.attack, reported=True) for cell in self.cells]
        rows += [run_unit(run_id, source, source.defense.label, source.attack.label) for source in self.sources]
        rows += [run_unit(run_id, inspection, inspection.defense.label, None) for inspection in self.inspections]
        rows += [run_unit(run_id, unit, None, None) for unit in self.needed.units]
        return rows

    @property
    def first_look(self) -> list[Unit]:
        """The units that are run before the first look whether the evaluation may end; none if it may not."""
        return self.until(dict.fromkeys((cell.defense for cell in self.cells), 1)).units if self.looks else []

    def until(self, reach: Mapping[str, int]) -> "EvaluationPlan":
        """Return what is done of this plan when each defense has `reach` shards."""
        assert self.reaching is not None, "only with --until decided"
        return replace(self.reaching(reach), part_of=self.run_id)


def plan_evaluation(workspace: Workspace[EvaluateSettings]) -> EvaluationPlan:
    """Plan the evaluation that the settings ask for: labels, searches, rankings, attacks and checks.

    Raises:
        InputError: for anything that cannot be used, before work starts.
    """
    settings = workspace.settings
    attacks = asked_attacks(settings.attacks, settings.engine, workspace.given.attacks)
    attacks += [published_attack(workspace, entry) for entry in settings.points]
    _require_targets(attacks, settings)
    for attack in attacks:
        if attack.registration is not None and attack.registration.file is not None:
            workspace.bring_code(attack.registration.file)
    base = _base_attacks(workspace, attacks)
    for attack in attacks:
        if (fitted := base.fitted(attack.algorithm)) is not None:
            fitted.check(base.num_classes, settings.threat.norm)
    needed = needed_defenses(workspace)
    shards = workspace.shards("test", settings.shard_size)
    inspected = Shard.of("test", workspace.test, 0, min(INSPECTED_IMAGES, len(workspace.test)))

    def reaching(reach: Mapping[str, int] | None) -> EvaluationPlan:
        return plan_attacks(
            needed.defenses,
            attacks,
            shards,
            base=base,
            inspected=inspected,
            judge_draws=settings.judge_draws,
            mode=settings.mode,
            save_points=points_to_save(settings.save_points, workspace.example[0]),
            reach=reach,
        )

    plan = reaching(None)
    n = len(workspace.test)
    images = (
        f"{n} images that were given"
        if workspace.given.test
        else f"the first {n} images of the split {settings.split!r}"
    )
    if settings.until is not None:
        images += ", in a random order until the gain of each defense was decided"
        run_id = unit_key("run", of=plan.run_id, until=settings.until)[:12]
        plan = replace(plan, looks=tuple(looks(len(shards))), reaching=reaching, part_of=run_id)
    notes = [
        f"evaluated on {images}",
        *needed.notes,
        *_unaveraged(needed.defenses, attacks),
        *plan.notes,
        *(
            f"{attack.label} is computed on {base.others[attack.source_model].named}"
            for attack in attacks
            if attack.source_model is not None
        ),
        *engine_notes(attacks, settings.engine),
        *(idea_note(attack.label, attack.idea) for attack in attacks if attack.audits),
    ]
    naive = partial(naive_units, needed.defenses, attacks, shards, base=base, judge_draws=settings.judge_draws)
    return replace(plan, needed=needed, naive=naive, notes=tuple(dict.fromkeys(notes)))


def _base_attacks(workspace: Workspace[EvaluateSettings], attacks: Sequence[NamedAttack]) -> BaseAttacks:
    """Return the attacks on the base model, and on the other models that `attacks` come from."""
    settings = workspace.settings
    base = BaseAttacks(
        workspace.model_id,
        len(workspace.class_names),
        workspace.model_is_random,
        settings.threat,
        settings.seed,
        settings.attack_seed,
        settings.judge_draws,
    )
    others = {}
    for spec in dict.fromkeys(attack.source_model for attack in attacks):
        if spec is not None:
            other = workspace.bring_model(spec)
            others[spec] = replace(base, model_id=other.model_id, is_random=other.is_random, label=other.label)
    return replace(base, others=others)


def looks(shards: int) -> Iterator[int]:
    """Yield the numbers of shards, the last one `shards`, after which --until decided looks, whatever the workers.

    >>> list(looks(20))
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 20]
    """
    reached = 0
    while reached < shards:
        reached = min(shards, reached + max(1, int(reached * SHARE_OF_A_LOOK)))
        yield reached


def _require_targets(attacks: Sequence[NamedAttack], settings: EvaluateSettings) -> None:
    """Check that no two attacks have one label, and that each attack for one defense finds it among the run's.

    Raises:
        InputError: naming the attack.
    """
    defenses = {entry.partition("=")[0] for entry in settings.defenses}
    seen: set[str] = set()
    for attack in attacks:
        if attack.label in seen:
            raise InputError(f"two attacks are called {attack.label!r}; give one of them another name")
        seen.add(attack.label)
        only = attack.registration.defense if attack.registration is not None else None
        if only is not None and only not in defenses:
            raise InputError(f"{attack.label} attacks the defense {only!r} only; add that to --defenses")


def plan_attacks(
    defenses: Sequence[DefenseSpec],
    attacks: Sequence[NamedAttack],
    shards: Sequence[Shard],
    *,
    base: BaseAttacks,
    inspected: Shard,
    judge_draws: int = 1,
    mode: Mode = "full",
    save_points: SavePoints = "all",
    reach: Mapping[str, int] | None = None,
) -> EvaluationPlan:
    """Plan the attacks on every defense over every shard, each unit once, and the checks on the shard `inspected`.

    With `reach` the shards of a defense are so many, the first ones.

    A transfer's points come from one unit on the base model, or on another one, whoever needs them; the undefended
    row's attacks are those units themselves, and cover every image in either mode. Adaptive attacks take the images
    that all others left robust.
    """
    ordinary = [attack for attack in attacks if not attack.audits]
    audits = [attack for attack in attacks if attack.audits]
    # An audit starts from the points of all attacks.
    planner = TablePlanner(base, judge_draws, mode, "all" if audits else save_points)
    reached = {each.label: shards if reach is None else shards[: reach[each.label]] for each in defenses}
    for number, shard in enumerate(shards):
        for defense in defenses:
            if number < len(reached[defense.label]):
                planner.add_row(defense, ordinary, audits, shard)
    planned = {cell.unit.key for cell in planner.cells}
    direct = [
        attack for attack in ordinary if attack.algorithm is not None and attack.algorithm.ways and not attack.transfer
    ]
    averaged = not direct or any(attack.averages for attack in direct)
    protocol = "rand" if averaged else "standard"
    inspections: list[CheckUnit] = []
    for defense in defenses:
        checks = plan_checks(
            defense,
            planner.units_on(defense),
            inspected=inspected,
            shards=reached[defense.label],
            planned_images=sum(len(shard.ids) for shard in shards),
            protocol=protocol,
            seed=base.seed,
            num_classes=base.num_classes,
        )
        if not any(isinstance(check, GradientCheckUnit) for check in checks):
            planner.notes[
                f"{NOT_MEASURED}more steps and {LARGE_EPSILON_FACTOR} times eps on {defense.label}, "
                "which is done beside direct attacks of published budgets"
            ] = None
        inspections += checks
    return EvaluationPlan(
        cells=tuple(planner.cells),
        inspections=tuple(inspections),
        sources=tuple(unit for unit in planner.sources.values() if unit.key not in planned),
        fallbacks={
            attack.label: attack.algorithm.fallback_notes(base.num_classes)
            for attack in attacks
            if attack.algorithm is not None
        },
        notes=tuple(planner.notes),
    )


def run_unit(
    run_id: str, unit: Unit, defense: str | None, attack: str | None, *, reported: bool = False
) -> dict[str, object]:
    """Return the row of `unit` for the table `run_units`."""
    return {
        "run_id": run_id,
        "unit_key": unit.key,
        "kind": unit.kind,
        "defense": defense,
        "attack": attack,
        "reported": reported,
        "image_ids": list(unit.shard.ids),
    }


def _unaveraged(defenses: Sequence[DefenseSpec], attacks: Sequence[NamedAttack]) -> list[str]:
    """Say what the choice of attacks leaves open."""
    randomised = [defense.label for defense in defenses if defense.is_random]
    direct = [attack for attack in attacks if not (attack.transfer or attack.audits)]
    if not randomised or all(attack.label != "aa" for attack in direct) or any(attack.averages for attack in direct):
        return []
    return [
        f"{NOT_MEASURED}gradients averaged over the noise of randomised defenses ({', '.join(randomised)}); "
        "AutoAttack standard is made for deterministic ones, apgd-eot for these"
    ]


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
