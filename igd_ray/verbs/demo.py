"""`igd demo`: the whole way on the embedded model: rank, search, attack, report."""

import argparse

from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.errors import IgdError
from igd_ray.execution.run import require_all
from igd_ray.planning.verbs import evaluate, plan_evaluation_of, plan_searches, search
from igd_ray.planning.workspace import Study
from igd_ray.protocol import NINE_ATTACKS
from igd_ray.report import write_report
from igd_ray.verbs.evaluate import show_accuracy
from igd_ray.verbs.executors import executor_for
from igd_ray.verbs.flags import given_settings

# Few enough for minutes on two cores, enough for intervals of about ±12 points.
IMAGES = 64
METHODS = ("loir", "cdir")

# All nine of the worst case. RayS alone would take most of the time with its published 10 000 queries.
ATTACKS = tuple({"rays": "rays-1000", "tr-rays": "tr-rays-1000"}.get(attack, attack) for attack in NINE_ATTACKS)
TOLERANCE = 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--catalog", metavar="DIR", help="folder of results (default: results)")
    parser.add_argument("--n", type=int, help=f"test images that are attacked (default: {IMAGES})")
    parser.add_argument("--seed", type=int, help="what every seed derives from (default: 0)")
    parser.add_argument("--executor", choices=["ray", "local"], help="actors, or this process (default: ray)")
    parser.add_argument("--actors", type=int, help="model replicas (default: one a GPU, or one a CPU)")
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Rank by LO-IR and CD-IR, choose k for each, attack, and write the report."""
    given = {"n": IMAGES, "attacks": ATTACKS, "mode": "cascade", **given_settings(arguments)}
    settings = load_settings(EvaluateSettings, file=None, given=given)
    with Study(settings, executor=executor_for(settings)) as study:
        plans = plan_searches(study, METHODS, tolerance=TOLERANCE)
        # One executor serves all stages if it is known from the start which images they look at.
        study.use("test")
        found = dict(zip(METHODS, search(study, settings, plans), strict=True))
        for method, result in found.items():
            if result.chosen is None:
                raise IgdError(f"no k keeps clean accuracy with {method}; look at the trials: igd search")
            if not arguments.json:
                width = study.layer.width
                print(
                    f"{method}: the best {result.chosen.setting.k} of {width} neurons of each class keep clean accuracy"
                )
        chosen = found["loir"].chosen
        assert chosen is not None
        searches = tuple(result.search_id for result in found.values())
        defenses = ("none", f"random-{chosen.setting.k}")
        settings = settings.model_copy(update={"defenses": defenses, "from_search": searches})
        evaluation = plan_evaluation_of(study, settings)
        summary = evaluate(study, settings, evaluation)
        show_accuracy(study.catalog, evaluation.plan.run_id, as_json=arguments.json)
        require_all(summary, "evaluation")
        report = write_report(study.catalog, evaluation.plan.run_id, study.catalog.root / "report.html")
        if not arguments.json:
            print(f"report: {report}")
            print(f'more: igd sql --catalog {study.catalog} "SELECT * FROM worst_case"')
    return 0
