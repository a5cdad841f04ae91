"""`igd check`: does a model, a defense, an attack or a ranking of your own behave as an evaluation expects?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Generator, nn

from igd_ray.attacks import Attack
from igd_ray.attacks.own import named_attack
from igd_ray.config import EvaluateSettings, RankSettings, load_settings
from igd_ray.contracts import look_at_attack, look_at_model, look_at_ranking
from igd_ray.contracts.attack import StandIn
from igd_ray.errors import InputError
from igd_ray.models.sources import contained, import_sources
from igd_ray.planning.defenses import contract_of, needed_defenses
from igd_ray.planning.rankings import make_ranking, models_of, probe_examples
from igd_ray.planning.workspace import Workspace
from igd_ray.properties import Property
from igd_ray.ranking import RANKINGS, Ranking
from igd_ray.verbs.flags import add_defense_arguments, add_method_arguments, add_workspace_flags, given_settings
from igd_ray.verbs.output import show

# What is checked is called so where it is given without a name.
NAME = "mine"

# Evaluated images that an attack is looked at on, and probe images of a ranking: of each class, and in all.
ATTACKED_IMAGES = 8
OF_EACH_CLASS, PROBE_IMAGES = 4, 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "What the name in the file is decides: a subclass of igd_ray.attacks.Attack is an attack, one of "
        "igd_ray.ranking.Ranking a ranking, anything else the factory of a defense; without a file the base model is "
        "checked. It is tried on a few images, and nothing is written. A warning says how to read an evaluation, an "
        f"error that there is none. Arguments are --defense-arg {NAME}.steps=3 and --method-arg {NAME}.power=2, or of "
        "another name given as NAME=FILE.py:factory. Examples: igd check --model net.py:factory --weights own; "
        "igd check mine.py:factory"
    )
    parser.add_argument(
        "checked",
        nargs="?",
        metavar="[NAME=]FILE.py:NAME",
        help="a defense, an attack or a ranking in a file of your own (default: the base model alone)",
    )
    add_defense_arguments(parser)
    add_method_arguments(parser)
    add_workspace_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check, and print a row for each property, with what it means for an evaluation."""
    given = given_settings(arguments)
    checked = given.pop("checked", None)
    entry = str(checked) if checked is None or "=" in str(checked) else f"{NAME}={checked}"
    named = _named(entry)
    if checked is None:
        what, properties = _of_model(arguments, given)
    elif isinstance(named, type) and issubclass(named, Attack):
        what, properties = _of_attack(arguments, given, entry)
    elif isinstance(named, type) and issubclass(named, Ranking):
        what, properties = _of_ranking(arguments, given, entry)
    else:
        settings = load_settings(EvaluateSettings, file=arguments.config, given={**given, "defenses": entry})
        own, contract = contract_of(Workspace(settings))
        what, properties = f"defense {own.label}={Path(own.path).name}:{own.factory}", contract.properties
    rows = [
        {"property": each.name, "result": each.result, "found": each.found, "meaning": each.meaning}
        for each in properties
    ]
    show(pa.Table.from_pylist(rows), as_json=arguments.json)
    for each in properties:
        if each.result == "error":
            raise InputError(f"{what}: {each.name}: {each.found}")
    return 0


Checked = tuple[str, Sequence[Property]]


def _of_model(arguments: argparse.Namespace, given: dict[str, object]) -> Checked:
    settings = load_settings(EvaluateSettings, file=arguments.config, given=given)
    workspace = Workspace(settings)
    return f"model {settings.model}", look_at_model(workspace.model, workspace.test, layer=settings.layer)


def _of_attack(arguments: argparse.Namespace, given: dict[str, object], entry: str) -> Checked:
    named = named_attack(entry)
    assert named.algorithm is not None
    if named.algorithm.needs_two_passes:
        given = {**given, "defenses": "two-pass", "sigma": 0.0}
    workspace = Workspace(load_settings(EvaluateSettings, file=arguments.config, given={**given, "attacks": entry}))
    target: nn.Module = workspace.model
    if named.algorithm.needs_two_passes:
        target = needed_defenses(workspace).defenses[0].build(workspace.model, Generator())
    elif named.algorithm.needs_surrogate:
        target = StandIn(workspace.model)
    images, labels = next(iter(workspace.test.select(slice(0, ATTACKED_IMAGES)).batches(ATTACKED_IMAGES)))
    threat = workspace.settings.threat
    properties = look_at_attack(named.algorithm, target, workspace.model, images, labels, threat)
    return f"attack {_shown(entry)}", properties


def _of_ranking(arguments: argparse.Namespace, given: dict[str, object], entry: str) -> Checked:
    settings = load_settings(RankSettings, file=arguments.config, given={**given, "method": entry})
    name = settings.methods[0]
    try:
        workspace = Workspace(settings)
        ranking = make_ranking(workspace, name)
        images, labels = probe_examples(workspace, ranking, per_class=OF_EACH_CLASS, most=PROBE_IMAGES)
        return f"ranking {_shown(entry)}", look_at_ranking(ranking, models_of(workspace), images, labels)
    finally:
        # What is looked at takes no name: a defense that is checked next may have it.
        del RANKINGS[name]


def _named(entry: str) -> Any:
    """Return what `entry`, NAME=FILE.py:NAME, names; None where it names nothing, which is told of a defense."""
    file, _, name = entry.partition("=")[2].rpartition(":")
    try:
        path = Path(file).resolve()
        if not path.is_file():
            return None
        with contained():
            return getattr(import_sources(path), name, None)
    except (InputError, OSError, ValueError):  # the last two of what cannot be a path
        return None


def _shown(entry: str) -> str:
    name, _, spec = entry.partition("=")
    return f"{name}={Path(spec).name}"
