"""What an audit leaves of each gain: adaptive attacks, each on the images that all before it left robust."""

from typing import Any

from igd_ray.report.evaluation import Ask, comparisons, worst_cases
from igd_ray.report.protocol import attack_order, audit_idea
from igd_ray.report.tables import Column, Row, Table, points
from igd_ray.statistics import Comparison, images_needed


def audit_attacks(ask: Ask, run_id: str) -> list[dict[str, Any]]:
    """Return what each audit attack of a run found on each defense: `attack`, `defense`, `attacked`, `newly_broken`."""
    rows = ask(
        """
        SELECT attack, defense, attacked, newly_broken
        FROM audit_attacks
        WHERE run_id = $1
        ORDER BY defense <> 'none', defense
        """,
        run_id,
    )
    return sorted(rows, key=lambda row: attack_order(row["attack"]))


def audit_table(ask: Ask, run_id: str) -> Table:
    """Return the audit attacks of a run on each defense, with the idea of each."""
    rows = [{**row, "idea": audit_idea(row["attack"])} for row in audit_attacks(ask, run_id)]
    columns = [
        Column("attack", "Attack"),
        Column("defense", "Defense"),
        Column("attacked", "Images attacked", "count"),
        Column("newly_broken", "Newly broken", "count"),
        Column("idea", "Idea", "prose"),
    ]
    return Table(columns, rows)


def audit_sentences(ask: Ask, run_id: str) -> list[str]:
    """Return a sentence on each defense of a run with an audit: what is left of its gain over the undefended model."""
    before, after = comparisons(ask, run_id, before_audit=True), comparisons(ask, run_id)
    return [
        audit_sentence(row, before.get(row["defense"]), after.get(row["defense"]))
        for row in worst_cases(ask, run_id)
        if row["audit_attacks"] is not None and row["defense"] != "none"
    ]


def audit_sentence(row: Row, before: Comparison | None, after: Comparison | None) -> str:
    """Return what the audit leaves of a defense's gain, in one sentence.

    Args:
        row: `defense`, `gain`, `audited_gain` and `audit_attacks`, of one of `worst_cases`.
        before, after: the defense against the undefended model, on the same images, without and with the audit; None
            where one of the two has not finished.
    """
    defense = row["defense"]
    if not row["audit_attacks"]:
        return f"No audit attack was planned on {defense}: its worst case is not audited."
    if before is None or after is None or row["gain"] is None or row["audited_gain"] is None:
        return f"The audit of {defense} has not finished, or there is no undefended model to compare with."
    measured = f"{points(row['audited_gain'])} points, p = {after.p:.2g}"
    if after.verdict == "gain":
        fate = "survives the audit" if before.verdict == "gain" else "shows only after the audit"
        return f"The gain of {defense} {fate}: {measured}."
    fall = f"from {points(row['gain'])} to {measured}"
    if after.verdict == "loss":
        if before.verdict == "gain":
            return f"The audit turns the gain of {defense} into a loss: {fall}."
        return f"{defense} loses after the audit: {measured}."
    if before.verdict == "gain":
        return f"The audit undoes the gain of {defense}: {fall}, undecided at {_outlook(after)}."
    return f"{defense} is undecided after the audit: {measured}, at {_outlook(after)}."


def _outlook(comparison: Comparison) -> str:
    needed = images_needed(comparison.gained, comparison.lost, comparison.images)
    if needed is None:
        return f"{comparison.images} images; no number of images in reach would decide it"
    return f"{comparison.images} images; it would take about {needed} to decide, if the shares stay"
