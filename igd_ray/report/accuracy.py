"""The accuracies of one run, for the terminal and for scripts."""

import textwrap
from typing import Any, NamedTuple

from igd_ray.report.results import Results
from igd_ray.report.tables import Row, Share
from igd_ray.statistics import Comparison

# With more attacks than these the accuracies and what may be claimed stand in a table each.
_MOST_COLUMNS = 4
# So narrow that the nine attacks and the worst case fit into 120 columns.
_WIDTH = 7

_CLAIM = ["worst_case", "low", "high", "gain", "claim"]
_AUDITED = ["audited", "audited_low", "audited_high", "audited_gain", "audited_claim"]


class PrintedTable(NamedTuple):
    """A table for the terminal."""

    title: str
    rows: list[dict[str, Any]]


def accuracy_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row per defense, the undefended model first, with equal keys in every row.

    Keys: `defense`, `n`, `clean`; each attack's robust accuracy; the worst case with its interval, gain over `none` and
    claim (``gain``, ``loss`` or ``undecided``), the p-value `p` that decides it, `holm_p` with Holm's correction for
    the number of defenses, and the `test`: ``mcnemar``, or ``anytime`` where test and interval hold at every look. In a
    run with an audit the worst case is without it, and `audited` with its interval, gain, claim and p-values is with
    it. Then, each by attack: `attacked` and
    `broken` images, and of the audit's attacks `audit_attacked` and `newly_broken`. `noise_failure_rate` is how often
    noise alone makes a random defense wrong. Accuracies are fractions in [0, 1]; None is what was not measured.
    """
    audited = results.is_audited
    before, after = results.compared_before_audit if audited else results.compared, results.compared
    cells = {(cell["defense"], cell["attack"]): cell for cell in results.cells if cell["attack"] != "clean"}
    attacks = list(dict.fromkeys(attack for _, attack in cells))
    audit = {(row["defense"], row["attack"]): row for row in results.audit_attacks}
    adaptive = list(dict.fromkeys(attack for _, attack in audit))
    noise = noise_shares(results)
    rows = []
    for each in results.worst_cases:
        defense = each["defense"]
        row = {"defense": defense, "n": each["n"], "clean": each["clean_accuracy"]}
        row |= {attack: cells.get((defense, attack), {}).get("robust_accuracy") for attack in attacks}
        row |= {"worst_case": each["robust_accuracy"], "low": each["low"], "high": each["high"], "gain": each["gain"]}
        # A gain that chance explains is not one.
        row |= _claimed(before.get(defense))
        row["test"] = None if defense == "none" else "anytime" if each["anytime"] else "mcnemar"
        if audited:
            row["audited"] = each["audited_accuracy"]
            row |= {name: each[name] for name in ("audited_low", "audited_high", "audited_gain")}
            row |= {f"audited_{name}": value for name, value in _claimed(after.get(defense)).items()}
            row["broken_by_audit"] = each["broken_by_audit"]
        row["noise_failure_rate"] = noise[defense].value if defense in noise else None
        for name in ("attacked", "broken"):
            row[name] = {attack: cells.get((defense, attack), {}).get(name) for attack in attacks}
        if audited:
            row["audit_attacked"] = {attack: audit.get((defense, attack), {}).get("attacked") for attack in adaptive}
            row["newly_broken"] = {attack: audit.get((defense, attack), {}).get("newly_broken") for attack in adaptive}
        rows.append(row)
    return rows


def _claimed(comparison: Comparison | None) -> dict[str, Any]:
    """Return the claim, its p-value and the corrected one, which is the same where one defense was compared."""
    if comparison is None:
        return {"claim": None, "p": None, "holm_p": None}
    corrected = comparison.p if comparison.corrected is None else comparison.corrected
    return {"claim": comparison.verdict, "p": comparison.p, "holm_p": corrected}


def accuracy_tables(results: Results) -> list[PrintedTable]:
    """Return the tables of a run for the terminal: accuracies and claims, and what the audit found if there was one.

    Where an attack skipped what others had broken, its cell says how many images of how many it broke.
    """
    rows = accuracy_rows(results)
    audit = [dict(row) for row in results.audit_attacks]
    attacks = list(rows[0]["attacked"]) if rows else []
    narrow = bool(audit) or len(attacks) > _MOST_COLUMNS
    title = f"Run {results.run_id}, accuracies as fractions"
    for cell in results.cells:
        text = broken_of_attacked(cell)
        if text is not None and cell["attack"] in attacks:
            row = next(row for row in rows if row["defense"] == cell["defense"])
            row[cell["attack"]] = _in_lines(text) if narrow else text
            title = f"Run {results.run_id}, accuracies as fractions; (2 of 9): it broke 2 of the 9 images left to it"
    # Nothing is tested without another defense to compare with, and nothing corrected without a third.
    tested = ["p", "holm_p"][: len(results.compared)]
    test = ["test"] if tested else []
    if not narrow:
        return [PrintedTable(title, _columns(rows, ["defense", "n", "clean", *attacks, *_CLAIM, *tested, *test]))]
    accuracies = _columns(rows, ["defense", "n", "clean", *attacks, "worst_case"])
    claims = _columns(rows, ["defense", *_CLAIM, *tested, *test])
    tables = [
        PrintedTable(title, _narrow(accuracies)),
        PrintedTable("Gain over no defense, and what may be claimed of it", _narrow(claims)),
    ]
    if audit:
        after = _columns(rows, ["defense", *_AUDITED, *(f"audited_{name}" for name in tested), *test])
        tables.append(PrintedTable("The same after the audit", _narrow(after)))
        tables.append(PrintedTable("Audit, on the images that all attacks before left robust", audit))
    return tables


def _columns(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


def _narrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` with the names of the columns in lines no wider than a number."""
    return [{_in_lines(name): value for name, value in row.items()} for row in rows]


def _in_lines(text: str) -> str:
    return "\n".join(textwrap.wrap(text.replace("_", " "), _WIDTH, break_long_words=False))


def broken_of_attacked(cell: Row) -> str | None:
    """Return ``(12 of 40)`` for a cell that has no accuracy because the attack skipped what others had broken."""
    if not cell["skipped"] or cell["attacked"] is None:
        return None
    return f"({cell['broken']} of {cell['attacked']})"


def noise_shares(results: Results) -> dict[str, Share]:
    """Return how often noise alone makes each random defense of a run wrong on images that it gets right at first."""
    shares = {}
    for row in results.noise:
        if row["rate"] is not None:
            why = f"{row['failed_images']} of {row['n']} images"
        else:
            why = "not finished" if row["n"] is None else "no image is right"
        shares[row["defense"]] = Share(row["rate"], why=why)
    return shares
