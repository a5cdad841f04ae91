"""An evaluation: which units fill the table of defenses and attacks, and what their outcomes say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import pyarrow as pa

from igd_ray.attacks.base import GRADIENT, QUERY
from igd_ray.attacks.registry import QUERY_STAGES, RANDOMISED, TRANSFER_PREFIX, NamedAttack
from igd_ray.catalog import Catalog
from igd_ray.checks import (
    LARGE_EPSILON_FACTOR,
    Finding,
    check_few_classes,
    check_query_beats_gradient,
    check_transfer_beats_direct,
    not_measurable,
)
from igd_ray.defenses.specs import NONE, DefenseSpec
from igd_ray.identity import unit_key
from igd_ray.planning.audit import AuditPlanner
from igd_ray.planning.base_attacks import FIRST_STAGE, BaseAttacks
from igd_ray.planning.checks import CheckUnit, plan_checks
from igd_ray.protocol import NOT_MEASURED, attack_order
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Shard, Unit
from igd_ray.units.inspection import GradientCheckUnit, finding_row
from igd_ray.units.judged import JudgedUnit
from igd_ray.units.points import SavePoints

# Every attack on every image; or the cheapest attack first, and the others on the images that it left standing.
Mode = Literal["full", "cascade"]


@dataclass(frozen=True)
class Cell:
    """One shard of one (defense, attack) of the table, and the unit that fills it."""

    defense: str
    attack: str
    unit: JudgedUnit


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation computes.

    Attributes:
        cells: the table, shard by shard.
        inspections: units of checks.
        fallbacks: what each attack replaced, as the model has too few classes for it.
        sources: units whose points others need, without a cell of their own.
        notes: what the plan leaves out.
    """

    cells: tuple[Cell, ...]
    inspections: tuple[CheckUnit, ...]
    sources: tuple[AttackUnit, ...]
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> list[Unit]:
        """All units, each once, the first to start first: what others need, then the dearest."""
        attacking = [*self.sources, *(cell.unit for cell in self.cells)]
        unique: dict[str, Unit] = {}
        for unit in [*sorted(attacking, key=_priority), *self.inspections]:
            unique.setdefault(unit.key, unit)
        return list(unique.values())

    @cached_property
    def run_id(self) -> str:
        """The hash of the table: the same evaluation has the same id, whenever it is asked for."""
        cells = [[cell.defense, cell.attack, cell.unit.key] for cell in self.cells]
        return unit_key("run", cells=sorted(cells), inspections=sorted(unit.key for unit in self.inspections))[:12]


