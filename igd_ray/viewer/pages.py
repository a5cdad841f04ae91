"""What is shown of a catalog: each page is a function of the catalog and of what its address asks for."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from igd_ray.arrow import Answer
from igd_ray.catalog import Catalog, named_queries, named_query
from igd_ray.catalog.query import Reader, answer_to
from igd_ray.errors import IgdError, InputError
from igd_ray.report import comparison
from igd_ray.report.html import CleanImages, comparison_page, found_clean, page, report_page
from igd_ray.report.preparation.gallery import pictures
from igd_ray.report.preparation.stored import read_class_names
from igd_ray.report.records.images import CHANNELS, Kept, kept_points, read_some_points
from igd_ray.report.results import Rows, find_run
from igd_ray.report.tables import DASH, Row, percent, pixel_fraction, shown
from igd_ray.viewer.questions import Found, Questions

# What fits on a page: runs, rows of an answer, characters of one of its values, and pictures.
MOST_RUNS, MOST_ROWS, MOST_CHARACTERS, MOST_PICTURES = 500, 1000, 300, 24

HERE = Path(__file__).parent

# Matplotlib draws one figure at a time.
_drawing = threading.Lock()

# The values of each name in an address.
Asked = Mapping[str, Sequence[str]]


class Site(NamedTuple):
    """What is shown.

    Attributes:
        catalog: whose runs.
        clean_images: finds images of a run, as in `write_report`; None shows stored points alone.
        questions: what is asked for one page.
    """

    catalog: Catalog
    clean_images: CleanImages | None = None
    questions: Questions = Questions()

    def ask(self, question: Callable[[Reader], Found]) -> Found:
        """Return what `question` finds over the catalog."""
        return self.questions.ask(self.catalog, question)


def runs_page(site: Site, asked: Asked) -> str:
    """Return the list of runs, the newest first; `q` has words that all stand in what a row says.

    Two or more runs that are chosen there are compared.
    """
    words = _first(asked, "q")
    runs = [_listed(row) for row in site.ask(lambda reader: reader.rows(_RUNS))]
    found = [run for run in runs if all(word in " ".join(run.texts).lower() for word in words.lower().split())]
    return _page(
        "runs.html",
        "Runs",
        catalog=str(site.catalog),
        words=words,
        all_runs=len(runs),
        found=len(found),
        runs=found[:MOST_RUNS],
    )


def run_page(site: Site, asked: Asked) -> str:
    """Return the report of the run `id`."""
    run_id = _first(asked, "id")
    if not run_id:
        raise InputError("no run is named; choose one from the list")
    links = [*NAVIGATION, ("Images of this run", f"images?{urlencode({'id': run_id})}")]
    with _drawing:
        return site.ask(lambda reader: report_page(reader, run_id, site.clean_images, links))


def comparison_of_runs(site: Site, asked: Asked) -> str:
    """Return the runs that are named by `run`, twice or more, beside each other."""
    run_ids = list(dict.fromkeys(asked.get("run", ())))
    if len(run_ids) < 2:
        raise InputError("two runs or more are compared; choose them in the list")
    return comparison_page(comparison.read_runs([(run_id, site.catalog, run_id) for run_id in run_ids]), NAVIGATION)


def images_page(site: Site, asked: Asked) -> str:
    """Return pictures of the points that the run `id` kept of an attack on a defense, from the number `first` on.

    `of` says of which: a number in the list of what there is. `status` is that of the images: broken, robust or any.
    """
    run_id, status = _first(asked, "id"), _first(asked, "status")
    chosen, first = _number(asked, "of"), _number(asked, "first")

    def read(reader: Reader) -> tuple[Row, list[Kept], Rows, dict[int, str]]:
        run = find_run(reader, run_id or None)
        kept = [each for each in kept_points(reader, run["run_id"]) if each.shape[0] in CHANNELS]
        points: Rows = []
        if chosen < len(kept):
            points = read_some_points(
                reader, run["run_id"], kept[chosen], status=status or None, first=first, most=MOST_PICTURES + 1
            )
        return run, kept, points, read_class_names(reader, run["model_id"])

    run, kept, points, class_names = site.ask(read)
    here = points[:MOST_PICTURES]
    clean, why_not = found_clean(run, [row["image_id"] for row in here], site.clean_images)
    address = partial(_address, "images", id=run["run_id"], of=chosen, status=status)
    return _page(
        "images.html",
        f"Images of run {run['run_id']}",
        extra=[("Report of this run", f"run?{urlencode({'id': run['run_id']})}")],
        run=run,
        kept=[f"{each.attack} on {each.defense}, {each.point}: {each.images}" for each in kept],
        chosen=chosen,
        status=status,
        pictures=pictures([_judged(row) for row in here], class_names, clean),
        why_no_clean_images=why_not,
        before=address(first=max(0, first - MOST_PICTURES)) if first else None,
        after=address(first=first + MOST_PICTURES) if len(points) > MOST_PICTURES else None,
    )


def sql_page(site: Site, asked: Asked) -> str:
    """Return a box for one SELECT, `sql` or the one that ships as `file`, and the first rows of its answer."""
    name, statement = _first(asked, "file"), _first(asked, "sql")
    if name:
        if name not in named_queries():
            raise InputError(f"no query {name!r} ships; those that do are {', '.join(named_queries())}")
        statement = named_query(name)
    error, answer = "", Answer([], [])
    if statement.strip():
        try:
            answer = site.ask(lambda reader: answer_to(reader, statement, most=MOST_ROWS + 1))
        except IgdError as refused:
            error = str(refused)
    columns = [(name, _kind(values)) for name, values in zip(answer.names, _columns(answer), strict=True)]
    return _page(
        "sql.html",
        "SQL",
        statement=statement,
        queries=[(query, f"sql?{urlencode({'file': query})}") for query in named_queries()],
        error=error,
        columns=columns,
        rows=[[_value(value) for value in row] for row in answer.rows[:MOST_ROWS]],
        more=len(answer.rows) > MOST_ROWS,
        most=MOST_ROWS,
    )


def error_page(title: str, message: str) -> str:
    """Return a page that says what is wrong."""
    return _page("error.html", title, message=message)


NAVIGATION = (("Runs", "./"), ("SQL", "sql"))

# By what stands behind the token in the address.
PAGES: Mapping[str, Callable[[Site, Asked], str]] = {
    "": runs_page,
    "run": run_page,
    "compare": comparison_of_runs,
    "images": images_page,
    "sql": sql_page,
}


class ListedRun(NamedTuple):
    """A row of the list of runs: its id, the address of its report, and texts under `RUN_TITLES`."""

    run_id: str
    address: str
    texts: tuple[str, ...]


def _listed(row: Row) -> ListedRun:
    best = DASH if row["best"] is None else f"{percent(row['best'])} ({row['best_defense']})"
    texts = (
        *(row["run_id"], row["verb"], row["model"], f"{row['dataset']}, {row['split']}"),
        *(f"{row['norm']} {pixel_fraction(row['epsilon'])}", str(row["n"]), str(row["defenses"] or 0)),
        *(percent(row["base"]), best, str(row["warnings"] or 0)),
        DASH if row["created_at"] is None else f"{row['created_at']:%Y-%m-%d %H:%M}",
    )
    return ListedRun(
        row["run_id"],
        f"run?{urlencode({'id': row['run_id']})}",
        tuple(DASH if text is None else text for text in texts),
    )


_RUNS = """
WITH worst AS (
    SELECT
        run_id, count(*) AS defenses,
        any_value(robust_accuracy) FILTER (defense = 'none') AS base,
        max(robust_accuracy) FILTER (defense <> 'none') AS best,
        arg_max(defense, robust_accuracy) FILTER (defense <> 'none') AS best_defense
    FROM worst_case
    GROUP BY run_id
), warned AS (
    SELECT run_id, count(*) AS warnings FROM checks WHERE severity IN ('warning', 'error') GROUP BY run_id
)
SELECT
    run_id, verb, model, dataset, split, norm, epsilon, n, created_at, defenses, base, best, best_defense, warnings
