"""The tables of one run: accuracy, gain, settings, findings, and what was not measured."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from igd_ray.catalog.query import Reader
from igd_ray.protocol import NOT_MEASURED, attack_order, unplanned_attacks, unplanned_audits
from igd_ray.report.tables import DASH, Column, Row, Share, Table, percent
from igd_ray.statistics import Comparison

# Answers a SELECT with its rows; what stands behind `$1`, `$2` comes after it.
Ask = Callable[..., list[dict[str, Any]]]


def asking(reader: Reader) -> Ask:
    """Return what asks `reader`."""
    return reader.rows


def worst_cases(ask: Ask, run_id: str) -> list[dict[str, Any]]:
    """Return the worst-case rows of a run, the undefended model first.

    In a run with an audit the worst case is that over all other attacks, and the `audited_…` columns are over all;
    without one, `audit_attacks` is None.
    """
    return ask(
        """
        SELECT
            worst_case.* REPLACE (
                if(audit_attacks IS NULL, worst_case.robust_accuracy, audit.robust_accuracy) AS robust_accuracy,
                if(audit_attacks IS NULL, worst_case.low, audit.low) AS low,
                if(audit_attacks IS NULL, worst_case.high, audit.high) AS high,
                if(audit_attacks IS NULL, worst_case.gain, audit.gain) AS gain
            ),
            audited_accuracy, audited_low, audited_high, audited_gain, broken_by_audit, audit_attacks
        FROM worst_case
        LEFT JOIN audit USING (run_id, defense)
        WHERE run_id = $1
        ORDER BY defense <> 'none', defense
        """,
        run_id,
    )


def comparisons(ask: Ask, run_id: str, *, before_audit: bool = False) -> dict[str, Comparison]:
    """Return each finished defense against the finished undefended model, on the images of both.

    The worst case compared is over all attacks; with `before_audit`, for a run that has one, over those of no audit.
    """
    rows = ask(
        f"""
        SELECT
            defended.defense,
            count(*) AS images,
            count(*) FILTER (defended.robust AND NOT base.robust) AS gained,
            count(*) FILTER (base.robust AND NOT defended.robust) AS lost
        FROM {"audit_images" if before_audit else "worst_case_images"} AS defended
        JOIN {"audit_images" if before_audit else "worst_case_images"} AS base USING (run_id, image_id)
        WHERE run_id = $1 AND base.defense = 'none' AND defended.defense <> 'none'
        GROUP BY defended.defense
        HAVING count(defended.robust) = count(*) AND count(base.robust) = count(*)
        """,
        run_id,
    )
    return {row["defense"]: Comparison(row["images"], row["gained"], row["lost"]) for row in rows}


def is_audited(worst_cases: Sequence[Row]) -> bool:
    """Return whether these `worst_cases` belong to a run with an audit."""
    return any(row["audit_attacks"] is not None for row in worst_cases)


def attack_cells(ask: Ask, run_id: str) -> list[dict[str, Any]]:
    """Return the accuracy rows of a run, with how many images each attack attacked and how many of them it broke.

    They come in the order of the attacks; those of an audit, which attack a part of the images, are left out.
    """
    cells = ask(
        """
        SELECT accuracy.*, attacked, broken
        FROM accuracy
        JOIN attacked USING (run_id, defense, attack)
        WHERE run_id = $1 AND NOT is_audit(attack)
        """,
        run_id,
    )
    return sorted(cells, key=lambda cell: attack_order(cell["attack"]))


def broken_of_attacked(cell: Row) -> str | None:
    """Return ``(12 of 40)`` for a cell that has no accuracy because the attack skipped what others had broken."""
    if not cell["skipped"] or cell["attacked"] is None:
        return None
    return f"({cell['broken']} of {cell['attacked']})"


def noise_shares(ask: Ask, run_id: str) -> dict[str, Share]:
    """Return how often noise alone makes each random defense of a run wrong on images that it gets right at first."""
    shares = {}
    for row in ask("FROM noise_failures WHERE run_id = $1", run_id):
        if row["rate"] is not None:
            why = f"{row['failed_images']} of {row['n']} images"
        else:
            why = "not finished" if row["n"] is None else "no image is right"
        shares[row["defense"]] = Share(row["rate"], why=why)
    return shares


def noise_sentences(ask: Ask, run_id: str) -> list[str]:
    """Return a sentence for each random defense of a run: how often noise alone makes it wrong."""
    return [
        f"noise alone makes {defense} wrong in {percent(share.value)} of the looks at clean images ({share.why})"
        for defense, share in noise_shares(ask, run_id).items()
        if share.value is not None
    ]


def headline_table(ask: Ask, run_id: str, worst_cases: Sequence[Row]) -> Table:
    """Return one row for each of `worst_cases`: clean, each attack, worst case, gain, and what may be claimed of it."""
    shares: dict[str, dict[str, Share]] = defaultdict(dict)
    cells = attack_cells(ask, run_id)
    for cell in cells:
        instead = broken_of_attacked(cell) or DASH
        share = Share(cell["robust_accuracy"], cell["low"], cell["high"], _reason(cell), instead)
        shares[cell["defense"]][cell["attack"]] = share
    attacks = list(dict.fromkeys(cell["attack"] for cell in cells))
    noise = noise_shares(ask, run_id)
    audited = is_audited(worst_cases)
    compared = comparisons(ask, run_id, before_audit=audited)
    compared_after = comparisons(ask, run_id) if audited else {}
    rows: list[Row] = []
    for row in worst_cases:
        defense = row["defense"]
        rows.append(
            {
                **{attack: shares[defense].get(attack, Share(None, why="not planned")) for attack in attacks},
                "defense": defense,
                "n": row["n"],
                "clean_accuracy": Share(row["clean_accuracy"], row["clean_low"], row["clean_high"]),
                "noise": noise.get(defense, Share(None)),
                "worst_case": _worst_case(row["robust_accuracy"], row["low"], row["high"]),
                "gain": None if defense == "none" else row["gain"],
                "claim": _claim(defense, row["gain"], compared.get(defense)),
                "audited": _worst_case(row["audited_accuracy"], row["audited_low"], row["audited_high"]),
                "audited_gain": None if defense == "none" else row["audited_gain"],
                "audited_claim": _claim(defense, row["audited_gain"], compared_after.get(defense)),
            }
        )
    columns = [
        Column("defense", "Defense"),
        Column("n", "Images", "count"),
        Column("clean_accuracy", "Clean", "share"),
        *([Column("noise", "Fails under noise alone", "share")] if noise else []),
        *(Column(attack, attack, "share") for attack in attacks),
        Column("worst_case", "Worst case", "share"),
    ]
    if audited:
        columns += [
            Column("audited", "After the audit", "share"),
            Column("gain", "Gain, points", "points"),
            Column("audited_gain", "Gain after the audit", "points"),
            Column("claim", "What may be claimed before the audit", "prose"),
            Column("audited_claim", "What may be claimed after it", "prose"),
        ]
    else:
        columns += [Column("gain", "Gain, points", "points"), Column("claim", "What may be claimed", "prose")]
    return Table(columns, rows)


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


def _claim(defense: str, gain: float | None, comparison: Comparison | None) -> str:
    if defense == "none":
        return "the undefended model"
    if comparison is not None:
        return comparison.wording
    return "not finished, or nothing to compare with" if gain is None else "no images in common"


def settings_table(ask: Ask, run_id: str) -> Table:
    """Return the setting of each defense that the run's outcomes record."""
    rows = ask(
        """
        SELECT DISTINCT defense, k, sigma, tau, draws, layer, ranking_id, judge_draws
        FROM outcomes
        WHERE run_id = $1 AND status <> 'error'
        ORDER BY defense <> 'none', defense
        """,
        run_id,
    )
    columns = [
        Column("defense", "Defense"),
        Column("layer", "Layer"),
        Column("k", "k", "number"),
        Column("sigma", "σ", "pixels"),
        Column("tau", "τ", "number"),
        Column("draws", "Draws", "number"),
        Column("judge_draws", "Judge draws", "number"),
        Column("ranking_id", "Ranking"),
    ]
    return Table(columns, rows)


