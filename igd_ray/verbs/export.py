"""`igd export`: a run's records in the formats that others read; the catalog stays as it is."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from igd_ray.catalog import Catalog, ask
from igd_ray.catalog.places import Folder, write_file
from igd_ray.catalog.query import Reader
from igd_ray.errors import IgdError, InputError
from igd_ray.report.preparation.stored import read_class_names
from igd_ray.report.records.card import evaluation_card
from igd_ray.report.records.dataset import CARD, VERDICTS, dataset_card, parquet_of, points_table
from igd_ray.report.records.dataset import POINTS as DATASET_POINTS
from igd_ray.report.records.images import (
    CHANNELS,
    Kept,
    Points,
    broken_rows,
    csv_of,
    file_name,
    kept_points,
    png_of,
    points_npz,
    read_points,
    verdict_table,
)
from igd_ray.report.records.leaderboard import leaderboard_entry
from igd_ray.report.results import Results, find_run, read_results
from igd_ray.report.tables import Row
from igd_ray.verbs.flags import MOVED, add_catalog_flag, add_moved_flags

# `--points` says where points are written, so that a run that judged others' points is not judged again here.
MOVED_HERE = [name for name in MOVED if name != "points"]

# Before the folder behind `--to`: a data set, in place of records.
HUGGING_FACE = "hf"

# A point's defense, attack, kind and image; whether it breaks the defense as it is, and rounded to 8 bits.
Point = tuple[str, str, str, str]
Breaks = tuple[bool, bool]

# The columns of points.csv.
POINTS = pa.schema(
    [
        *((name, pa.string()) for name in ("defense", "attack", "point", "image_id")),
        ("label", pa.int64()),
        ("status", pa.string()),
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("npz", "png")),
        *((name, pa.bool_()) for name in ("breaks", "breaks_rounded")),
    ]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "Writes card.md (what was measured, how surely, and what was not), verdicts.csv (a row for each image, defense "
        "and attack) and leaderboard/DEFENSE.json (the fields of RobustBench's entries). What was not measured is "
        "empty or null. --points adds the adversarial points that the run kept: an .npz file for each attack, a PNG of "
        "8 bits for each image that broke, and points.csv, which says of each whether it still breaks the defense once "
        "rounded to 8 bits, where the run's model can be loaded."
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", default=None, help="an evaluation (default: the latest)")
    add_catalog_flag(parser)
    parser.add_argument(
        "--to",
        nargs="+",
        metavar="DIR",
        default=None,
        help=f"where to write; {HUGGING_FACE} DIR lays the run out as a data set of the Hugging Face hub "
        "(default: export-RUN)",
    )
    parser.add_argument("--points", metavar="DIR", default=None, help="an empty or new folder for adversarial points")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="judges points (default: auto)"
    )
    add_moved_flags(parser, "settings for judging rounded points, the run's unless given", MOVED_HERE)


def run(arguments: argparse.Namespace) -> int:
    """Write the records of a run, and say where they are."""
    catalog = Catalog(arguments.catalog)
    catalog.check()

    def question(reader: Reader) -> tuple[Results, pa.Table]:
        stored = _evaluation(reader, arguments.run_id)
        return read_results(reader, stored), verdict_table(reader, stored["run_id"])

    to = arguments.to or []
    if len(to) > 2 or (len(to) == 2 and to[0] != HUGGING_FACE):
        raise InputError(f"--to takes a folder, or {HUGGING_FACE} and a folder, not {' '.join(to)}")
    results, table = ask(catalog, question)
    target = Path(to[-1] if to else f"export-{file_name(results.run_id)}")
    points = Path(arguments.points) if arguments.points is not None else None
    if len(to) == 2:
        if points is not None:
            raise InputError(f"--to {HUGGING_FACE} lays points among the data set; leave --points out")
        _require_outside(target, catalog)
        _require_empty(target, f"--to {HUGGING_FACE}")
        _write_dataset(catalog, results, table, target)
        return 0
    verdict_rows = csv_of(table)
    for folder in (target, points):
        if folder is not None:
            _require_outside(folder, catalog)
    if points is not None:
        _require_empty(points, "--points")
    given = {name: getattr(arguments, name) for name in MOVED_HERE if hasattr(arguments, name)}
    rounded, why = _rounded(catalog, results, given, arguments.device) if points is not None else ({}, "")
    files = {
        "verdicts.csv": verdict_rows,
        "card.md": evaluation_card(results, {"verdicts.csv": hashlib.sha256(verdict_rows).hexdigest()}).encode(),
    }
    for row in results.worst_cases:
        entry = json.dumps(leaderboard_entry(results, row["defense"]), indent=2, ensure_ascii=False) + "\n"
        files[f"leaderboard/{file_name(row['defense'])}.json"] = entry.encode()
    for name, content in files.items():
        write_file(target / name, content)
    print(f"card, verdicts and {len(results.worst_cases)} leaderboard entries: {target}")
    if points is not None:
        _write_points(catalog, results.run_id, points, rounded, why)
    return 0


def _evaluation(reader: Reader, run_id: str | None) -> Row:
    stored = find_run(reader, run_id)
    if stored["verb"] != "evaluate":
        raise InputError(
            f"run {stored['run_id']!r} is of the verb {stored['verb']!r}, which attacks nothing; name a run of "
            "`igd evaluate`"
        )
    return stored


def _require_outside(folder: Path, catalog: Catalog) -> None:
    """Check that `folder` is a folder or can become one, and not one of the catalog, which is only read here."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    if not isinstance(catalog.place, Folder):
        return
    root = catalog.root.resolve()
    if folder.resolve() == root or root in folder.resolve().parents:
        raise InputError(f"{folder} lies in the catalog, which export only reads; name a folder outside of it")


