"""`igd check FILE.py:factory`: does a defense of your own keep what every defense owes to an evaluation?"""

import argparse

import pyarrow as pa

from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.planning.defenses import contract_of
from igd_ray.planning.workspace import Workspace
from igd_ray.verbs.flags import add_defense_arguments, add_workspace_flags, given_settings
from igd_ray.verbs.output import show

# What a defense is called that is given without a name.
NAME = "mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "The defense is built around the model and asked for a few images; nothing is written. A warning says how to "
        f"read an evaluation of it, an error that there is none. Arguments are --defense-arg {NAME}.steps=3, or of "
        "another name given as NAME=FILE.py:factory. Example: igd check mine.py:factory --model demo"
    )
    parser.add_argument("checked", metavar="[NAME=]FILE.py:factory", help="a defense in a file of your own")
    add_defense_arguments(parser)
    add_workspace_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check, and print a row for each property, with what it means for an evaluation."""
    given = given_settings(arguments)
    entry = str(given.pop("checked"))
    given["defenses"] = entry if "=" in entry else f"{NAME}={entry}"
    settings = load_settings(EvaluateSettings, file=arguments.config, given=given)
    own, contract = contract_of(Workspace(settings))
    rows = [
        {"property": each.name, "result": each.result, "found": each.found, "meaning": each.meaning}
        for each in contract.properties
    ]
    show(pa.Table.from_pylist(rows), as_json=arguments.json)
    if contract.error is not None:
        own.refuse(f"{contract.error.name}: {contract.error.found}")
    return 0
