"""`igd demo`: the whole way on the embedded model: rank, search, attack, report."""

import argparse

from igd_ray.config import EvaluateSettings, SearchSettings, load_settings
from igd_ray.errors import IgdError
from igd_ray.execution.session import Session, require_all
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.search import plan_searches
from igd_ray.planning.workspace import Workspace
from igd_ray.protocol import NINE_ATTACKS
from igd_ray.report.html import write_report
from igd_ray.values.environment import CATALOG, EXECUTOR
from igd_ray.verbs.clean_images import clean_images
from igd_ray.verbs.evaluate import evaluate, require_worst_case, show_accuracy
from igd_ray.verbs.flags import executor_for, given_settings
from igd_ray.verbs.search import search

# Few enough for minutes on two cores, enough for intervals of about ±12 points.
IMAGES = 64
METHODS = ("loir", "cdir")

# All nine of the worst case; those that take most of the time with less than their published budgets.
BUDGETS = {"aa": 20, "rays": 1000, "apgd-eot": 20, "tr-aa": 20, "tr-rays": 1000, "tr-apgd-eot": 20}
ATTACKS = tuple(f"{attack}-{BUDGETS[attack]}" if attack in BUDGETS else attack for attack in NINE_ATTACKS)
TOLERANCE = 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", help=f"folder of results (default: {CATALOG}, else results)")
    parser.add_argument("--n", type=int, help=f"test images that are attacked (default: {IMAGES})")
    parser.add_argument("--seed", type=int, help="what every seed derives from (default: 0)")
    parser.add_argument(
        "--executor", choices=["ray", "local"], help=f"actors, or this process (default: {EXECUTOR}, else ray)"
    )
    parser.add_argument("--actors", type=int, help="model replicas (default: one per GPU, or one per CPU)")
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Rank by LO-IR and CD-IR, choose k for each, attack, and write the report."""
    given = {"n": IMAGES, **given_settings(arguments)}
    search_settings = load_settings(
        SearchSettings, file=None, given={**given, "method": METHODS, "tolerance": TOLERANCE}
    )
    executor = executor_for(search_settings)
    workspace = Workspace(search_settings)
    plans = plan_searches(workspace)
    # One executor serves all stages if it is known from the start which images they look at.
    workspace.use("test")
    with Session(workspace, executor) as session:
        found = dict(zip(METHODS, search(session, plans), strict=True))
        for method, result in found.items():
            if result.chosen is None:
                raise IgdError(f"no k keeps clean accuracy with {method}; look at the trials: igd search")
            if not arguments.json:
                width = workspace.layer.width
                print(
                    f"{method}: the best {result.chosen.setting.k} of {width} neurons of each class keep clean accuracy"
                )
        chosen = found["loir"].chosen
        assert chosen is not None
        asked = {
            "defenses": ("none", f"random-{chosen.setting.k}"),
            "from_search": tuple(result.search_id for result in found.values()),
            "attacks": ATTACKS,
            "mode": "cascade",
        }
        session.workspace = evaluated = workspace.with_settings(
            load_settings(EvaluateSettings, file=None, given={**given, **asked})
        )
        plan = plan_evaluation(evaluated)
        summary = evaluate(session, plan)
        catalog = workspace.catalog
        show_accuracy(catalog, plan.run_id, as_json=arguments.json)
        require_all(summary, "evaluation")
        require_worst_case(catalog, plan.run_id)
        report = write_report(catalog, plan.run_id, catalog.root / "report.html", clean_images=clean_images)
        if not arguments.json:
            print(f"report: {report}")
            print(f'more: igd sql --catalog {catalog} "SELECT * FROM worst_case"')
    return 0