def cost_table(ask: Ask, run_id: str) -> Table:
    """Return what each attack on each defense cost."""
    rows = ask(
        """
        SELECT defense, attack, n, forwards, backwards, queries, seconds
        FROM accuracy
        WHERE run_id = $1
        ORDER BY defense <> 'none', defense
        """,
        run_id,
    )
    columns = [
        Column("defense", "Defense"),
        Column("attack", "Attack"),
        Column("n", "Images", "count"),
        Column("forwards", "Forward passes", "count"),
        Column("backwards", "Backward passes", "count"),
        Column("queries", "Queries", "count"),
        Column("seconds", "Seconds", "number"),
    ]
    return Table(
        columns, sorted(rows, key=lambda row: (row["defense"] != "none", row["defense"], attack_order(row["attack"])))
    )


def findings(ask: Ask, run_id: str) -> list[dict[str, Any]]:
    """Return what the checks of a run found, each finding once with how often, the gravest first."""
    return ask(
        """
        SELECT *
        FROM (
            SELECT severity, "check", defense, attack, message, count(*) AS times
            FROM checks
            WHERE run_id = $1
            GROUP BY ALL
        )
        ORDER BY list_position(['error', 'warning', 'info'], severity) NULLS FIRST, "check", defense, attack, message
        """,
        run_id,
    )


def unmeasured(ask: Ask, run_id: str, notes: Sequence[str]) -> list[str]:
    """Return a sentence for everything that a reader could take for measured and that is not.

    Of a run's `notes` those count that begin with `NOT_MEASURED`.
    """
    planned: dict[str, list[str]] = defaultdict(list)
    for row in ask("SELECT DISTINCT defense, attack FROM planned WHERE run_id = $1 ORDER BY ALL", run_id):
        planned[row["defense"]].append(row["attack"])
    gaps = [note.removeprefix(NOT_MEASURED) for note in notes if note.startswith(NOT_MEASURED)]
    everywhere = [attack for attacks in planned.values() for attack in attacks]
    sentences = [*gaps, *unplanned_attacks(planned), *unplanned_audits(everywhere, gaps)]
    for row in ask("FROM progress WHERE run_id = $1", run_id):
        waiting = row["planned"] - row["done"] - row["failed"] - row["quarantined"]
        if waiting:
            sentences.append(
                f"{waiting} of {row['planned']} units have not finished; running the same command resumes."
            )
    for row in ask(
        """
        SELECT unit_key, kind, defense, attack, failures, error
        FROM unit_states
        WHERE run_id = $1 AND state IN ('failed', 'quarantined')
        ORDER BY ALL
        """,
        run_id,
    ):
        what = " / ".join(part for part in (row["defense"], row["attack"]) if part) or row["kind"]
        sentences.append(f"Unit {row['unit_key']} ({what}) failed, attempts: {row['failures']}; {row['error']}")
    return sentences
