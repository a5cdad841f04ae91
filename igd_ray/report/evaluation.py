"""The tables of one run: accuracy, gain, settings, findings, and what was not measured."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from igd_ray.report.protocol import attack_order, unplanned_attacks
from igd_ray.report.tables import Column, Row, Share, Table
from igd_ray.statistics import Comparison

# Answers a SELECT with its rows; what stands behind `$1`, `$2` comes after it.
Ask = Callable[..., list[dict[str, Any]]]

# How a run's note begins that tells of a gap rather than of the protocol.
NOT_MEASURED = "not measured: "


def asking(connection: duckdb.DuckDBPyConnection) -> Ask:
    """Return what asks `connection`, one made by `igd_ray.catalog.connect`."""

    def ask(sql: str, *parameters: object) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
        return rows

    return ask


def worst_cases(ask: Ask, run_id: str) -> list[dict[str, Any]]:
    """Return the worst-case rows of a run, the undefended model first."""
    return ask("FROM worst_case WHERE run_id = $1 ORDER BY defense <> 'none', defense", run_id)


def comparisons(ask: Ask, run_id: str) -> dict[str, Comparison]:
    """Return each finished defense against the finished undefended model, on the images of both."""
    rows = ask(
        """
        SELECT
            defended.defense,
            count(*) AS images,
            count(*) FILTER (defended.robust AND NOT base.robust) AS gained,
            count(*) FILTER (base.robust AND NOT defended.robust) AS lost
        FROM worst_case_images AS defended
        JOIN worst_case_images AS base USING (run_id, image_id)
        WHERE run_id = $1 AND base.defense = 'none' AND defended.defense <> 'none'
        GROUP BY defended.defense
        HAVING count(defended.robust) = count(*) AND count(base.robust) = count(*)
        """,
        run_id,
    )
    return {row["defense"]: Comparison(row["images"], row["gained"], row["lost"]) for row in rows}


def headline_table(ask: Ask, run_id: str, worst_cases: Sequence[Row]) -> Table:
    """Return one row for each of `worst_cases`: clean, each attack, worst case, gain, and what may be claimed of it."""
    shares: dict[str, dict[str, Share]] = defaultdict(dict)
    for cell in ask("FROM accuracy WHERE run_id = $1", run_id):
        share = Share(cell["robust_accuracy"], cell["low"], cell["high"], _reason(cell))
        shares[cell["defense"]][cell["attack"]] = share
    attacks = sorted({attack for cells in shares.values() for attack in cells}, key=attack_order)
    compared = comparisons(ask, run_id)
    rows: list[Row] = []
    for row in worst_cases:
        defense = row["defense"]
        why = "not finished" if row["robust_accuracy"] is None else ""
        rows.append(
            {
                **{attack: shares[defense].get(attack, Share(None, why="not planned")) for attack in attacks},
                "defense": defense,
                "n": row["n"],
                "clean_accuracy": row["clean_accuracy"],
                "worst_case": Share(row["robust_accuracy"], row["low"], row["high"], why),
                "gain": None if defense == "none" else row["gain"],
                "claim": _claim(defense, row["gain"], compared.get(defense)),
            }
        )
    columns = [
        Column("defense", "Defense"),
        Column("n", "Images", "count"),
        Column("clean_accuracy", "Clean", "percent"),
        *(Column(attack, attack, "share") for attack in attacks),
        Column("worst_case", "Worst case", "share"),
        Column("gain", "Gain, points", "points"),
        Column("claim", "What may be claimed", "prose"),
    ]
    return Table(columns, rows)


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
    sentences = [*gaps, *unplanned_attacks(planned)]
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
