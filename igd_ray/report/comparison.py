"""Several runs beside each other, of one catalog or of several."""

import json
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from igd_ray.catalog import Catalog, ask
from igd_ray.catalog.query import Reader
from igd_ray.protocol import attack_order
from igd_ray.report.evaluation import headline_table
from igd_ray.report.results import Results, accuracy_rows, find_run, read_results
from igd_ray.report.sentences import worst_accuracy
from igd_ray.report.tables import Column, Row, Share, Table, Verdict, pixel_fraction
from igd_ray.report.texts import grid, latex_table, markdown, markdown_table
from igd_ray.statistics import Comparison


class ComparedRun(NamedTuple):
    """A run among others.

    Attributes:
        label: how it is named, unlike all others.
        results: what it found.
        robust: of each defense whose worst case is known on all images, for each image whether it is robust there.
    """

    label: str
    results: Results
    robust: dict[str, dict[str, bool]]


def read_runs(places: Sequence[tuple[str, Catalog, str | None]]) -> list[ComparedRun]:
    """Return several runs.

    Args:
        places: of each run its label, its catalog, and its id; None for the latest evaluation.

    Raises:
        InputError: if there is no such run, or a catalog cannot be read.
    """

    def read(label: str, run_id: str | None, reader: Reader) -> ComparedRun:
        results = read_results(reader, find_run(reader, run_id))
        rows = reader.rows(_VERDICTS, results.run_id)
        robust = {row["defense"]: dict(zip(row["image_ids"], row["robust"], strict=True)) for row in rows}
        return ComparedRun(label, results, robust)

    return [ask(catalog, partial(read, label, run_id)) for label, catalog, run_id in places]


_VERDICTS = """
SELECT defense, list(image_id ORDER BY image_id) AS image_ids, list(robust ORDER BY image_id) AS robust
FROM worst_case_images
WHERE run_id = $1
GROUP BY defense
HAVING count(robust) = count(*)
"""


def runs_table(runs: Sequence[ComparedRun]) -> Table:
    """Return a row for each run and defense: worst case, gain and claim, as each run's own report has them."""
    rows: list[Row] = []
    for run in runs:
        for row in headline_table(run.results).rows:
            about = {"run": run.label, "model": run.results.run["model"], "epsilon": run.results.run["epsilon"]}
            shown = {name: row[f"audited{after}"] for name, after in _AUDITED} if run.results.is_audited else {}
            rows.append({**row, **about, **shown, "attacks": len(run.results.planned[row["defense"]])})
    columns = [
        Column("run", "Run"),
        Column("defense", "Defense"),
        Column("worst_case", "Worst case", "share"),
        Column("gain", "Gain, points", "points"),
        Column("claim", "Claim", "verdict"),
        Column("clean_accuracy", "Clean", "share"),
        Column("n", "Images", "count"),
        Column("attacks", "Attacks", "count"),
        Column("model", "Model"),
        Column("epsilon", "ε", "pixels"),
    ]
    return Table(columns, rows)


# What stands for each column after an audit.
_AUDITED = (("worst_case", ""), ("gain", "_gain"), ("claim", "_claim"))


def differences_table(runs: Sequence[ComparedRun]) -> Table:
    """Return each defense of the later runs against the same defense of the first, on the images of both."""
    first, rows = runs[0], []
    for run in runs[1:]:
        for row in run.results.worst_cases:
            if any(each["defense"] == row["defense"] for each in first.results.worst_cases):
                rows.append({"run": run.label, "defense": row["defense"], **_difference(first, run, row["defense"])})
    columns = [
        Column("run", "Run"),
        Column("defense", "Defense"),
        Column("difference", "Points over the first run", "points"),
        Column("claim", "Claim", "verdict"),
        Column("before", "First run", "share"),
        Column("after", "This run", "share"),
        Column("images", "Images of both", "count"),
    ]
    return Table(columns, rows)


def _difference(first: ComparedRun, run: ComparedRun, defense: str) -> Row:
    unknown = {"difference": None, "before": Share(None), "after": Share(None), "images": None}
    if defense not in first.robust or defense not in run.robust:
        return {**unknown, "claim": Verdict("–", "not finished")}
    before, after = first.robust[defense], run.robust[defense]
    common = before.keys() & after.keys()
    if not common:
        return {**unknown, "claim": Verdict("–", "no images in common"), "images": 0}
    gained = sum(after[image] and not before[image] for image in common)
    lost = sum(before[image] and not after[image] for image in common)
    compared = Comparison(len(common), gained, lost)
    return {
        "difference": (gained - lost) / len(common),
        "before": Share(sum(before[image] for image in common) / len(common)),
        "after": Share(sum(after[image] for image in common) / len(common)),
        "images": len(common),
        "claim": Verdict(compared.verdict, compared.counts),
    }


def unlike(runs: Sequence[ComparedRun]) -> list[str]:
    """Return a sentence for each way in which a later run is not like the first: other numbers may come from that."""
    first = runs[0]
    return [
        f"{run.label} differs from {first.label}: {what} {other}, not {one}."
        for run in runs[1:]
        for (what, one), (_, other) in zip(_protocol(first.results), _protocol(run.results), strict=True)
        if one != other
    ]


def _protocol(results: Results) -> list[tuple[str, str]]:
    run = results.run
    attacks = {attack for planned in results.planned.values() for attack in planned}
    return [
        ("model", f"{run['model']} ({run['model_id']})"),
        ("data", f"{run['dataset']}, {run['split']}"),
        ("threat model", f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}"),
        ("attacks", ", ".join(sorted(attacks, key=attack_order))),
    ]


def as_markdown(runs: Sequence[ComparedRun]) -> str:
    """Return the comparison as Markdown."""
    parts = [f"# {len(runs)} runs compared\n", markdown_table(grid(runs_table(runs)))]
    if differences_table(runs).rows:
        parts += [f"## Against {markdown(runs[0].label)}\n", markdown_table(grid(differences_table(runs)))]
    return "\n".join([*parts, "".join(f"- {markdown(sentence)}\n" for sentence in unlike(runs))])


def as_latex(runs: Sequence[ComparedRun]) -> str:
    """Return the tables of the comparison for LaTeX with the package booktabs."""
    tables = [runs_table(runs), differences_table(runs)]
    return "% \\usepackage{booktabs}\n\n" + "\n".join(latex_table(grid(table)) for table in tables if table.rows)


def as_json(runs: Sequence[ComparedRun]) -> str:
    """Return the comparison as JSON: accuracies and differences are fractions, null is what was not measured."""
    differences = [
        {
            **row,
            "before": row["before"].value,
            "after": row["after"].value,
            "claim": row["claim"].claim,
            "why": row["claim"].why,
        }
        for row in differences_table(runs).rows
    ]
    found = {
        "runs": [
            {
                "label": run.label,
                "run": run.results.run,
                "worst_cases": {row["defense"]: worst_accuracy(row) for row in run.results.worst_cases},
                "accuracies": accuracy_rows(run.results),
            }
            for run in runs
        ],
        "differences": differences,
        "unlike": unlike(runs),
    }
    return json.dumps(found, default=str, indent=2, ensure_ascii=False) + "\n"


# By the name of the format.
DOCUMENTS = {"md": as_markdown, "tex": as_latex, "json": as_json}
