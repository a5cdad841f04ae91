"""`igd train`: train what a defense needs, ahead of an evaluation, which would do it by itself."""

import argparse

from igd_ray.config import TrainSettings, load_settings
from igd_ray.defenses.registry import KINDS, checked_arguments
from igd_ray.defenses.specs import given_arguments
from igd_ray.execution.session import Session, commit_stages
from igd_ray.planning.training import plan_sodef, training_table
from igd_ray.planning.workspace import Workspace
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.flags import add_defense_arguments, add_dry_run, add_workspace_flags, executor_for, given_settings
from igd_ray.verbs.output import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    trained = [name for name, kind in KINDS.items() if kind.is_trained]
    parser.add_argument("trained", choices=trained, help="sodef: its ODE block, on the base model's frozen features")
    add_defense_arguments(parser)
    add_workspace_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, epoch by epoch, and print how loss and accuracy went."""
    settings = load_settings(TrainSettings, file=arguments.config, given=given_settings(arguments))
    executor = executor_for(settings)
    workspace = Workspace(settings)
    given = given_arguments(settings.defense_arg)
    plan = plan_sodef(workspace, checked_arguments(KINDS[settings.trained], given.get(settings.trained, {})))
    if arguments.dry_run:
        show_costs(workspace, plan.units, as_json=arguments.json)
        return 0
    with Session(workspace, executor) as session:
        session.prepare(plan.units)
        commit_stages(workspace, "train", [plan.training_id], plan.units)
        session.train(plan)
        show(training_table(workspace.catalog, plan), as_json=arguments.json)
    return 0
