"""The checks that compare the attacks of a finished run with each other."""

from collections.abc import Sequence

import pyarrow as pa

from igd_ray.attacks.base import GRADIENT, QUERY
from igd_ray.catalog import Catalog
from igd_ray.checks import (
    Finding,
    check_few_classes,
    check_query_beats_gradient,
    check_transfer_beats_direct,
    not_measurable,
)
from igd_ray.planning.evaluation import Cell, EvaluationPlan
from igd_ray.units.checks.defense import finding_row


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
    cells = [cell for cell in cells if not cell.unit.attack.audits and (cell.unit.is_transfer or cell.unit.ways)]
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
            if not cell.unit.is_transfer and cell.unit.attack.algorithm is not None:
                follows = GRADIENT in cell.unit.attack.algorithm.ways_of(row["stage"])
                broken_by["gradient" if follows else "query"].add(row["image_id"])
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
