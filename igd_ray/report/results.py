"""A run as plain data, read once, and its accuracies as rows and printed tables: what all that is shown is made of."""

import json
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from igd_ray.catalog.query import Reader
from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import AUDIT_PREFIX, attack_order
from igd_ray.report.tables import Row, Share
from igd_ray.statistics import Comparison, holm

# With more attacks than these the accuracies and what may be claimed stand in a table each.
_MOST_COLUMNS = 4


# So narrow that the nine attacks and the worst case fit into 120 columns.
_WIDTH = 7


_CLAIM = ["worst_case", "low", "high", "gain", "claim"]


_AUDITED = ["audited", "audited_low", "audited_high", "audited_gain", "audited_claim"]


Rows = Sequence[Row]

# The undefended model first.
_ORDER = "ORDER BY defense <> 'none', defense"


@dataclass(frozen=True)
class Results:
    """What a run found. Accuracies are fractions in [0, 1]; None is what was not measured.

    Attributes:
        run: the run's row.
        worst_cases: one row for each defense, the undefended model first. In a run with an audit the worst case is that
            over all other attacks, and the `audited_…` columns are over all; without one, `audit_attacks` is None.
        accuracies: one row for each defense and attack, with how many images the attack had to attack and broke.
        compared: each finished defense against the finished undefended model, on the images of both, over all attacks.
        compared_before_audit: the same over the attacks that belong to no audit.
        broken_sets: of each defense, each set of attacks that some images did not withstand, with the number of these
            images and whether every attack on them has finished. A misclassified image withstands none.
        audit_attacks: what each attack of an audit found on each defense, in the order of the attacks.
        noise: how often noise alone makes each random defense wrong.
        waiting: of each defense, the attacks with an error and those that have not finished.
        settings: of each defense.
        findings: of the checks, each once with how often, the gravest first.
        progress: how many units the run has, and how far they are; None before any is planned.
        given_up: the units that failed or were quarantined.
    """

    run: Row
    worst_cases: Rows
    accuracies: Rows
    compared: dict[str, Comparison]
    compared_before_audit: dict[str, Comparison]
    broken_sets: Rows
    audit_attacks: Rows
    noise: Rows
    waiting: Rows
    settings: Rows
    findings: Rows
    progress: Row | None
    given_up: Rows

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.run["run_id"])

    @cached_property
    def goes_until_decided(self) -> bool:
        """Whether the run could end before its last image."""
        try:
            config = json.loads(self.run["config"] or "{}")
        except ValueError:
            return False
        return isinstance(config, dict) and config.get("until") is not None

    @cached_property
    def is_audited(self) -> bool:
        """Whether the run has an audit."""
        return any(row["audit_attacks"] is not None for row in self.worst_cases)

    @cached_property
    def cells(self) -> Rows:
        """The accuracies in the order of the attacks, without an audit's, which attack only some of the images."""
        cells = [row for row in self.accuracies if not row["attack"].startswith(AUDIT_PREFIX)]
        return sorted(cells, key=lambda cell: attack_order(cell["attack"]))

    @cached_property
    def planned(self) -> dict[str, list[str]]:
        """The attacks planned on each defense."""
        planned: dict[str, list[str]] = defaultdict(list)
        for row in sorted(self.accuracies, key=lambda row: (row["defense"], row["attack"])):
            planned[row["defense"]].append(row["attack"])
        return planned


def find_run(reader: Reader, run_id: str | None) -> dict[str, Any]:
    """Return the row of a run; for None of the latest evaluation, or of the latest run if there is none.

    Raises:
        InputError: if there is no such run.
    """
    runs = reader.rows("FROM runs ORDER BY verb = 'evaluate' DESC, created_at DESC, run_id")
    if not runs:
        raise InputError("the catalog has no run to report on; run `igd evaluate` first")
    if run_id is None:
        return runs[0]
    for run in runs:
        if run["run_id"] == run_id:
            return run
    raise InputError(f"the catalog has no run {run_id!r}{did_you_mean(run_id, [run['run_id'] for run in runs])}")


