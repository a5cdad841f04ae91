"""The report of a run: one HTML file that needs nothing else, or its numbers as Markdown, LaTeX or JSON."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import jinja2
from markupsafe import Markup

from igd_ray.catalog import SCHEMA_VERSION, Catalog
from igd_ray.catalog.places import write_file
from igd_ray.catalog.query import Reader, ask
from igd_ray.errors import InputError
from igd_ray.protocol import CITATION, NONE
from igd_ray.report import broken, comparison, evaluation, sentences
from igd_ray.report.broken import Broken, read_broken
from igd_ray.report.documents import DOCUMENTS
from igd_ray.report.figures.overlap import MOST_SETS, overlap
from igd_ray.report.figures.robustness import robustness
from igd_ray.report.preparation.gallery import Best, Pictures, Pixels, best_neurons, pictures
from igd_ray.report.preparation.neurons import neurons
from igd_ray.report.preparation.rankings import rankings
from igd_ray.report.preparation.searches import search_figures, search_table
from igd_ray.report.preparation.stored import MOST_FIGURES, Preparation, read_preparation
from igd_ray.report.results import Results, Rows, find_run, read_results
from igd_ray.report.tables import DASH, Row, Share, pixel_fraction, signed

# Finds images of a run by their ids.
CleanImages = Callable[[Row, Sequence[str]], Mapping[str, Pixels]]

Form = Literal["html", "md", "tex", "json"]

# Titles and addresses of other pages.
Navigation = Sequence[tuple[str, str]]

# Where the templates are.
HERE = Path(__file__).parent


def write_report(
    catalog: Catalog,
    run_id: str | None,
    path: str | Path,
    *,
    form: Form = "html",
    clean_images: CleanImages | None = None,
) -> Path:
    """Write the report of a run to `path` and return it.

    Args:
        catalog: where everything in the report comes from.
        run_id: the run; None for the latest evaluation, or the latest run if there is none.
        path: the file to write; a failure leaves no partial file.
        form: a page, Markdown, tables for LaTeX, or JSON.
        clean_images: finds images of the run by their ids, each [C, H, W] in [0, 1]; an `InputError` of it is said on
            the page. Without it the page shows adversarial points alone.

    Raises:
        InputError: if there is no such run, or the catalog cannot be read.
        IgdError: if the file cannot be written.
    """

    def read(reader: Reader) -> str:
        if form == "html":
            return report_page(reader, run_id, clean_images)
        run = find_run(reader, run_id)
        return DOCUMENTS[form](read_results(reader, run), read_broken(reader, run["run_id"]))

    return write_file(Path(path), ask(catalog, read).encode())


def report_page(
    reader: Reader, run_id: str | None, clean_images: CleanImages | None = None, navigation: Navigation = ()
) -> str:
    """Return the page of a run; the arguments are those of `write_report`, and of `page`.

    Raises:
        InputError: if there is no such run.
    """
    run = find_run(reader, run_id)
    results, what_broke = read_results(reader, run), read_broken(reader, run["run_id"])
    return render(results, what_broke, read_preparation(reader, run), clean_images, navigation)


def write_comparison(
    places: Sequence[tuple[str, Catalog, str | None]], path: str | Path, *, form: Form = "html"
) -> Path:
    """Write several runs beside each other to `path` and return it.

    Args:
        places: of each run its label, its catalog, and its id; None for the latest evaluation.
        path, form: as in `write_report`.

    Raises:
        InputError: if there is no such run, or a catalog cannot be read.
        IgdError: if the file cannot be written.
    """
    runs = comparison.read_runs(places)
    text = comparison_page(runs) if form == "html" else comparison.DOCUMENTS[form](runs)
    return write_file(Path(path), text.encode())


def comparison_page(runs: Sequence[comparison.ComparedRun], navigation: Navigation = ()) -> str:
    """Return the page that sets `runs` beside each other; `navigation` is as in `page`."""
    return page(
        "comparison.html",
        navigation=navigation,
        title=f"{len(runs)} runs compared",
        first=runs[0].label,
        runs=comparison.runs_table(runs),
        differences=comparison.differences_table(runs),
        unlike=comparison.unlike(runs),
    )


def render(
    results: Results,
    what_broke: Broken,
    preparation: Preparation,
    clean_images: CleanImages | None = None,
    navigation: Navigation = (),
) -> str:
    """Return the page of a run; the arguments are those of `write_report`, and of `page`."""
    run = results.run
    clean, why_not = found_clean(run, [row["image_id"] for row in preparation.points], clean_images)
    headline = evaluation.headline_table(results)
    return page(
        "run.html",
        navigation=navigation,
        title=f"{run['model']} on {run['dataset']}",
        run=run,
        threat=f"{_threat(run)}, {sentences.most_images(results)}",
        facts=_facts(results),
        config=_pretty(run["config"]),
        headline=headline,
        falls=sentences.fall_sentences(results),
        looking=sentences.looking_sentences(results),
        skipping=any(
            isinstance(value, Share) and value.instead != DASH for row in headline.rows for value in row.values()
        ),
        signed=signed,
        baseline=sentences.baseline(results),
        claims=sentences.claims(results),
        robustness=_robustness(results),
        overlaps=_overlaps(what_broke),
        decisive=broken.decisive_table(what_broke),
        sole_breaker_sentence=broken.sole_breaker_sentence(what_broke),
        sole_breakers=broken.sole_breaker_table(what_broke),
        attack_costs=broken.attack_cost_table(what_broke),
        badges=_badges(results.findings),
        grave=evaluation.finding_groups(results, grave=True),
        infos=evaluation.finding_groups(results, grave=False),
        is_audited=results.is_audited,
        audit=evaluation.audit_table(results),
        audit_sentences=sentences.audit_sentences(results),
        unmeasured=sentences.unmeasured(results),
        settings=evaluation.settings_table(results),
        costs=evaluation.cost_table(results),
        searches=search_table(preparation),
        search_figures=search_figures(preparation),
        rankings=rankings(preparation),
        neurons=neurons(preparation),
        galleries=_galleries(pictures(preparation.points, preparation.class_names, clean, _best(preparation))),
        why_no_clean_images=why_not,
    )


def _best(preparation: Preparation) -> Best:
    return best_neurons([row for rows in preparation.neurons.values() for row in rows])


def page(template: str, *, folder: Path = HERE, navigation: Navigation = (), **values: object) -> str:
    """Return the page that `template` makes of `values`, with the one script that may run on it.

    Args:
        template: the name of a file.
        folder: where it is, if not beside this one.
        navigation: titles and addresses of other pages, above everything else.
        values: what the template shows.
    """
    script = _script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        script=Markup(script), policy=content_policy(), navigation=navigation, citation=CITATION, **values
    )


def content_policy() -> str:
    """Return the Content-Security-Policy of every page: it loads nothing, and runs one script."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"


