"""`igd completion SHELL`: a script that completes verbs, flags and their values."""

import argparse
from importlib import import_module

import shtab

from igd_ray.attacks.registry import known_attacks
from igd_ray.defenses.specs import known_defenses
from igd_ray.verbs import VERBS
from igd_ray.verbs.flags import Parser

SHELLS = ("bash", "zsh", "fish")

# What a placeholder of a value says of it.
PLACES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}

# Where each shell finds the script.
EPILOG = (
    'For this session: eval "$(igd completion bash)". For each later one: igd completion bash > '
    "~/.local/share/bash-completion/completions/igd; igd completion zsh > a file _igd in a folder of $fpath; "
    "igd completion fish > ~/.config/fish/completions/igd.fish"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=list(SHELLS), help="whose script is printed")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(shtab.complete(whole_parser(), arguments.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all verbs with their flags, for completion only: each verb makes its own when it runs."""
    parser = Parser(prog="igd")
    verbs = parser.add_subparsers(dest="verb")
    for verb, summary in VERBS.items():
        of_verb = verbs.add_parser(verb, help=summary, description=summary)
        import_module(f"igd_ray.verbs.{verb}").add_arguments(of_verb)
        _add_values(of_verb)
    return parser


def _add_values(parser: argparse.ArgumentParser) -> None:
    """Tell completion which values of a verb are files, folders, defenses or attacks."""
    labels = {"defenses": known_defenses(), "attacks": known_attacks()}
    for action in parser._actions:
        if action.metavar in PLACES:
            action.complete = PLACES[str(action.metavar)]  # type: ignore[attr-defined]
        elif action.dest in labels and action.choices is None:
            action.choices = list(labels[action.dest])
