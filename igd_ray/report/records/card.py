"""The evaluation card of a run: one Markdown file that says what was measured, how surely, and what was not."""

from collections.abc import Mapping
from importlib.metadata import version

from igd_ray.catalog import SCHEMA_VERSION
from igd_ray.protocol import CITATION, attack_order
from igd_ray.report import evaluation, sentences
from igd_ray.report.results import Results
from igd_ray.report.tables import COSTS, DASH, Column, Row, Table, pixel_fraction
from igd_ray.report.texts import grid, markdown, markdown_table


def evaluation_card(results: Results, hashes: Mapping[str, str]) -> str:
    """Return the card of a run as Markdown.

    Args:
        results: of a run of `igd evaluate`.
        hashes: SHA-256 of files that go with the card, by name.
    """
    run = results.run
    parts = [
        f"# Evaluation card: {markdown(str(run['model']))}",
        "Written from the catalog by `igd export`. Accuracies are in percent of the images; behind a worst case and an "
        f"accuracy is its 95 % Wilson interval. A {DASH} is what was not measured; (2 of 9) is an attack that broke 2 "
        "of the 9 images that others had left to it.",
        _facts(
            {
                "Model": run["model"],
                "Data": f"{run['dataset']}, {run['split']} split, {sentences.most_images(results)}",
                "Threat model": f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}, pixels in [0, 1]",
                "Evaluated": f"{run['created_at']:%Y-%m-%d %H:%M} UTC",
            }
        ),
        "## Results",
        _bullets([f"{claim.defense} {claim.sentence} ({claim.detail})." for claim in sentences.claims(results)]),
        _table(_headline(results)),
        " ".join(
            [
                "What may be claimed follows from a test at 5 % against the undefended model on the same images: "
                "McNemar's exact one, or one that is valid at every look where that is said.",
                *sentences.looking_sentences(results),
                "Several defenses in one table are several tests: the chance that one of them errs is larger than 5 %, "
                "unless the p-values after Holm's correction are taken.",
            ]
        ),
        *_audit(results),
        "## Attacks and what they spent",
        _table(_attacks(results)),
        "## Settings of the defenses",
        _table(evaluation.settings_table(results)) if results.settings else "The run has no outcomes yet.",
        *_remarks(results),
        "## Checks",
        _table(_findings(results)) if results.findings else "No check found anything.",
        "## What was not measured",
        _bullets(sentences.unmeasured(results)) or "Nothing that the protocol has was left out.",
        "## Hashes",
        _facts({**_ids(results), **{f"SHA-256 of {name}": digest for name, digest in hashes.items()}}),
        "## Software",
        _facts({"Card written by": f"igd-ray {version('igd-ray')}, catalog schema {SCHEMA_VERSION}"}),
        "The catalog does not record which versions computed the run.",
        f"Protocol: {CITATION}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    return markdown_table(grid(table)).rstrip()


def _facts(facts: Mapping[str, object]) -> str:
    return "\n".join(
        f"- **{markdown(name)}:** {markdown(DASH if value is None else str(value))}" for name, value in facts.items()
    )


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {markdown(sentence)}" for sentence in sentences)


def _headline(results: Results) -> Table:
    """Return the results without the columns of single attacks, of which a card has a table of its own."""
    table = evaluation.headline_table(results)
    attacks = {cell["attack"] for cell in results.cells}
    return Table([column for column in table.columns if column.name not in attacks], table.rows)


def _attacks(results: Results) -> Table:
    columns = [
        Column("attack", "Attack"),
        Column("defense", "Defense"),
        Column("robust", "Robust", "share"),
        *COSTS,
    ]
    rows: list[Row] = [
        {**cell, "robust": evaluation.cell_share(cell)}
        for cell in sorted(results.accuracies, key=lambda cell: attack_order(cell["attack"]))
    ]
    return Table(columns, rows)


def _audit(results: Results) -> list[str]:
    if not results.is_audited:
        return []
    return [
        "## Audit",
        _bullets(sentences.audit_sentences(results)),
        _table(evaluation.audit_table(results)),
    ]


def _remarks(results: Results) -> list[str]:
    remarks = sentences.own_notes(results)
    return ["## Remarks", _bullets(remarks)] if remarks else []


def _findings(results: Results) -> Table:
    columns = [
        Column("severity", "Severity"),
        Column("check", "Check"),
        Column("defense", "Defense"),
        Column("attack", "Attack"),
        Column("times", "Times", "count"),
        Column("message", "Finding", "prose"),
    ]
    return Table(columns, results.findings)


def _ids(results: Results) -> dict[str, object]:
    rankings = dict.fromkeys(str(row["ranking_id"]) for row in results.settings if row["ranking_id"])
    return {
        "Run, of all units of work and so of model, images, defenses, attacks, budgets and seeds": results.run_id,
        "Model, of its weights and code": results.run["model_id"],
        **({"Rankings": ", ".join(rankings)} if rankings else {}),
        "Seed": results.run["seed"],
    }
