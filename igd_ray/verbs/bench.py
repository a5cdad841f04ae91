"""`igd bench`: what this machine takes for each stage, beside the straightforward alternative."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from igd_ray.benchmarks.alternating import require_rounds
from igd_ray.benchmarks.attacks import IMAGES as ATTACKED_IMAGES
from igd_ray.benchmarks.attacks import bench_attacks
from igd_ray.benchmarks.catalog import IMAGES, bench_catalog
from igd_ray.benchmarks.iwwc import bench_worst_case
from igd_ray.benchmarks.leasing import ATTACK, SHARD_IMAGES, dispatch, scaling
from igd_ray.benchmarks.made_up_catalog import Size
from igd_ray.benchmarks.ranking import bench_ranking
from igd_ray.benchmarks.search import bench_search
from igd_ray.benchmarks.start import bench_start
from igd_ray.config import EvaluateSettings, RankSettings, SearchSettings, load_settings
from igd_ray.errors import InputError
from igd_ray.planning.workspace import Workspace
from igd_ray.verbs.demo import ATTACKS
from igd_ray.verbs.flags import add_workspace_flags, given_settings
from igd_ray.verbs.output import show

# What can be measured, and the flags beside --rounds and --json that it takes; None: those of model and data.
FLAGS: Mapping[str, tuple[str, ...] | None] = {
    "ranking": None,
    "search": None,
    "attacks": None,
    "iwwc": None,
    "start": (),
    "catalog": ("n", "runs"),
    "dispatch": None,
    "scaling": None,
}
ROUNDS = 5

# Enough for the worst case of three defenses both ways in minutes on two cores.
WORST_CASE_IMAGES, WORST_CASE_DEFENSES = 16, ("none", "cdir-2", "loir-1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "ranking: LO-IR of the layer beside one plain pass over the probe images, and beside one pass per neuron. "
        "search: the search for k beside evaluating the defended model anew for each of its trials. "
        "attacks: the engine beside pyautoattack at equal budgets, on the base model's first --n images (default: "
        f"{ATTACKED_IMAGES}); pace compares passes a second. "
        "iwwc: the passes of the worst case in a cascade beside those of every attack on each defense by itself; "
        f"--defenses and --attacks choose (default: {','.join(WORST_CASE_DEFENSES)}, and the demo's nine). "
        "start: whole processes that compute nothing, beside the import that they cannot do without. "
        "catalog: whole processes of igd on a catalog of made-up runs, each of 5 defenses, 9 attacks and --n images "
        f"(default: {IMAGES}), beside a fresh Python in which DuckDB reduces the same rows, in one sorted file, to the "
        "worst case: how many times as long they take, and their memory. "
        "scaling: seconds for a unit of APGD, actors of one thread each; `machine` is how much more pure computing "
        "as many processes do here than one. dispatch: milliseconds from leasing a unit without work to its report; "
        "simulated workers are none at all, so that what remains is the lease loop's own processor time and memory."
    )
    parser.add_argument("what", choices=list(FLAGS), help="what is measured")
    parser.add_argument("--runs", type=int, metavar="N", help="of catalog: how many (default: 1)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=ROUNDS, help=f"of timing, by turns (default: {ROUNDS})"
    )
    parser.add_argument("--defenses", help="of iwwc: labels with commas")
    parser.add_argument("--attacks", help="of iwwc: labels with commas")
    add_workspace_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print one row per comparison, number of actors, or process."""
    require_rounds(arguments.rounds)
    given = _given(arguments)
    with tempfile.TemporaryDirectory(prefix="igd-bench-") as name:
        rows = _rows(arguments, given, Path(name))
    show(pa.Table.from_pylist(rows), as_json=arguments.json)
    return 0


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings, and check that what is measured takes them."""
    what = arguments.what
    given = {
        name: value
        for name, value in given_settings(arguments).items()
        if name not in ("what", "catalog", "rounds", "executor")
    }
    taken = FLAGS[what]
    if taken is not None and (unused := given.keys() - set(taken)):
        flags = "".join(f"--{flag}, " for flag in taken)
        raise InputError(f"bench {what} takes {flags}--rounds and --json, not --{min(unused).replace('_', '-')}")
    if taken is None and (unused := given.keys() & ({"runs"} if what == "iwwc" else {"runs", "defenses", "attacks"})):
        raise InputError(f"--{min(unused)} does not belong to bench {what}; leave it out")
    return given


def _rows(arguments: argparse.Namespace, given: Mapping[str, object], folder: Path) -> list[dict[str, object]]:
    file, rounds = arguments.config, arguments.rounds
    own = {**given, "catalog": str(folder / "results")}
    match arguments.what:
        case "ranking":
            return bench_ranking(Workspace(load_settings(RankSettings, file=file, given=own)), rounds)
        case "search":
            return bench_search(load_settings(SearchSettings, file=file, given={**own, "sigma": 0}), folder, rounds)
        case "attacks":
            attacked = {"n": ATTACKED_IMAGES, **own}
            return bench_attacks(Workspace(load_settings(EvaluateSettings, file=file, given=attacked)), rounds)
        case "iwwc":
            worst_case = {"n": WORST_CASE_IMAGES, "defenses": WORST_CASE_DEFENSES, "attacks": ATTACKS}
            return bench_worst_case(load_settings(EvaluateSettings, file=file, given={**worst_case, **own}), folder)
        case "start":
            return bench_start(folder, rounds)
        case "catalog":
            size = Size(getattr(arguments, "runs", 1), getattr(arguments, "n", IMAGES))
            return bench_catalog(size, rounds)
    settings = load_settings(
        EvaluateSettings, file=file, given={"n": 128, **own, "attacks": ATTACK, "shard_size": SHARD_IMAGES}
    )
    measure = scaling if arguments.what == "scaling" else dispatch
    return measure(Workspace(settings), folder)
