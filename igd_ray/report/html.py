"""The report: one HTML file that needs nothing else."""

import json
from importlib.metadata import version
from pathlib import Path

import jinja2

from igd_ray.catalog import SCHEMA_VERSION, Catalog
from igd_ray.catalog.files import write_whole
from igd_ray.catalog.query import Reader, ask
from igd_ray.errors import InputError
from igd_ray.protocol import CITATION
from igd_ray.report import audit, evaluation
from igd_ray.report.figures import accuracy_bars
from igd_ray.report.preparation import pictures, rankings, search_figures, search_table
from igd_ray.report.results import Preparation, Results, Rows, find_run, read_preparation, read_results
from igd_ray.report.tables import DASH, Share, pixel_fraction


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

    def read(reader: Reader) -> tuple[Results, Preparation]:
        run = find_run(reader, run_id)
        return read_results(reader, run), read_preparation(reader, run)

    content = render(*ask(catalog, read))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    write_whole(path, content.encode())
    return path


def render(results: Results, preparation: Preparation) -> str:
    """Return the page of a run."""
    run = results.run
    headline = evaluation.headline_table(results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        run=run,
        facts=_facts(results),
        config=_pretty(run["config"]),
        headline=headline,
        skipping=any(
            isinstance(value, Share) and value.instead != DASH for row in headline.rows for value in row.values()
        ),
        bars=accuracy_bars(results.worst_cases) if results.worst_cases else None,
        grave=_grave(results.findings),
        findings=results.findings,
        is_audited=results.is_audited,
        audit=audit.audit_table(results),
        audit_sentences=audit.audit_sentences(results),
        unmeasured=evaluation.unmeasured(results),
        settings=evaluation.settings_table(results),
        costs=evaluation.cost_table(results),
        searches=search_table(preparation),
        search_figures=search_figures(preparation),
        rankings=rankings(preparation),
        pictures=pictures(preparation),
        citation=CITATION,
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    run = results.run
    facts = {
        "Model": f"{run['model']} ({run['model_id']})",
        "Data": f"{run['dataset']}, {run['split']} split, {run['n']} images",
        "Threat model": f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}",
        "Seed": run["seed"],
        "Run": f"{run['run_id']} ({run['verb']}, {run['created_at']:%Y-%m-%d %H:%M} UTC)",
        "Software": f"igd-ray {version('igd-ray')}, catalog schema {SCHEMA_VERSION}",
    }
    notes = [("Note", note) for note in evaluation.remarks(results)]
    return [*((name, str(value)) for name, value in facts.items()), *notes]


def _grave(findings: Rows) -> list[tuple[str, str]]:
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
