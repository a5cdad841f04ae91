"""An evaluation: which units fill the table of defenses and attacks, and what their outcomes say together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from igd_ray.attacks.base import GRADIENT, QUERY
from igd_ray.attacks.registry import QUERY_STAGES, RANDOMISED, AttackLabel
from igd_ray.catalog import Catalog
from igd_ray.checks import Finding, check_query_beats_gradient, check_transfer_beats_direct
from igd_ray.defenses.specs import NONE, DefenseSpec
from igd_ray.identity import unit_key
from igd_ray.pipeline.attack_units import AttackUnit, TransferUnit
from igd_ray.pipeline.estimate import most_passes
from igd_ray.pipeline.inspect_units import InspectionUnit, finding_row
from igd_ray.pipeline.unit import Shard, Unit
from igd_ray.threat import ThreatModel


@dataclass(frozen=True)
class Cell:
    """One shard of one (defense, attack) of the table, and the unit that fills it."""

    defense: str
    attack: str
    unit: AttackUnit | TransferUnit


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation computes.

    Attributes:
        cells: the table, shard by shard.
        inspections: a unit of checks for each defense.
        sources: units whose points others need, without a cell of their own.
    """

    cells: tuple[Cell, ...]
    inspections: tuple[InspectionUnit, ...]
    sources: tuple[AttackUnit, ...]

    @property
    def units(self) -> list[Unit]:
        """All units, each once: sources and base attacks before what needs them, the dearest first."""
        direct = [cell.unit for cell in self.cells if isinstance(cell.unit, AttackUnit)]
        transfers = [cell.unit for cell in self.cells if isinstance(cell.unit, TransferUnit)]
        ordered: list[Unit] = [*self.sources, *sorted(direct, key=_cost, reverse=True), *self.inspections, *transfers]
        unique: dict[str, Unit] = {}
        for unit in ordered:
            unique.setdefault(unit.key, unit)
        return list(unique.values())

    @cached_property
    def run_id(self) -> str:
        """The hash of the table: the same evaluation has the same id, whenever it is asked for."""
        cells = [[cell.defense, cell.attack, cell.unit.key] for cell in self.cells]
        return unit_key("run", cells=sorted(cells), inspections=[unit.key for unit in self.inspections])[:12]


def plan_evaluation(
    defenses: Sequence[DefenseSpec],
    attacks: Sequence[AttackLabel],
    shards: Sequence[Shard],
    *,
    inspected: Shard,
    threat: ThreatModel,
    seed: int,
    attack_seed: int | None = None,
    judge_draws: int = 1,
) -> EvaluationPlan:
    """Plan every attack on every defense over every shard, each unit once, and the checks on the shard `inspected`.

    A transfer's points come from one unit on the base model, whoever needs them; the undefended row's transfers are
    those units themselves.
    """
    base = DefenseSpec(NONE, defenses[0].model_id)
    cells: list[Cell] = []
    sources: list[AttackUnit] = []
    for attack in attacks:
        for shard in shards:
            on_base = AttackUnit(base, attack, threat, shard, seed, attack_seed, 1)
            if attack.transfer:
                sources.append(on_base)
            for defense in defenses:
                unit: AttackUnit | TransferUnit
                if defense.kind == NONE:
                    unit = on_base
                elif attack.transfer:
                    unit = TransferUnit(defense, attack, on_base, judge_draws)
                else:
                    unit = replace(on_base, defense=defense, judge_draws=judge_draws)
                cells.append(Cell(defense.label, attack.label, unit))
    planned = {cell.unit.key for cell in cells}
    direct = [attack.label for attack in attacks if attack.attack is not None and not attack.transfer]
    averaged = not direct or any(label in RANDOMISED for label in direct)
    protocol = "rand" if averaged else "standard"
    return EvaluationPlan(
        cells=tuple(cells),
        inspections=tuple(InspectionUnit(defense, inspected, protocol, seed) for defense in defenses),
        sources=tuple(unit for unit in sources if unit.key not in planned),
    )


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
    catalog.commit("checks", f"run-{plan.run_id}", rows)


def compare_attacks(catalog: Catalog, cells: Sequence[Cell]) -> list[Finding]:
    """Compare what direct, transferred, gradient and query attacks broke, for the cells of one defense."""
    broken_by: dict[str, set[str]] = {"query": set(), "gradient": set(), "transfer": set(), "direct": set()}
    for cell in cells:
        table: pa.Table = catalog.read("outcomes", cell.unit.key)
        columns = zip(
            table["image_id"].to_pylist(), table["status"].to_pylist(), table["stage"].to_pylist(), strict=True
        )
        for image_id, status, stage in columns:
            if status != "broken":
                continue
            transferred = isinstance(cell.unit, TransferUnit)
            broken_by["transfer" if transferred else "direct"].add(image_id)
            if not transferred:
                broken_by["query" if stage in QUERY_STAGES else "gradient"].add(image_id)
    attacks = [cell.unit.attack.attack for cell in cells if isinstance(cell.unit, AttackUnit)]
    ways = {way for attack in attacks if attack is not None for way in attack.ways}
    findings = []
    if ways == {QUERY, GRADIENT}:
        alone = broken_by["query"] - broken_by["gradient"]
        findings.append(check_query_beats_gradient(len(alone), len(broken_by["query"] | broken_by["gradient"])))
    transferred_cells = any(isinstance(cell.unit, TransferUnit) for cell in cells)
    direct_cells = any(isinstance(cell.unit, AttackUnit) and cell.unit.attack.attack for cell in cells)
    if transferred_cells and direct_cells:
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


def _cost(unit: AttackUnit) -> int:
    """Return about how long a unit takes, to start the long ones first: the number of classes hardly orders them."""
    return sum(most_passes(unit, num_classes=10))
