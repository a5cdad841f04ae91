"""What an audit leaves of each gain: adaptive attacks, each on the images that all before it left robust."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from igd_ray.protocol import AUDIT_ATTACKS, attack_order, audits_among, noted_ideas
from igd_ray.report.evaluation import Ask, comparisons, worst_cases
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


def audit_table(ask: Ask, run_id: str, notes: Sequence[str]) -> Table:
    """Return the audit attacks of a run on each defense, with the idea of each, which the run's `notes` tell."""
    ideas = noted_ideas(notes)
    rows = [{**row, "idea": ideas.get(row["attack"], "")} for row in audit_attacks(ask, run_id)]
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
    adaptive: dict[str, list[str]] = defaultdict(list)
    for found in audit_attacks(ask, run_id):
        adaptive[found["defense"]].append(found["attack"])
    unknown = _unknown(ask, run_id)
    sentences = []
    for row in worst_cases(ask, run_id):
        defense = row["defense"]
        if row["audit_attacks"] is None or defense == "none":
            continue
        if not adaptive[defense]:
            sentences.append(f"No audit attack was planned on {defense}: its worst case is not audited.")
        elif "none" not in unknown:
            sentences.append(f"{defense} has no gain to audit: the run has no undefended model to compare it with.")
        elif unknown[defense] or unknown["none"]:
            why = "; ".join(reason for reason in (unknown[defense], unknown["none"]) if reason)
            sentences.append(f"What the audit leaves of the gain of {defense} is not known; {why}.")
        else:
            faced = audits_among(adaptive[defense])
            sentences.append(audit_sentence(row, before[defense], after[defense], faced))
    return sentences


def audit_sentence(row: Row, before: Comparison, after: Comparison, faced: int) -> str:
    """Return what the audit leaves of a defense's gain, in one sentence.

    Args:
        row: `defense`, `gain` and `audited_gain`, of one of `worst_cases`.
        before, after: the defense against the undefended model, on the same images, without and with the audit.
        faced: how many of the audit's attacks were run on the defense.
    """
    defense = row["defense"]
    measured = f"{points(row['audited_gain'])} points, p = {after.p:.2g}"
    if after.verdict == "gain":
        # A gain is worth what it was tried with.
        known = len(AUDIT_ATTACKS)
        tried = f"all {known} adaptive attacks of the audit"
        if faced < known:
            count, were = ("one", "was") if faced == 1 else (faced, "were")
            tried = f"the {count} of {known} adaptive attacks that {were} run on it"
        fate = "survives" if before.verdict == "gain" else "shows only after"
        return f"The gain of {defense} {fate} {tried}: {measured}."
    fall = f"from {points(row['gain'])} to {measured}"
    if after.verdict == "loss":
        if before.verdict == "gain":
            return f"The audit turns the gain of {defense} into a loss: {fall}."
        return f"{defense} loses after the audit: {measured}."
    if before.verdict == "gain":
        return f"The audit undoes the gain of {defense}: {fall}, undecided at {_outlook(after)}."
    return f"{defense} is undecided after the audit: {measured}, at {_outlook(after)}."


def _unknown(ask: Ask, run_id: str) -> dict[str, str]:
    """Return, for each defense of a run, why its worst case is not known; an empty text where it is."""
    rows = ask(
        """
        SELECT
            defense,
            list(DISTINCT attack) FILTER (error) AS failed,
            list(DISTINCT attack) FILTER (robust IS NULL AND NOT error) AS waiting
        FROM verdicts
        WHERE run_id = $1
        GROUP BY defense
        """,
        run_id,
    )
    return {
        row["defense"]: "; ".join(
            f"{what} on {row['defense']}: {', '.join(sorted(row[state], key=attack_order))}"
            for state, what in (("failed", "failed"), ("waiting", "not finished"))
            if row[state]
        )
        for row in rows
    }


def _outlook(comparison: Comparison) -> str:
    needed = images_needed(comparison.gained, comparison.lost, comparison.images)
    if needed is None:
        return f"{comparison.images} images; no number of images in reach would decide it"
    return f"{comparison.images} images; it would take about {needed} to decide, if the shares stay"