FROM runs
LEFT JOIN worst USING (run_id)
LEFT JOIN warned USING (run_id)
ORDER BY created_at DESC, run_id
"""


def _page(template: str, title: str, *, extra: Sequence[tuple[str, str]] = (), **values: object) -> str:
    return page(template, folder=HERE, navigation=[*NAVIGATION, *extra], title=title, **values)


def _address(name: str, **asked: object) -> str:
    return f"{name}?{urlencode(asked)}"


def _judged(row: Row) -> Row:
    """Return a row of points with a prediction wherever a caption needs one: an image that was skipped has none."""
    label = row["label"]
    known = {name: label if row[name] is None else row[name] for name in ("clean_prediction", "adversarial_prediction")}
    return {**row, **known}


def _columns(answer: Answer) -> list[list[object]]:
    return [[row[place] for row in answer.rows] for place in range(len(answer.names))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(values: Sequence[object]) -> str:
    """Return how a column is aligned and sorted: "number" if it holds numbers alone, else "text"."""
    known = [value for value in values if value is not None]
    return "number" if known and all(map(_is_number, known)) else "text"


def _value(value: object) -> tuple[str, object]:
    """Return a value of an answer as text, and what numbers sort by."""
    text = shown(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…", value if _is_number(value) else None


def _first(asked: Asked, name: str) -> str:
    return next(iter(asked.get(name, ())), "")


def _number(asked: Asked, name: str) -> int:
    text: Any = _first(asked, name) or "0"
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"{name} is a whole number from 0, not {text!r}")
    return int(text)