def read_results(reader: Reader, run: Row) -> Results:
    """Return what `run`, one of `find_run`, found; afterwards `reader` knows of no other run's attacks."""
    run_id = run["run_id"]
    reader.keep(run_id)
    audit_attacks = reader.rows(
        f"SELECT attack, defense, attacked, newly_broken FROM audit_attacks WHERE run_id = $1 {_ORDER}", run_id
    )
    return Results(
        run=run,
        worst_cases=reader.rows(_WORST_CASES, run_id),
        accuracies=reader.rows(
            f"""
            SELECT
                accuracy.* REPLACE (
                    if(anytime, sequence_low(clean_accuracy, n), clean_low) AS clean_low,
                    if(anytime, sequence_high(clean_accuracy, n), clean_high) AS clean_high,
                    if(anytime, sequence_low(robust_accuracy, n), low) AS low,
                    if(anytime, sequence_high(robust_accuracy, n), high) AS high
                ),
                attacked, broken
            FROM accuracy
            JOIN attacked USING (run_id, defense, attack)
            LEFT JOIN looks USING (run_id, defense)
            WHERE run_id = $1
            {_ORDER}
            """,
            run_id,
        ),
        compared=_compared(reader, "worst_case_images", run_id),
        compared_before_audit=_compared(reader, "audit_images", run_id),
        broken_sets=reader.rows(_BROKEN_SETS, run_id),
        audit_attacks=sorted(audit_attacks, key=lambda row: attack_order(row["attack"])),
        noise=reader.rows("FROM noise_failures WHERE run_id = $1", run_id),
        waiting=reader.rows(
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
        ),
        settings=reader.rows(
            f"""
            SELECT DISTINCT defense, k, sigma, tau, draws, layer, ranking_id, judge_draws
            FROM outcomes
            WHERE run_id = $1 AND status <> 'error'
            {_ORDER}
            """,
            run_id,
        ),
        findings=reader.rows(_FINDINGS, run_id),
        progress=next(iter(reader.rows("FROM progress WHERE run_id = $1", run_id)), None),
        given_up=reader.rows(
            """
            SELECT unit_key, kind, defense, attack, failures, error
            FROM unit_states
            WHERE run_id = $1 AND state IN ('failed', 'quarantined')
            ORDER BY ALL
            """,
            run_id,
        ),
    )


_WORST_CASES = f"""
WITH shares AS (
    SELECT
        worst_case.* REPLACE (
            if(audit_attacks IS NULL, worst_case.robust_accuracy, audit.robust_accuracy) AS robust_accuracy,
            if(audit_attacks IS NULL, worst_case.low, audit.low) AS low,
            if(audit_attacks IS NULL, worst_case.high, audit.high) AS high,
            if(audit_attacks IS NULL, worst_case.gain, audit.gain) AS gain
        ),
        audited_accuracy, audited_low, audited_high, audited_gain, broken_by_audit, audit_attacks, anytime
    FROM worst_case
    LEFT JOIN audit USING (run_id, defense)
    LEFT JOIN looks USING (run_id, defense)
    WHERE run_id = $1
)
SELECT
    * REPLACE (
        if(anytime, sequence_low(clean_accuracy, n), clean_low) AS clean_low,
        if(anytime, sequence_high(clean_accuracy, n), clean_high) AS clean_high,
        if(anytime, sequence_low(robust_accuracy, n), low) AS low,
        if(anytime, sequence_high(robust_accuracy, n), high) AS high,
        if(anytime, sequence_low(audited_accuracy, n), audited_low) AS audited_low,
        if(anytime, sequence_high(audited_accuracy, n), audited_high) AS audited_high
    )
FROM shares
{_ORDER}
"""

_BROKEN_SETS = f"""
WITH images AS (
    SELECT
        defense, image_id,
        list(attack ORDER BY attack) FILTER (NOT robust AND NOT skipped) AS attacks,
        bool_and(robust IS NOT NULL AND NOT error) AS known
    FROM verdicts
    WHERE run_id = $1 AND attack <> 'clean'
    GROUP BY defense, image_id
)
SELECT defense, attacks, known, count(*) AS images
FROM images
GROUP BY defense, attacks, known
{_ORDER}, attacks, known
"""

_FINDINGS = """
SELECT *
FROM (
    SELECT severity, "check", defense, attack, message, count(*) AS times
    FROM checks
    WHERE run_id = $1
    GROUP BY ALL
)
ORDER BY list_position(['error', 'warning', 'info'], severity) NULLS FIRST, "check", defense, attack, message
"""


def _compared(reader: Reader, images: str, run_id: str) -> dict[str, Comparison]:
    """Return each finished defense against the finished undefended model, by the worst case in `images`."""
    rows = reader.rows(
        f"""
        SELECT
            defended.defense,
            count(*) AS images,
            count(*) FILTER (defended.robust AND NOT base.robust) AS gained,
            count(*) FILTER (base.robust AND NOT defended.robust) AS lost,
            coalesce(any_value(anytime), false) AS anytime
        FROM {images} AS defended
        JOIN {images} AS base USING (run_id, image_id)
        LEFT JOIN looks ON looks.run_id = defended.run_id AND looks.defense = defended.defense
        WHERE defended.run_id = $1 AND base.defense = 'none' AND defended.defense <> 'none'
        GROUP BY defended.defense
        HAVING count(defended.robust) = count(*) AND count(base.robust) = count(*)
        ORDER BY defended.defense
        """,
        run_id,
    )
    found = {row.pop("defense"): Comparison(**row) for row in rows}
    if len(found) < 2:
        return found
    corrected = holm([comparison.p for comparison in found.values()])
    return {name: found[name]._replace(corrected=p) for name, p in zip(found, corrected, strict=True)}


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