def _script() -> str:
    return (HERE / "sorting.js").read_text(encoding="utf-8")


def _robustness(results: Results) -> Markup | None:
    rows, panels = evaluation.robustness_panels(results)
    if not panels:
        return None
    base = next((sentences.worst_accuracy(row) for row in results.worst_cases if row["defense"] == NONE), None)
    return robustness(rows, panels, worst=2 if results.is_audited else 1, baseline=base)


def _overlaps(what_broke: Broken) -> list[tuple[str, str, Markup]]:
    """Return, for each of the first defenses of which an image was broken, its figure and what it leaves out."""
    figures = []
    for defense, sets in list(broken.sets_of(what_broke).items())[:MOST_FIGURES]:
        facts = f"{sum(row['images'] for row in sets)} images broken"
        if len(sets) > MOST_SETS:
            facts += f"; the {MOST_SETS} largest of {len(sets)} sets of attacks are shown"
        figures.append((defense, facts, overlap(defense, broken.attacks_on(what_broke, defense), sets)))
    return figures


def found_clean(
    run: Row, image_ids: Sequence[str], clean_images: CleanImages | None
) -> tuple[Mapping[str, Pixels], str]:
    """Return those clean images of a run's stored points that are here, and why some of them are absent."""
    if not image_ids or clean_images is None:
        return {}, "their pixels are not in the catalog" if image_ids else ""
    try:
        found = clean_images(run, image_ids)
    except InputError as error:
        return {}, str(error)
    return found, "" if len(found) == len(image_ids) else "some are not among the first images of the data"


def _galleries(shown: Sequence[Pictures]) -> list[tuple[str, list[Pictures]]]:
    groups = [("Broken", True), ("Robust, though attacked", False)]
    galleries = [(title, [each for each in shown if each.broken == broken]) for title, broken in groups]
    return [(title, some) for title, some in galleries if some]


def _facts(results: Results) -> list[tuple[str, str]]:
    run = results.run
    facts = {
        "Model": f"{run['model']} ({run['model_id']})",
        "Data": f"{run['dataset']}, {run['split']} split, {sentences.most_images(results)}",
        "Threat model": _threat(run),
        "Seed": run["seed"],
        "Run": f"{run['run_id']} ({run['verb']}, {run['created_at']:%Y-%m-%d %H:%M} UTC)",
        "Software": f"igd-ray {version('igd-ray')}, catalog schema {SCHEMA_VERSION}",
    }
    notes = [("Note", note) for note in sentences.own_notes(results)]
    return [*((name, str(value)) for name, value in facts.items()), *notes]


def _threat(run: Row) -> str:
    return f"{run['norm']}, ε = {pixel_fraction(run['epsilon'])}"


def _badges(findings: Rows) -> list[tuple[str, str]]:
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