def plan_evaluation(
    defenses: Sequence[DefenseSpec],
    attacks: Sequence[NamedAttack],
    shards: Sequence[Shard],
    *,
    base: BaseAttacks,
    inspected: Shard,
    judge_draws: int = 1,
    mode: Mode = "full",
    save_points: SavePoints = "all",
) -> EvaluationPlan:
    """Plan the attacks on every defense over every shard, each unit once, and the checks on the shard `inspected`.

    A transfer's points come from one unit on the base model, whoever needs them; the undefended row's attacks are
    those units themselves, and cover every image in either mode. Adaptive attacks take the images that all others
    left standing.
    """
    ordinary = [attack for attack in attacks if not attack.audits]
    audits = [attack for attack in attacks if attack.audits]
    # An audit starts from the points of all attacks.
    planner = _Planner(base, judge_draws, mode, "all" if audits else save_points)
    for shard in shards:
        for defense in defenses:
            planner.add_row(defense, ordinary, audits, shard)
    planned = {cell.unit.key for cell in planner.cells}
    direct = [attack.label for attack in ordinary if attack.algorithm is not None and not attack.transfer]
    averaged = not direct or any(label in RANDOMISED for label in direct)
    protocol = "rand" if averaged else "standard"
    inspections: list[CheckUnit] = []
    for defense in defenses:
        checks = plan_checks(
            defense,
            planner.units_on(defense),
            inspected=inspected,
            shards=shards,
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


class _Planner:
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
        units = [self._unit(defense, attack, shard) for attack in ordinary]
        if self._mode == "cascade" and defense.kind != NONE:
            units = _chained(units)
        self.cells += [Cell(defense.label, attack.label, unit) for attack, unit in zip(ordinary, units, strict=True)]
        fitting = [attack for attack in audits if defense.has_two_passes or not attack.needs_two_passes]
        attacking = {unit.attack.label: unit for unit in units if unit.attack.algorithm is not None}
        # In one order, whatever order attacks were asked for in: the audit's seeds derive from it.
        before = [attacking[label] for label in sorted(attacking, key=attack_order)]
        audited = self._audit.units(defense, fitting, before, shard)
        self.cells += [Cell(defense.label, attack.label, unit) for attack, unit in audited]
        left_out = [attack.label for attack in audits if attack not in fitting]
        if left_out:
            note = f"{NOT_MEASURED}{', '.join(left_out)} on {defense.label}, which has no two passes to aim at"
            self.notes[note] = None

    def units_on(self, defense: DefenseSpec) -> dict[str, list[JudgedUnit]]:
        """Return the units of each attack on `defense`."""
        units: dict[str, list[JudgedUnit]] = {}
        for cell in self.cells:
            if cell.defense == defense.label:
                units.setdefault(cell.attack, []).append(cell.unit)
        return units

    def _unit(self, defense: DefenseSpec, attack: NamedAttack, shard: Shard) -> JudgedUnit:
        if defense.kind == NONE:
            return self._source(self._base.unit(attack, shard))
        if attack.transfer:
            return TransferUnit(defense, attack, self._source(self._base.unit(attack, shard)), self._judge_draws)
        base = self._base
        fitted = replace(attack, algorithm=base.fitted(attack.algorithm, defense_is_random=defense.is_random))
        return AttackUnit(
            defense,
            fitted,
            base.threat,
            shard,
            base.seed,
            base.attack_seed,
            self._judge_draws,
            save_points=self._save_points,
        )

    def _source(self, unit: AttackUnit) -> AttackUnit:
        """Have `unit` computed and what it needs, and return it."""
        for needed in (*self._base.needed_by(unit), unit):
            self.sources.setdefault(needed.key, needed)
        return unit


def _chained(units: Sequence[JudgedUnit]) -> list[JudgedUnit]:
    """Return `units`, in their order, each on the images that all cheaper ones left standing."""
    chained: dict[int, JudgedUnit] = {}
    before: tuple[str, ...] = ()
    for place in sorted(range(len(units)), key=lambda place: _chain_order(units[place])):
        unit = units[place]
        if unit.attack.algorithm is not None:
            unit = unit.following(before)
            before = (unit.key,)
        chained[place] = unit
    return [chained[place] for place in range(len(units))]


def _chain_order(unit: JudgedUnit) -> tuple[bool, int, str]:
    """Return the order of a cascade: by cost, but queries last, as what they alone break tells of masked gradients."""
    queries_only = unit.ways == {QUERY}
    return queries_only, _cost(unit), unit.attack.label


def naive_units(
    defenses: Sequence[DefenseSpec],
    attacks: Sequence[NamedAttack],
    shards: Sequence[Shard],
    *,
    base: BaseAttacks,
    judge_draws: int = 1,
) -> list[JudgedUnit]:
    """Return what separate runs would compute for each defense: every attack as published, nothing shared.

    On the base model an attack and its transfer are one in any case. Not to be run: many of these have the same key.
    They say what a plan saves.
    """
    labels = {attack.label for attack in attacks}
    separate = replace(base, is_random=True)
    units: list[JudgedUnit] = []
    for defense in defenses:
        for attack in (attack for attack in attacks if not attack.audits):
            if defense.kind == NONE and attack.transfer and attack.label.removeprefix(TRANSFER_PREFIX) in labels:
                continue
            for shard in shards:
                on_base = separate.unit(attack, shard)
                if attack.transfer and defense.kind == NONE:
                    units.append(on_base)
                elif attack.transfer:
                    units += [on_base, TransferUnit(defense, attack, on_base, judge_draws)]
                else:
                    units.append(replace(on_base, defense=defense, judge_draws=judge_draws))
    return units


def run_rows(plan: EvaluationPlan, preparations: Sequence[Unit]) -> list[dict[str, object]]:
    """Return what the run consists of, for the table `run_units`: its cells, their sources and `preparations`."""
    run_id = plan.run_id
    rows = [run_unit(run_id, cell.unit, cell.defense, cell.attack, reported=True) for cell in plan.cells]
    rows += [run_unit(run_id, source, source.defense.label, source.attack.label) for source in plan.sources]
    rows += [run_unit(run_id, inspection, inspection.defense.label, None) for inspection in plan.inspections]
    rows += [run_unit(run_id, unit, None, None) for unit in preparations]
    return rows


def commit_comparisons(catalog: Catalog, plan: EvaluationPlan, *, model: str) -> None:
    """Commit the checks that compare attacks with each other; every unit of the plan must be done."""
    rows: list[dict[str, object]] = []
    for defense in dict.fromkeys(cell.defense for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.defense == defense]
        for finding in compare_attacks(catalog, cells):
            rows.append(finding_row(finding, None, plan.run_id, model, defense, None))
        attacks = {cell.attack for cell in cells}
        for attack, notes in plan.fallbacks.items():
            if notes and attack in attacks:
                rows.append(finding_row(check_few_classes(notes), None, plan.run_id, model, defense, attack))
    catalog.commit("checks", f"run-{plan.run_id}", rows)


def compare_attacks(catalog: Catalog, cells: Sequence[Cell]) -> list[Finding]:
    """Compare what direct, transferred, gradient and query attacks broke, for the cells of one defense.

    An attack that skipped an image says nothing of it: where a cascade's earlier attacks broke images, only those
    count that both sides attacked, and transfers, which come first, are not compared. What noise broke without any
    point, no attack did.
    """
    cells = [cell for cell in cells if cell.unit.attack.algorithm is not None and not cell.unit.attack.audits]
    broken_by: dict[str, set[str]] = {"query": set(), "gradient": set(), "transfer": set(), "direct": set()}
    skipped: set[str] = set()
    for cell in cells:
        table: pa.Table = catalog.read("outcomes", cell.unit.key)
        for row in table.select(["image_id", "status", "stage", "distance"]).to_pylist():
            if row["status"] == "skipped" and GRADIENT in cell.unit.ways:
                skipped.add(row["image_id"])
            if row["status"] != "broken" or row["distance"] == 0:
                continue
            broken_by["transfer" if cell.unit.is_transfer else "direct"].add(row["image_id"])
            if not cell.unit.is_transfer:
                broken_by["query" if row["stage"] in QUERY_STAGES else "gradient"].add(row["image_id"])
    ways = {way for cell in cells for way in cell.unit.ways}
    findings = []
    if ways == {QUERY, GRADIENT}:
        compared = (broken_by["query"] | broken_by["gradient"]) - skipped
        alone = compared & broken_by["query"] - broken_by["gradient"]
        findings.append(check_query_beats_gradient(len(alone), len(compared)))
    if {cell.unit.is_transfer for cell in cells} != {True, False}:
        return findings
    if any(cell.unit.after for cell in cells):
        why = "in a cascade the direct attacks skip what transfers broke"
        findings.append(not_measurable("transfer-beats-direct", why))
    else:
        only_transfer = broken_by["transfer"] - broken_by["direct"]
        only_direct = broken_by["direct"] - broken_by["transfer"]
        findings.append(check_transfer_beats_direct(len(only_transfer), len(only_direct)))
    return findings


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


def _priority(unit: JudgedUnit) -> tuple[int, int]:
    """Return the order in which units start: base attacks, transfers, direct attacks, audits; the dearest first."""
    if unit.is_transfer:
        return 2, 0
    if unit.attack.audits:
        return 4, 0
    if unit.defense.kind != NONE:
        return 3, -_cost(unit)
    return (0, 0) if unit.attack.algorithm is None or unit.attack.label == FIRST_STAGE.label else (1, -_cost(unit))


def _cost(unit: JudgedUnit) -> int:
    """Return about how many passes a unit takes: the number of classes hardly orders them."""
    return sum(unit.most_passes(num_classes=10))
