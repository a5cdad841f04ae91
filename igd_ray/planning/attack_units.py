"""Which units attack: on the base model, on each defense directly and by transfer, in a cascade, and in an audit.

Attacks on the base model are units that every defense, in any later run, takes its transfers from. They cover all
images whatever is evaluated beside them, so that no run computes again what another has. A transfer may also come from
another model, which is then attacked as a base model is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from igd_ray.attacks.adaptive.warm_start import TRANSFER, WarmStartedAttack
from igd_ray.attacks.base import ENGINES, POOLED, PYAUTOATTACK, QUERY, Attack
from igd_ray.attacks.own import named_attack
from igd_ray.attacks.registry import NamedAttack, expand_attacks, giving, is_in_a_file, parse_attack
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.protocol import NONE, NOT_MEASURED, attack_order
from igd_ray.threat import ThreatModel
from igd_ray.units.attack import AttackUnit, Start, TransferUnit
from igd_ray.units.base import Shard
from igd_ray.units.judged import JudgedUnit, SavePoints

# The attack whose trajectories are those of AutoAttack's first stage, and AutoAttack, whose seed it takes.
FIRST_STAGE, AUTO_ATTACK = "tr-apgd-ce", "aa"


@dataclass(frozen=True)
class BaseAttacks:
    """The units that attack the base model.

    Attributes:
        model_id: its fingerprint.
        num_classes: how many classes it has.
        is_random: whether two of its passes differ: then gradients must be averaged, and no work is shared.
        threat, seed, attack_seed: as in `AttackUnit`.
        judge_draws: fresh evaluations of each point, where the model is random.
        label: what the model is called as a target.
        others: the same for each other model that transfers come from, by its spec.
    """

    model_id: str
    num_classes: int
    is_random: bool
    threat: ThreatModel
    seed: int
    attack_seed: int | None = None
    judge_draws: int = 1
    label: str = NONE
    others: Mapping[str, "BaseAttacks"] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """The model, for people."""
        return f"{self.label} ({self.model_id})"

    def unit(self, attack: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit of `attack` over `shard`; a direct attack and a transfer are one."""
        if attack.source_model is not None:
            return self.others[attack.source_model].unit(replace(attack, source_model=None), shard)
        plain = self._plain(attack, shard)
        algorithm = plain.attack.algorithm
        if algorithm is None or self.is_random:
            return plain
        if plain.key == self._plain(parse_attack(FIRST_STAGE), shard).key:
            # AutoAttack's seed, planned or not, and never the other way: its verdicts are what they are without this.
            return replace(plain, attack_seed=self._plain(parse_attack(AUTO_ATTACK), shard).attack_seed_used)
        if algorithm.continues is not None:
            first_stage = self.unit(parse_attack(algorithm.continues), shard)
            return replace(plain, attack_seed=plain.attack_seed_used, first_stage=first_stage.key)
        return plain

    def on(self, defense: DefenseSpec, attack: NamedAttack, shard: Shard, judge_draws: int) -> AttackUnit:
        """Return the unit of `attack` on a defense of this model over `shard`; it shares nothing with others."""
        fitted = attack.of(self.fitted(attack.algorithm, defense_is_random=defense.is_random))
        return AttackUnit(defense, fitted, self.threat, shard, self.seed, self.attack_seed, judge_draws)

    def needed_by(self, unit: AttackUnit) -> tuple[AttackUnit, ...]:
        """Return the units that `unit`, one of these, reads."""
        algorithm = unit.attack.algorithm
        if unit.first_stage is None or algorithm is None or algorithm.continues is None:
            return ()
        attacked = next((each for each in self.others.values() if each.model_id == unit.defense.model_id), self)
        return (attacked.unit(parse_attack(algorithm.continues), unit.shard),)

    def fitted(self, algorithm: Attack | None, *, defense_is_random: bool = False) -> Attack | None:
        """Return `algorithm` for this model's classes and, where nothing is random, with equal gradients taken once."""
        if algorithm is None:
            return None
        algorithm = algorithm.for_classes(self.num_classes)
        return algorithm if self.is_random or defense_is_random else algorithm.collapsed()

    def _plain(self, attack: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit that shares nothing with others."""
        registration, algorithm = attack.registration, attack.algorithm
        if registration is not None and registration.on_deterministic is not None and not self.is_random:
            # On a deterministic model the averaged gradients are those of the transfer, which keeps more points.
            budget = getattr(algorithm, str(registration.budget))
            suffix = "" if budget == registration.published else f"-{budget}"
            algorithm = parse_attack(f"{registration.on_deterministic}{suffix}").algorithm
        draws = self.judge_draws if self.is_random else 1
        return self.on(DefenseSpec(self.label, self.model_id), attack.of(algorithm), shard, draws)


# Every attack on every image; or the cheapest attack first, and the others on the images that it left robust.
Mode = Literal["full", "cascade"]


@dataclass(frozen=True)
class Cell:
    """One shard of one (defense, attack) of the table, and the unit that fills it."""

    defense: str
    attack: str
    unit: JudgedUnit


class TablePlanner:
    """Collects cells and what they need, row by row."""

    def __init__(self, base: BaseAttacks, judge_draws: int, mode: Mode, save_points: SavePoints) -> None:
        self._base, self._judge_draws, self._mode, self._save_points = base, judge_draws, mode, save_points
        self._audit = AuditPlanner(base, judge_draws, self._source)
        self.cells: list[Cell] = []
        self.sources: dict[str, AttackUnit] = {}
        # A dictionary for its order and for having each note once.
        self.notes: dict[str, None] = {}

    def add_row(
        self, defense: DefenseSpec, ordinary: Sequence[NamedAttack], audits: Sequence[NamedAttack], shard: Shard
    ) -> None:
        """Add the cells of one defense and one shard."""
        ordinary = [attack for attack in ordinary if attack.aims_at(defense.label)]
        audits = [attack for attack in audits if attack.aims_at(defense.label)]
        units = [self._unit(defense, attack, shard) for attack in ordinary]
        if self._mode == "cascade" and not defense.is_base_model:
            units = _chained(units)
        self.cells += [Cell(defense.label, attack.label, unit) for attack, unit in zip(ordinary, units, strict=True)]
        kind = defense.registered
        fitting = [
            attack
            for attack in audits
            if (kind.has_two_passes or not attack.needs_two_passes)
            and (kind.has_surrogate or not attack.needs_surrogate)
        ]
        attacking = {unit.attack.label: unit for unit in units if unit.attack.algorithm is not None}
        # In one order, whatever order attacks were asked for in: the audit's seeds derive from it.
        before = [attacking[label] for label in sorted(attacking, key=attack_order)]
        audited = self._audit.units(defense, fitting, before, shard) if fitting else []
        self.cells += [Cell(defense.label, attack.label, unit) for attack, unit in audited]
        left_out = [attack.label for attack in audits if attack.needs_two_passes and attack not in fitting]
        if left_out:
            note = f"{NOT_MEASURED}{', '.join(left_out)} on {defense.label}, which has no two passes to aim at"
            self.notes[note] = None
        if kind.has_surrogate and not any(attack.needs_surrogate for attack in fitting):
            self.notes[f"{NOT_MEASURED}audit-bpda on {defense.label}, whose own gradients are useless to attacks"] = (
                None
            )

    def units_on(self, defense: DefenseSpec) -> dict[str, list[JudgedUnit]]:
        """Return the units of each attack on `defense`."""
        units: dict[str, list[JudgedUnit]] = {}
        for cell in self.cells:
            if cell.defense == defense.label:
                units.setdefault(cell.attack, []).append(cell.unit)
        return units

    def _unit(self, defense: DefenseSpec, attack: NamedAttack, shard: Shard) -> JudgedUnit:
        base = self._base
        if defense.is_base_model and attack.source_model is None:
            return self._source(base.unit(attack, shard))
        if attack.transfer:
            draws = self._judge_draws if not defense.is_base_model or base.is_random else 1
            return TransferUnit(defense, attack, self._source(base.unit(attack, shard)), draws)
        return replace(base.on(defense, attack, shard, self._judge_draws), save_points=self._save_points)

    def _source(self, unit: AttackUnit) -> AttackUnit:
        """Have `unit` computed and what it needs, and return it."""
        for needed in (*self._base.needed_by(unit), unit):
            self.sources.setdefault(needed.key, needed)
        return unit


def _chained(units: Sequence[JudgedUnit]) -> list[JudgedUnit]:
    """Return `units`, in their order, each on the images that all cheaper ones left robust."""
    chained: dict[int, JudgedUnit] = {}
    before: tuple[str, ...] = ()
    for place in sorted(range(len(units)), key=lambda place: chain_order(units[place])):
        unit = units[place]
        if unit.attack.algorithm is not None:
            unit = unit.following(before)
            before = (unit.key,)
        chained[place] = unit
    return [chained[place] for place in range(len(units))]


def chain_order(unit: JudgedUnit) -> tuple[bool, int, str]:
    """Return the order of a cascade: by cost, but queries last, as what they alone break tells of masked gradients."""
    queries_only = unit.ways == {QUERY}
    return queries_only, _cost(unit), unit.attack.label


def priority(unit: JudgedUnit) -> tuple[int, int]:
    """Return the order in which units start: base attacks, transfers, direct attacks, audits; the dearest first."""
    if unit.is_transfer:
        return 2, 0
    if unit.attack.audits:
        return 4, 0
    if not unit.defense.is_base_model:
        return 3, -_cost(unit)
    return (0, 0) if unit.attack.algorithm is None or unit.attack.label == FIRST_STAGE else (1, -_cost(unit))


def _cost(unit: JudgedUnit) -> int:
    """Return about how many passes a unit takes: the number of classes hardly orders them."""
    return sum(unit.most_passes(num_classes=10))


@dataclass(frozen=True)
class AuditPlanner:
    """Plans the adaptive attacks on defenses.

    Attributes:
        base: the attacks on the base model, whose points the adaptive ones start from.
        judge_draws: as in `AttackUnit`.
        source: has a unit computed, whose points are read, and returns it.
    """

    base: BaseAttacks
    judge_draws: int
    source: Callable[[AttackUnit], AttackUnit]

    def units(
        self,
        defense: DefenseSpec,
        audits: Sequence[NamedAttack],
        before: Sequence[JudgedUnit],
        shard: Shard,
    ) -> list[tuple[NamedAttack, AttackUnit]]:
        """Return a unit for each of `audits`, those first whose points others may start from.

        Args:
            defense: what is attacked.
            audits: those that fit it, at least one.
            before: the other attacks on it: the images that they broke are skipped, and their points are starts, too.
            shard: the images.
        """
        transfer = self.source(self.base.unit(parse_attack(FIRST_STAGE), shard))
        starts = {start.name: start for start in _kept(TRANSFER, transfer)}
        known = {(start.unit_key, start.point) for start in starts.values()}
        for earlier in before:
            for start in _kept(earlier.attack.label, earlier.points_unit):
                if start[1:] not in known:
                    starts[start.name] = start
                    known.add(start[1:])
        after = tuple(dict.fromkeys(unit.key for unit in before))
        given = {_gives(attack) for attack in audits}
        for name in dict.fromkeys(source for attack in audits for source in _sources(attack)):
            # An attack that is not asked for, but that others start from.
            if name not in starts and name not in given and (giver := giving(name)) is not None:
                starts[name] = _returned(name, self.source(self._unit(defense, giver, shard, after, starts)))
        planned = []
        for attack in sorted(audits, key=lambda attack: attack_order(attack.label)):
            unit = self._unit(defense, attack, shard, after, starts)
            # Of several budgets, the points of the first are those that others start from.
            gives = _gives(attack)
            name = gives if gives is not None and gives not in starts else attack.label
            starts[name] = _returned(name, unit)
            planned.append((attack, unit))
            after = (unit.key,)
        return planned

    def _unit(
        self,
        defense: DefenseSpec,
        attack: NamedAttack,
        shard: Shard,
        after: tuple[str, ...],
        starts: dict[str, Start],
    ) -> AttackUnit:
        unit = self.base.on(defense, attack, shard, self.judge_draws)
        fitted = unit.attack
        if isinstance(fitted.algorithm, WarmStartedAttack):
            fitted = fitted.of(fitted.algorithm.from_points_of(starts))
        return replace(unit, attack=fitted, after=after, starts=tuple(starts[name] for name in _sources(fitted)))


def _returned(name: str, unit: AttackUnit) -> Start:
    """Return the first point of `unit` as a start called `name`."""
    return _kept(name, unit)[0]


def _kept(name: str, unit: JudgedUnit) -> list[Start]:
    """Return the points of `unit` as starts: the first one called `name`, any other with its own name behind that."""
    assert unit.attack.algorithm is not None
    first, *others = unit.attack.algorithm.point_names
    return [Start(name, unit.key, first), *(Start(f"{name}/{other}", unit.key, other) for other in others)]


def _sources(attack: NamedAttack) -> Sequence[str]:
    """Return the names of the points that `attack` starts from."""
    return attack.algorithm.sources if isinstance(attack.algorithm, WarmStartedAttack) else ()


def _gives(attack: NamedAttack) -> str | None:
    """Return the name under which others start from the points of `attack`."""
    return None if attack.registration is None else attack.registration.gives


def asked_attacks(
    labels: Iterable[str], engine: str, held: Mapping[str, NamedAttack] = MappingProxyType({})
) -> list[NamedAttack]:
    """Return the attacks that `labels` and groups ask for, searched by `engine` where they have the choice.

    Args:
        labels: labels, groups and entries of attacks in files.
        engine: see `ENGINES`.
        held: what only this program holds, by its entry.

    Raises:
        InputError: if there is no such attack.
    """
    return [
        on_engine(held.get(entry) or (named_attack(entry) if is_in_a_file(entry) else parse_attack(entry)), engine)
        for entry in expand_attacks(labels)
    ]


def on_engine(attack: NamedAttack, engine: str) -> NamedAttack:
    """Return `attack`, searched by `engine` where it has the choice."""
    return attack if attack.algorithm is None else attack.of(attack.algorithm.on_engine(engine))


def engine_notes(attacks: Sequence[NamedAttack], engine: str) -> list[str]:
    """Return a note for each of `attacks` that says which engine searched at which of its stages.

    Where pyautoattack was asked for, as it is by default, there are none but for attacks that only the engine has.
    """
    notes = []
    for attack in attacks:
        by = {} if attack.algorithm is None else attack.algorithm.searched_by
        if engine == PYAUTOATTACK and POOLED not in by.values():
            continue
        stages = {each: [stage for stage in by if by[stage] == each] for each in ENGINES}
        said = [f"{each} for {', '.join(named)}" for each, named in stages.items() if named]
        if said:
            notes.append(f"engine of {attack.label}: {'; '.join(said)}")
    return notes
