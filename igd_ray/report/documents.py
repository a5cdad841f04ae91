"""A run's report as Markdown, as LaTeX tables and as JSON: the same numbers as on its page."""

import json
from collections.abc import Iterable

from igd_ray.report import broken, evaluation, sentences
from igd_ray.report.broken import Broken
from igd_ray.report.results import Results, accuracy_rows
from igd_ray.report.tables import Table, pixel_fraction, signed
from igd_ray.report.texts import grid, latex, latex_table, markdown, markdown_table


def as_markdown(results: Results, what_broke: Broken) -> str:
    """Return the claims, tables, warnings and gaps of a run as Markdown."""
    parts = [
        f"# {markdown(_title(results))}\n",
        f"{markdown(_facts(results))}\n",
        f"{markdown(sentences.baseline(results))}\n",
    ]
    parts.append(
        _list(f"{signed(c.verdict)}: {c.defense} {c.sentence} ({c.detail})" for c in sentences.claims(results))
    )
    parts += [f"## {markdown(title)}\n\n{markdown_table(grid(table))}" for title, table in _tables(results, what_broke)]
    parts.append(_list(sentences.fall_sentences(results)))
    if results.is_audited:
        parts.append(_list(sentences.audit_sentences(results)))
    parts.append("## Checks that warn\n\n" + (_list(sentences.warnings(results)) or "None.\n"))
    parts.append("## What was not measured\n\n" + (_list(sentences.unmeasured(results)) or "Nothing is missing.\n"))
    return "\n".join(part for part in parts if part)


def as_latex(results: Results, what_broke: Broken) -> str:
    """Return the tables of a run for LaTeX with the package booktabs, each below a comment that says what it is."""
    head = f"% {_one_line(_title(results))}; {_one_line(_facts(results))}\n% \\usepackage{{booktabs}}\n"
    tables = [f"% {_one_line(title)}\n{latex_table(grid(table))}" for title, table in _tables(results, what_broke)]
    said = [latex(f"{claim.defense} {claim.sentence} ({claim.detail}).") + "\n" for claim in sentences.claims(results)]
    return "\n".join([head, *tables, "% What may be claimed\n" + "\n".join(said)])


def as_json(results: Results, what_broke: Broken) -> str:
    """Return what was found as JSON: accuracies are fractions, null is what was not measured."""
    found = {
        "run": results.run,
        "claims": [claim._asdict() for claim in sentences.claims(results)],
        "accuracies": accuracy_rows(results),
        "falls": sentences.fall_sentences(results),
        "audit": sentences.audit_sentences(results) if results.is_audited else [],
        "broken_by": what_broke.sets,
        "broken_by_one": what_broke.attacks,
        "decisive_images": what_broke.decisive,
        "attack_costs": what_broke.costs,
        "checks": results.findings,
        "not_measured": sentences.unmeasured(results),
    }
    return json.dumps(found, default=str, indent=2, ensure_ascii=False) + "\n"


# By the name of the format.
DOCUMENTS = {"md": as_markdown, "tex": as_latex, "json": as_json}


def _tables(results: Results, what_broke: Broken) -> list[tuple[str, Table]]:
    tables = [
        ("Accuracy", evaluation.headline_table(results)),
        *([("Audit", evaluation.audit_table(results))] if results.is_audited else []),
        ("Images that decide", broken.decisive_table(what_broke)),
        ("Images that one attack alone breaks", broken.sole_breaker_table(what_broke)),
        ("Cost of each attack", broken.attack_cost_table(what_broke)),
        ("Settings of the defenses", evaluation.settings_table(results)),
    ]
    return [(title, table) for title, table in tables if table.rows]


def _title(results: Results) -> str:
    return f"{results.run['model']} on {results.run['dataset']}"


def _facts(results: Results) -> str:
    run = results.run
    return f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}, {sentences.most_images(results)}, run {run['run_id']}"


def _list(sentences: Iterable[str]) -> str:
    return "".join(f"- {markdown(sentence)}\n" for sentence in sentences)


def _one_line(text: str) -> str:
    return " ".join(text.split())
