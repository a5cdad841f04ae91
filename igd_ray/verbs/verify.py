"""`igd verify`: judge stored points again and compare with the stored verdicts."""

import argparse
from collections.abc import Sequence

import pyarrow as pa

from igd_ray.catalog import Catalog
from igd_ray.catalog.integrity import check_files
from igd_ray.errors import IgdError, IncompleteError
from igd_ray.execution.executor import local_device
from igd_ray.planning.evaluation import Cell, plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.verbs.flags import MOVED, add_catalog_flag, add_moved_flags
from igd_ray.verbs.output import show
from igd_ray.verification.stored_runs import (
    find_run,
    finished_cells,
    labels_of,
    require_same_run,
    sample_cells,
    settings_of,
)
from igd_ray.verification.verdicts import UnitCheck, verify_cells

# Failing images that are printed one per line; --json lists all.
MOST_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "Stored points are judged again with the recorded seeds, in this process; nothing is written. Exit code 0 if "
        "every verdict holds: status, predictions, distance; 1 if not, with a line for each image. Images that an "
        "earlier attack had broken are skipped, as the run did; of images without points the run kept none, so that "
        "only their clean prediction is checked. A verdict with a tiny difference of the top two logits may flip on "
        "another processor than the run's. With --files every file of the catalog is read and verified instead."
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
    add_moved_flags(parser, "settings that are the run's unless given", MOVED)


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print a row for each defense and attack."""
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
            for line in lines[:MOST_LINES]:
                print(line)
            if len(lines) > MOST_LINES:
                print(f"and {len(lines) - MOST_LINES} more, which --json lists")
        raise IgdError(f"{len(lines)} of {verdicts} stored verdicts do not hold, first {lines[0]}")
    if not verdicts:
        raise IgdError("no verdict can be judged again: the run was told to keep no points")
    if not as_json:
        print(f"all {verdicts} verdicts hold")
