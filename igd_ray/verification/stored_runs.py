"""Evaluations as the catalog tells them: which one is verified, with which settings, and which of its cells."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from igd_ray.attacks.registry import is_in_a_file
from igd_ray.catalog import Catalog, ask, run_query
from igd_ray.config import EvaluateSettings, WorkspaceSettings, load_settings
from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.evaluation import EvaluationPlan
from igd_ray.planning.workspace import IN_MEMORY, Workspace

# Settings that may name code in files, and what they name.
CODE = {"defenses": "defenses", "attacks": "attacks", "method": "rankings"}


@dataclass(frozen=True)
class StoredRun:
    """An evaluation as the catalog tells it.

    Attributes:
        run_id: its id.
        model_id: the fingerprint of its model.
        config: its settings as JSON, as they were stored and not yet looked at.
    """

    run_id: str
    model_id: str
    config: str


def find_run(catalog: Catalog, run_id: str | None) -> StoredRun:
    """Return the evaluation `run_id`, by default the latest one.

    Raises:
        InputError: if there is none, or it is a run of another verb.
    """
    runs = run_query(
        catalog, "SELECT run_id, verb, model_id, config FROM runs ORDER BY created_at DESC, run_id"
    ).to_pylist()
    evaluations = [run for run in runs if run["verb"] == "evaluate"]
    if not evaluations:
        raise InputError(f"the catalog {catalog} has no evaluation to verify; run `igd evaluate` first")
    wanted = evaluations[0]["run_id"] if run_id is None else run_id
    for run in evaluations:
        if run["run_id"] == wanted:
            return StoredRun(run["run_id"], str(run["model_id"]), run["config"] or "")
    other = next((run["verb"] for run in runs if run["run_id"] == wanted), None)
    if other is not None:
        raise InputError(
            f"run {wanted!r} is of the verb {other!r}, which judges no points; name a run of `igd evaluate`"
        )
    known = [run["run_id"] for run in evaluations]
    raise InputError(f"the catalog {catalog} has no run {wanted!r}{did_you_mean(str(wanted), known)}; see `igd status`")


def settings_of(run: StoredRun, given: Mapping[str, object]) -> EvaluateSettings:
    """Return the settings of `run`, overridden by those `given` here: where model, data and catalog are now.

    Raises:
        InputError: if what is stored are not settings, or they would run code that this command line does not name.
    """
    stored = recorded_settings(run, EvaluateSettings)
    listed = [entries for name in CODE if isinstance(entries := stored.get(name), list)]
    named = (stored.get("model"), stored.get("data"), *(entry for entries in listed for entry in entries))
    held = [name for name in map(str, named) if name == IN_MEMORY or f"{IN_MEMORY}:" in name]
    if held:
        raise InputError(
            f"run {run.run_id!r} evaluated what only a program held, {', '.join(held)}; write it into a file, and "
            "evaluate that, to verify it"
        )
    # A catalog may come from anybody: which code runs here is not for it to say. Settings import the files of rankings.
    for name, what in CODE.items():
        if name not in given and (entries := _entries_in_files(stored.get(name, ()))):
            raise InputError(
                f"{what} of run {run.run_id!r} are code; if you trust their files, name the run's {what}, where they "
                f"are now: --{name} {entries}"
            )
    try:
        settings = load_settings(EvaluateSettings, file=None, given={**stored, **given})
    except InputError as error:
        raise InputError(f"the settings of run {run.run_id!r} cannot be used here: {error}") from None
    if "model" not in given and settings.model.rpartition(":")[0].endswith(".py"):
        raise InputError(  # a file here, or one on the hub
            f"the model of run {run.run_id!r} is code, {settings.model!r}; if you trust that file, name it with --model"
        )
    return settings


def _entries_in_files(entries: object) -> str:
    """Return `entries` of a stored setting, with commas, if one of them names code in a file; else an empty text."""
    listed = ",".join(map(str, entries)) if isinstance(entries, list | tuple) else str(entries)
    return listed if is_in_a_file(listed) else ""


def recorded_settings(run: StoredRun, kind: type[WorkspaceSettings]) -> dict[str, object]:
    """Return the settings of `run` that differ from the defaults of `kind`: some settings go only with certain others.

    Raises:
        InputError: if what is stored is not a JSON object.
    """
    try:
        stored = json.loads(run.config)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise InputError(f"the settings stored with run {run.run_id!r} are not a JSON object; the catalog is damaged")
    defaults = kind().model_dump(mode="json")
    return {name: value for name, value in stored.items() if name not in defaults or value != defaults[name]}


def require_same_run(workspace: Workspace[EvaluateSettings], run: StoredRun, plan: EvaluationPlan) -> None:
    """Check that `plan`, made from the settings of `run`, is that very run.

    Raises:
        InputError: with the other run's id, what differs and what to do.
    """
    if plan.run_id == run.run_id:
        return
    images = "SELECT DISTINCT unnest(image_ids) AS image_id FROM run_units WHERE reported AND run_id = $1"
    evaluated = {row["image_id"] for row in ask(workspace.catalog, lambda reader: reader.rows(images, run.run_id))}
    if workspace.model_id != run.model_id:
        differs = (
            f"the model here is {workspace.model_id[:12]!r}, not the run's {run.model_id[:12]!r}; "
            "name the run's with --model and --weights"
        )
    elif not evaluated <= set(workspace.test.ids):
        differs = "the images here are not those that the run evaluated; name those with --data"
    else:
        differs = (
            "its rankings or their images differ, or igd-ray is of another version than the one that evaluated; use "
            "that version, or name the run's files with --data, --classes, --clip and --prompts"
        )
    raise InputError(f"the settings of run {run.run_id!r} give run {plan.run_id!r} here: {differs}")


def finished_cells(catalog: Catalog, plan: EvaluationPlan) -> list[Cell]:
    """Return the cells of `plan` whose verdicts are stored."""
    return [cell for cell in plan.cells if catalog.has("outcomes", cell.unit.key)]


def labels_of(cell: Cell) -> tuple[str, str]:
    """Return what the run calls the defense and the attack of `cell`."""
    return cell.defense, cell.attack


def sample_cells(cells: Sequence[Cell], run_id: str, count: int) -> list[Cell]:
    """Return `count` of `cells`, spread evenly over defenses and attacks, in their order; all if there are no more.

    The hash of run and cell decides, so that the same command looks at the same cells again. Whole cells are drawn,
    because the noise of a random defense is drawn for all images of a cell at once.

    Raises:
        InputError: if `count` is less than 1.
    """
    if count < 1:
        raise InputError(f"--sample must be at least 1, not {count}")

    def draw(*parts: str) -> str:
        return content_hash([run_id, *parts])

    shards: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: draw(*labels_of(cell), cell.unit.key)):
        shards.setdefault(labels_of(cell), []).append(cell)
    # The pair whose defense and attack came up least is next.
    pairs: list[tuple[str, str]] = []
    seen: Counter[str] = Counter()
    waiting = set(shards)
    while waiting:
        pair = min(waiting, key=lambda pair: (seen[f"defense {pair[0]}"] + seen[f"attack {pair[1]}"], draw(*pair)))
        waiting.remove(pair)
        pairs.append(pair)
        seen.update([f"defense {pair[0]}", f"attack {pair[1]}"])
    turns = [(turn, place, cell) for place, pair in enumerate(pairs) for turn, cell in enumerate(shards[pair])]
    chosen = {id(cell) for _, _, cell in sorted(turns, key=lambda each: each[:2])[:count]}
    return [cell for cell in cells if id(cell) in chosen]
