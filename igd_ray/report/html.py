"""The report: one HTML file that needs nothing else."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from igd_ray.catalog import SCHEMA_VERSION, Catalog
from igd_ray.catalog.files import write_whole
from igd_ray.catalog.query import ask
from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import CITATION, IDEA, NOT_MEASURED
from igd_ray.report import audit, evaluation, preparation
from igd_ray.report.evaluation import Ask
from igd_ray.report.figures import accuracy_bars, picture
from igd_ray.report.tables import DASH, Share, pixel_fraction

# Enough to see what the perturbations look like.
_PICTURES = 12


def write_report(catalog: Catalog, run_id: str | None, path: str | Path) -> Path:
    """Write the report of a run to `path` and return it.

    Args:
        catalog: where everything in the report comes from.
        run_id: the run; None for the latest evaluation, or the latest run if there is none.
        path: the file, whole or absent whatever happens.

    Raises:
        InputError: if there is no such run, or the catalog cannot be read.
        IgdError: if the file cannot be written.
    """
    path = Path(path)
    content = ask(catalog, lambda connection: _render(evaluation.asking(connection), run_id))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    write_whole(path, content.encode())
    return path


def _render(ask: Ask, run_id: str | None) -> str:
    run = _run(ask, run_id)
    worst_cases = evaluation.worst_cases(ask, run["run_id"])
    findings = evaluation.findings(ask, run["run_id"])
    headline = evaluation.headline_table(ask, run["run_id"], worst_cases)
    searches = preparation.search_table(ask, run["model_id"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        run=run,
        facts=_facts(run),
        config=_pretty(run["config"]),
        headline=headline,
        skipping=any(
            isinstance(value, Share) and value.instead != DASH for row in headline.rows for value in row.values()
        ),
        bars=accuracy_bars(worst_cases) if worst_cases else None,
        grave=_grave(findings),
        findings=findings,
        is_audited=evaluation.is_audited(worst_cases),
        audit=audit.audit_table(ask, run["run_id"], run["notes"] or []),
        audit_sentences=audit.audit_sentences(ask, run["run_id"]),
        unmeasured=evaluation.unmeasured(ask, run["run_id"], run["notes"] or []),
        settings=evaluation.settings_table(ask, run["run_id"]),
        costs=evaluation.cost_table(ask, run["run_id"]),
        searches=searches,
        search_figures=preparation.search_figures(ask, searches),
        rankings=preparation.rankings(ask, run["model_id"]),
        pictures=_pictures(ask, run["run_id"]),
        citation=CITATION,
    )


def _run(ask: Ask, run_id: str | None) -> dict[str, Any]:
    runs = ask("FROM runs ORDER BY verb = 'evaluate' DESC, created_at DESC, run_id")
    if not runs:
        raise InputError("the catalog has no run to report on; run `igd evaluate` first")
    if run_id is None:
        return runs[0]
    for run in runs:
        if run["run_id"] == run_id:
            return run
    known = [run["run_id"] for run in runs]
    raise InputError(f"the catalog has no run {run_id!r}{did_you_mean(run_id, known)}")


def _facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    facts = {
        "Model": f"{run['model']} ({run['model_id']})",
        "Data": f"{run['dataset']}, {run['split']} split, {run['n']} images",
        "Threat model": f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}",
        "Seed": run["seed"],
        "Run": f"{run['run_id']} ({run['verb']}, {run['created_at']:%Y-%m-%d %H:%M} UTC)",
        "Software": f"igd-ray {version('igd-ray')}, catalog schema {SCHEMA_VERSION}",
    }
    notes = [("Note", note) for note in run["notes"] or [] if not note.startswith((NOT_MEASURED, IDEA))]
    return [*((name, str(value)) for name, value in facts.items()), *notes]


def _grave(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the severities that a reader of the headline must know of, each with how many findings it has."""
    badges = []
    for severity in ("error", "warning"):
        count = sum(finding["severity"] == severity for finding in findings)
        if count:
            badges.append((severity, f"{count} {severity}" if count == 1 else f"{count} {severity}s"))
    return badges


def _pretty(config: str | None) -> str:
    try:
        return json.dumps(json.loads(config or "{}"), indent=2, ensure_ascii=False)
    except ValueError:
        return config or ""


def _pictures(ask: Ask, run_id: str) -> list[dict[str, str]]:
    """Return some adversarial points that broke a defense, as far as the catalog holds them."""
    rows = ask(
        """
        SELECT outcomes.defense, outcomes.attack, outcomes.image_id, outcomes.label,
            outcomes.adversarial_prediction AS prediction, points.shape, points.pixels
        FROM outcomes
        JOIN adversarials AS points USING (unit_key, image_id)
        WHERE outcomes.run_id = $1 AND outcomes.status = 'broken' AND points.point = 'returned'
            AND len(points.shape) = 3 AND points.shape[1] IN (1, 3) AND list_min(points.shape) > 0
            AND list_product(points.shape) = len(points.pixels)
        QUALIFY row_number() OVER (PARTITION BY outcomes.image_id ORDER BY outcomes.defense, outcomes.attack) = 1
        ORDER BY outcomes.image_id
        LIMIT $2
        """,
        run_id,
        _PICTURES,
    )
    return [
        {
            "source": picture(row["shape"], row["pixels"]),
            "caption": f"{row['label']} → {row['prediction']}",
            "detail": f"{row['attack']} on {row['defense']}, image {row['image_id']}",
        }
        for row in rows
    ]
