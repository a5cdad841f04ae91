"""`igd verify`: judge stored points again and compare with the stored verdicts, or judge a file of points."""

import argparse
import tempfile
from collections.abc import Sequence

import pyarrow as pa

from igd_ray.catalog import Catalog
from igd_ray.catalog.integrity import check_files
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.data.points import read_points_file
from igd_ray.errors import IgdError, IncompleteError, InputError
from igd_ray.execution.executor import local_device
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.verbs.flags import MOVED, add_catalog_flag, add_moved_flags, given_settings
from igd_ray.verbs.output import show
from igd_ray.verification.points_files import WORST_CASE, judge_file
from igd_ray.verification.stored_runs import (
    find_run,
    finished_cells,
    labels_of,
    require_same_run,
    sample_cells,
    settings_of,
)
from igd_ray.verification.verdicts import UnitCheck, verify_cells

# Flags that say, for --points without --run, of which model and images the points are.
FOR_POINTS = {
    "--model-arg": ("NAME=VALUE", "an argument of the model's factory; may be repeated"),
    "--output": ("NAME", "which output of the model holds the logits"),
    "--split": ("NAME", "the split of the images (default: test)"),
    "--n": ("N", "how many of its images, from the first (default: as many as there are points)"),
    "--label-column": ("NAME", "of parquet: and hf:"),
    "--image-mode": ("MODE", "RGB or L (default: as the images are)"),
    "--norm": ("NORM", "linf or l2 (default: linf)"),
    "--eps": ("EPS", "in [0, 1] pixel units, such as 8/255 (default: 0.15 for digits, else 8/255)"),
}

