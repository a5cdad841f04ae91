"""What an audit leaves of each gain: adaptive attacks, each on the images that all before it left robust."""

from collections import defaultdict

from igd_ray.protocol import AUDIT_ATTACKS, NONE, audits_among, noted_ideas
from igd_ray.report.claims import unfinished
from igd_ray.report.results import Results
from igd_ray.report.tables import Column, Row, Table, points
from igd_ray.statistics import Comparison


def audit_table(results: Results) -> Table:
    """Return the audit attacks of a run on each defense, with the idea of each, which the run's notes tell."""
    ideas = noted_ideas(results.run["notes"] or [])
    rows = [{**row, "idea": ideas.get(row["attack"], "")} for row in results.audit_attacks]
    columns = [
        Column("attack", "Attack"),
        Column("defense", "Defense"),
        Column("attacked", "Images attacked", "count"),
        Column("newly_broken", "Newly broken", "count"),
        Column("idea", "Idea", "prose"),
    ]
    return Table(columns, rows)


def audit_sentences(results: Results) -> list[str]:
    """Return a sentence on each defense of a run with an audit: what is left of its gain over the undefended model."""
    before, after = results.compared_before_audit, results.compared
    adaptive: dict[str, list[str]] = defaultdict(list)
    for found in results.audit_attacks:
        adaptive[found["defense"]].append(found["attack"])
    unknown = unfinished(results)
    sentences = []
    for row in results.worst_cases:
        defense = row["defense"]
        if row["audit_attacks"] is None or defense == NONE:
            continue
        if not adaptive[defense]:
            sentences.append(f"No audit attack was planned on {defense}: its worst case is not audited.")
        elif NONE not in unknown:
            sentences.append(f"{defense} has no gain to audit: the run has no undefended model to compare it with.")
        elif unknown[defense] or unknown[NONE]:
            why = "; ".join(reason for reason in (unknown[defense], unknown[NONE]) if reason)
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


def _outlook(comparison: Comparison) -> str:
    return f"{comparison.images} images; {comparison.outlook}"
