"""The tables of one run: accuracy, gain, settings, findings, and what was not measured."""

from collections import defaultdict
from typing import NamedTuple

from igd_ray.protocol import (
    NONE,
    attack_order,
    noted_ideas,
)
from igd_ray.report.figures.panels import Panel, Point
from igd_ray.report.results import Results, Rows, broken_of_attacked, noise_shares
from igd_ray.report.tables import COSTS, DASH, SETTING, Column, Row, Share, Table, Verdict
from igd_ray.statistics import Comparison


class FindingGroup(NamedTuple):
    """The findings of one check and severity: how many there are, and each that differs from the others."""

    severity: str
    check: str
    times: int
    findings: Rows


def finding_groups(results: Results, *, grave: bool) -> list[FindingGroup]:
    """Return the findings by check, those that are more than information or the others.

    Errors come first, and then the check with the most findings.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for finding in results.findings:
        if (finding["severity"] != "info") == grave:
            groups[finding["severity"], finding["check"]].append(finding)
    found = [FindingGroup(*name, sum(row["times"] for row in rows), rows) for name, rows in groups.items()]
    return sorted(found, key=lambda group: (group.severity == "warning", -group.times, group.check))


def headline_table(results: Results) -> Table:
    """Return one row for each defense: worst case, gain, what may be claimed of it, clean, and each attack."""
    shares: dict[str, dict[str, Share]] = defaultdict(dict)
    for cell in results.cells:
        shares[cell["defense"]][cell["attack"]] = cell_share(cell)
    attacks = _attacks(results)
    noise = noise_shares(results)
    audited = results.is_audited
    compared = results.compared_before_audit if audited else results.compared
    compared_after = results.compared if audited else {}
    rows: list[Row] = []
    for row in results.worst_cases:
        defense = row["defense"]
        rows.append(
            {
                **{attack: shares[defense].get(attack, Share(None, why="not planned")) for attack in attacks},
                "defense": defense,
                "n": row["n"],
                "clean_accuracy": Share(row["clean_accuracy"], row["clean_low"], row["clean_high"]),
                "noise": noise.get(defense, Share(None)),
                "worst_case": _worst_case(row["robust_accuracy"], row["low"], row["high"]),
                "gain": None if defense == NONE else row["gain"],
                "claim": _claim(defense, row["gain"], compared.get(defense)),
                "audited": _worst_case(row["audited_accuracy"], row["audited_low"], row["audited_high"]),
                "audited_gain": None if defense == NONE else row["audited_gain"],
                "audited_claim": _claim(defense, row["audited_gain"], compared_after.get(defense)),
            }
        )
    columns = [
        Column("defense", "Defense"),
        Column("worst_case", "Worst case", "share"),
        *([Column("audited", "After the audit", "share")] if audited else []),
        Column("gain", "Gain, points", "points"),
        *([Column("audited_gain", "Gain after it", "points")] if audited else []),
        Column("claim", "Claim", "verdict"),
        *([Column("audited_claim", "Claim after it", "verdict")] if audited else []),
        Column("clean_accuracy", "Clean", "share"),
        *([Column("noise", "Fails under noise alone", "share")] if noise else []),
        *(Column(attack, attack, "share") for attack in attacks),
        Column("n", "Images", "count"),
    ]
    return Table(columns, rows)


def cell_share(cell: Row) -> Share:
    """Return the accuracy of one defense under one attack; if there is none, why, and what stands instead."""
    return Share(cell["robust_accuracy"], cell["low"], cell["high"], _reason(cell), broken_of_attacked(cell) or DASH)


def _attacks(results: Results) -> list[str]:
    """Return the attacks of a run but the look at the clean images, which has a column of its own."""
    return [attack for attack in dict.fromkeys(cell["attack"] for cell in results.cells) if attack != "clean"]


def _worst_case(accuracy: float | None, low: float | None, high: float | None) -> Share:
    return Share(accuracy, low, high, "not finished" if accuracy is None else "")


def _reason(row: Row) -> str:
    """Return why an accuracy is NULL, the gravest reason first."""
    missing = row["n"] - row["finished"] - row["skipped"] - row["errors"]
    if row["errors"]:
        return f"{row['errors']} failed"
    if missing:
        return f"{missing} of {row['n']} missing"
    return f"{row['skipped']} skipped" if row["skipped"] else ""


def _claim(defense: str, gain: float | None, comparison: Comparison | None) -> Verdict:
    if defense == NONE:
        return Verdict("undefended")
    if comparison is not None:
        return Verdict(comparison.verdict, comparison.p_values)
    return Verdict(DASH, "not finished, or nothing to compare with" if gain is None else "no images in common")


def robustness_panels(results: Results) -> tuple[list[str], list[Panel]]:
    """Return the rows and panels of the figure of robust accuracies: worst cases, clean, and each attack."""
    table = headline_table(results)
    worst = ["worst_case", "audited"] if results.is_audited else ["worst_case"]
    titles = {column.name: column.title for column in table.columns}
    attacks = _attacks(results)
    cells = {(cell["defense"], cell["attack"]): cell for cell in results.cells}
    panels = []
    for row in table.rows:
        points = [_point(row[name]) for name in (*worst, "clean_accuracy")]
        points += [_attack_point(row[attack], cells.get((row["defense"], attack))) for attack in attacks]
        panels.append(Panel(row["defense"], points))
    return [titles[name].lower() for name in (*worst, "clean_accuracy")] + attacks, panels


def _point(share: Share) -> Point:
    return Point(share.value, share.low, share.high, share.why)


def _attack_point(share: Share, cell: Row | None) -> Point:
    """Return the accuracy under an attack; where it skipped images, between what it lies, and what it broke."""
    if cell is None or share.value is not None or not cell["skipped"] or cell["attacked"] is None:
        return _point(share)
    robust = cell["attacked"] - cell["broken"]
    note = f"broke {cell['broken']} of {cell['attacked']}"
    return Point(None, robust / cell["n"], (robust + cell["skipped"]) / cell["n"], note)


def settings_table(results: Results) -> Table:
    """Return the setting of each defense that the run's outcomes record."""
    columns = [
        Column("defense", "Defense"),
        *SETTING,
        Column("judge_draws", "Judge draws", "number"),
        Column("ranking_id", "Ranking"),
    ]
    return Table(columns, results.settings)


def cost_table(results: Results) -> Table:
    """Return what each attack on each defense cost."""
    columns = [
        Column("defense", "Defense"),
        Column("attack", "Attack"),
        Column("n", "Images", "count"),
        *COSTS,
    ]
    rows = sorted(
        results.accuracies, key=lambda row: (row["defense"] != NONE, row["defense"], attack_order(row["attack"]))
    )
    return Table(columns, rows)


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