def _require_empty(folder: Path, flag: str) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{flag} {folder}: not empty, so that old points would stand among new ones; name another")


def _rounded(
    catalog: Catalog, results: Results, given: Mapping[str, object], device: str
) -> tuple[dict[Point, Breaks], str]:
    """Return which points break the run's defenses, as they are and rounded; if that cannot be judged, why.

    Raises:
        IgdError: where settings were given and points cannot be judged with them; without any, that is the reason.
    """
    # Imported here: a run's records alone need neither model nor PyTorch.
    from igd_ray.execution.executor import local_device
    from igd_ray.planning.evaluation import plan_evaluation
    from igd_ray.planning.workspace import Workspace
    from igd_ray.verification.rounding import judge_rounded
    from igd_ray.verification.stored_runs import StoredRun, finished_cells, require_same_run, settings_of

    run = results.run
    stored = StoredRun(results.run_id, str(run["model_id"]), run["config"] or "")
    here = {"catalog": str(catalog), "executor": "local", "device": local_device(device)}
    try:
        workspace = Workspace(settings_of(stored, {**given, **here}))
        plan = plan_evaluation(workspace)
        require_same_run(workspace, stored, plan)
        judged = judge_rounded(workspace, finished_cells(catalog, plan), device=workspace.settings.device)
    except IgdError as error:
        if given:
            raise
        return {}, str(error)
    return {(*name,): (*breaks,) for name, breaks in judged.items()}, ""


def _points(run_id: str, kept: Kept, reader: Reader) -> Points:
    return read_points(reader, run_id, kept)


def _write_dataset(catalog: Catalog, results: Results, table: pa.Table, folder: Path) -> None:
    """Write the run as a data set of the Hugging Face hub, points of one attack on one defense in memory at a time."""
    run_id = results.run_id
    names = ask(catalog, lambda reader: read_class_names(reader, results.run["model_id"]))
    kept = [each for each in ask(catalog, lambda reader: kept_points(reader, run_id)) if each.shape[0] in CHANNELS]
    content = parquet_of(table)
    write_file(folder / VERDICTS, content)
    for number, each in enumerate(kept):
        found = ask(catalog, partial(_points, run_id, each))
        write_file(folder / DATASET_POINTS / f"{number:05d}.parquet", parquet_of(points_table(each, found, names)))
    card = evaluation_card(results, {VERDICTS: hashlib.sha256(content).hexdigest()})
    name = f"{results.run['model']} on {results.run['dataset']}, run {run_id}"
    write_file(folder / CARD, dataset_card(card, name=name, has_points=bool(kept)).encode())
    points = sum(each.images for each in kept)
    print(f"a data set of {len(table)} verdicts and {points} points: {folder}; huggingface-cli upload takes it")


def _write_points(
    catalog: Catalog,
    run_id: str,
    folder: Path,
    rounded: Mapping[Point, Breaks],
    why: str,
) -> None:
    """Write the points that a run kept, one attack on one defense in memory at a time, and say what rounding loses."""
    rows: list[dict[str, object]] = []
    pictures = unshown = 0
    kept = ask(catalog, lambda reader: kept_points(reader, run_id))
    for each in kept:
        points = ask(catalog, partial(_points, run_id, each))
        place = f"{file_name(each.defense)}/{file_name(each.attack)}/{file_name(each.point)}"
        write_file(folder / f"{place}.npz", points_npz(points))
        names: dict[int, str] = {}
        for row in broken_rows(points):
            content = png_of(points.pixels[row])
            if content is None:
                unshown += 1
            else:
                names[row] = f"{place}/{row:06d}.png"
                write_file(folder / names[row], content)
                pictures += 1
        for row, image_id in enumerate(points.ids):
            breaks = rounded.get((each.defense, each.attack, each.point, image_id), (None, None))
            facts = (each.defense, each.attack, each.point, image_id, points.labels[row], points.statuses[row], row)
            rows.append(dict(zip(POINTS.names, (*facts, f"{place}.npz", names.get(row), *breaks), strict=True)))
    write_file(folder / "points.csv", csv_of(pa.Table.from_pylist(rows, schema=POINTS)))
    print(f"{len(rows)} points in {len(kept)} .npz files, {pictures} PNG files: {folder}")
    if unshown:
        print(f"{unshown} points have neither one channel nor three, so that no PNG shows them")
    if not rows:
        print("the run kept no points, or has none yet")
    elif why:
        print(f"not judged, whether points still break once rounded to 8 bits: {why}")
    else:
        breaking = [row for row in rows if row["breaks"]]
        lost = sum(not row["breaks_rounded"] for row in breaking)
        print(f"rounding to 8 bits takes the effect from {lost} of {len(breaking)} points that break; see points.csv")