# Failing images that are printed one per line; --json lists all.
MOST_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "Stored points are judged again with the recorded seeds, in this process; nothing is written. Exit code 0 if "
        "every verdict holds: status, predictions, distance; 1 if not, with a line for each image. Images that an "
        "earlier attack had broken are skipped, as the run did; of images without points the run kept none, so that "
        "only their clean prediction is checked. A verdict with a tiny difference of the top two logits may flip on "
        "another processor than the run's. With --files every file of the catalog is read and verified instead. "
        "--points without --run judges a file of points that others computed, without a catalog: exit code 1 if a "
        "point lies outside [0, 1] or the threat model."
    )
    add_catalog_flag(parser)
    parser.add_argument(
        "--run", "--run-id", dest="run_id", metavar="ID", default=None, help="an evaluation (default: the latest)"
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        default=None,
        help="verify N cells (one shard of images under one defense and attack), spread evenly over defenses and "
        "attacks and chosen by their hash (default: all)",
    )
    parser.add_argument(
        "--files",
        action="store_true",
        default=False,
        help="verify that each file of the catalog holds what was written into it, instead of judging points",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--json", action="store_true", default=False, help="print the result, all failures, as JSON")
    add_moved_flags(parser, "settings that are the run's unless given", [name for name in MOVED if name != "points"])
    points = parser.add_argument_group("points that others computed")
    points.add_argument(
        "--points",
        metavar="FILE",
        help=".npz, .safetensors, .pt or .pth, as RobustBench and AutoAttack save them, one point for each image in "
        "its order; FILE#apgd-ce is one of several sets. With --run: where the run's files of points are now (default: "
        "the run's)",
    )
    for flag, meaning in FOR_POINTS.items():
        several = flag == "--model-arg"
        points.add_argument(flag, metavar=meaning[0], help=meaning[1], action="append" if several else "store")


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print a row for each defense and attack, or for each set of points."""
    if hasattr(arguments, "points") and arguments.run_id is None and not arguments.files:
        return verify_points(arguments)
    of_points = [flag for flag in FOR_POINTS if hasattr(arguments, flag.removeprefix("--").replace("-", "_"))]
    if of_points:
        raise InputError(f"{of_points[0]} is for --points FILE without --run; a run has recorded its own")
    catalog = Catalog(arguments.catalog)
    catalog.check()
    if arguments.files:
        verify_files(catalog, as_json=arguments.json)
        return 0
    stored = find_run(catalog, arguments.run_id)
    given = {name: getattr(arguments, name) for name in MOVED if hasattr(arguments, name)}
    here = {"catalog": arguments.catalog, "executor": "local", "device": local_device(arguments.device)}
    settings = settings_of(stored, {**given, **here})
    workspace = Workspace(settings)
    plan = plan_evaluation(workspace)
    require_same_run(workspace, stored, plan)
    finished = finished_cells(catalog, plan)
    if not finished:
        raise IncompleteError(f"run {stored.run_id} has no verdicts yet; run the same `igd evaluate` again")
    cells = finished if arguments.sample is None else sample_cells(finished, stored.run_id, arguments.sample)
    checks = verify_cells(workspace, cells, device=settings.device)
    rows = table_rows(cells, checks)
    if arguments.json:
        show(pa.Table.from_pylist(rows), as_json=True)
    else:
        shown = [{name: value for name, value in row.items() if name != "failures"} for row in rows]
        show(pa.Table.from_pylist(shown), as_json=False, title=f"Run {stored.run_id}, numbers of images")
        if len(finished) < len(plan.cells):
            why = "yet" if settings.until is None else "as the run ended before, or has not finished"
            print(f"{len(plan.cells) - len(finished)} of {len(plan.cells)} cells have no verdicts {why}")
        if len(cells) < len(finished):
            print(f"verified {len(cells)} of {len(finished)} cells")
        missing = sum(check.without_points for check in checks)
        if missing:
            print(f"of {missing} images the run was told to keep no points: their verdicts cannot be judged again")
    conclude(cells, checks, as_json=arguments.json)
    return 0


def verify_points(arguments: argparse.Namespace) -> int:
    """Judge a file of points by the model named here, print a row for each set of points, and return 0.

    Raises:
        IgdError: if a point lies outside [0, 1] or the threat model.
    """
    if arguments.sample is not None:
        raise InputError("--sample is for the cells of a run; --n judges the first of a file's points")
    chosen = {"attacks", "method"} & vars(arguments).keys()
    if chosen or getattr(arguments, "defenses", "none") != "none":
        raise InputError("--points without --run judges the model; for defenses: igd evaluate --defenses … --points")
    named = given_settings(arguments)
    file = read_points_file(str(named.pop("points")))
    of_run = {"catalog", "run_id", "sample", "files", "device"}
    given = {"executor": "local", **{name: value for name, value in named.items() if name not in of_run}}
    if file.ids is None:
        given.setdefault("n", len(next(iter(file.sets.values()))))
    with tempfile.TemporaryDirectory(prefix="igd-verify-") as folder:
        given["catalog"] = f"{folder}/unused"
        workspace = Workspace(load_settings(EvaluateSettings, file=None, given=given))
        checks = judge_file(workspace, file, device=local_device(arguments.device))
    threat = workspace.settings.threat
    rows = [check.row for check in checks]
    if arguments.json:
        for row, check in zip(rows, checks, strict=True):
            row["faults"] = [{"image_id": fault.image_id, "reason": fault.reason} for fault in check.faults]
    show(pa.Table.from_pylist(rows), as_json=arguments.json, title=f"{workspace.source.label}, {threat}")
    faults = [str(fault) for check in checks for fault in check.faults]
    if faults:
        if not arguments.json:
            print_some(faults)
        points = sum(len(check.statuses) for check in checks if check.points != WORST_CASE)
        raise IgdError(f"{len(faults)} of {points} points are outside [0, 1] or {threat}, first {faults[0]}")
    if not arguments.json:
        print(f"every point lies in [0, 1] and within {threat} of its image")
    return 0


def print_some(lines: Sequence[str]) -> None:
    """Print the first of `lines`, and how many more there are."""
    for line in lines[:MOST_LINES]:
        print(line)
    if len(lines) > MOST_LINES:
        print(f"and {len(lines) - MOST_LINES} more, which --json lists")


def verify_files(catalog: Catalog, *, as_json: bool) -> None:
    """Print what is wrong with files of the catalog, one per line.

    Raises:
        IgdError: if anything is.
    """
    files, faults = check_files(catalog)
    if as_json:
        show(pa.Table.from_pylist([fault._asdict() for fault in faults]), as_json=True)
    elif not faults:
        print(f"all {files} files hold what was written into them")
    else:
        for fault in faults:
            print(f"{catalog}/{fault.name}: {fault.why}")
    if faults:
        raise IgdError(
            f"{len(faults)} of {files} files are damaged, first {faults[0].name}; run the commands again that made "
            "them, or igd compact, which set them aside"
        )


def table_rows(cells: Sequence[Cell], checks: Sequence[UnitCheck]) -> list[dict[str, object]]:
    """Return a row for each defense and attack, with the failures of its shards."""
    rows: list[dict[str, object]] = []
    for defense, attack in dict.fromkeys(labels_of(cell) for cell in cells):
        mine = [check for cell, check in zip(cells, checks, strict=True) if labels_of(cell) == (defense, attack)]
        failures = [failure for check in mine for failure in check.failures]
        rows.append(
            {
                "defense": defense,
                "attack": attack,
                "images": sum(check.images for check in mine),
                "hold": sum(check.hold for check in mine),
                "fail": len(failures),
                "skipped": sum(check.skipped for check in mine),
                "without_points": sum(check.without_points for check in mine),
                "failures": [
                    {"image_id": failure.image_id, "reason": failure.reason, "margin": failure.margin}
                    for failure in failures
                ],
            }
        )
    return rows


def conclude(cells: Sequence[Cell], checks: Sequence[UnitCheck], *, as_json: bool) -> None:
    """Say that all verdicts hold, or which do not.

    Raises:
        IgdError: if one does not hold, or there was none that could be judged.
    """
    lines = [
        f"{' / '.join(labels_of(cell))}, image {failure}"
        for cell, check in zip(cells, checks, strict=True)
        for failure in check.failures
    ]
    verdicts = len(lines) + sum(check.hold for check in checks)
    if lines:
        if not as_json:
            print_some(lines)
        raise IgdError(f"{len(lines)} of {verdicts} stored verdicts do not hold, first {lines[0]}")
    if not verdicts:
        raise IgdError("no verdict can be judged again: the run was told to keep no points")
    if not as_json:
        print(f"all {verdicts} verdicts hold")
