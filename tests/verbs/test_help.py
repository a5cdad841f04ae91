"""The help of every verb: examples that parse, a default of each flag, rare flags behind --help-all."""

import argparse
import re
import shlex
from importlib import import_module

import pytest

from igd_ray.cli import main
from igd_ray.verbs import EXAMPLES, VERBS
from igd_ray.verbs.flags import RARE, Parser


def parser_of(verb: str) -> Parser:
    parser = Parser(prog=f"igd {verb}", examples=EXAMPLES[verb], argument_default=argparse.SUPPRESS)
    import_module(f"igd_ray.verbs.{verb}").add_arguments(parser)
    return parser


@pytest.mark.parametrize("verb", VERBS)
def test_two_examples_are_shown_and_can_be_parsed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert len(EXAMPLES[verb]) == 2
    for example in EXAMPLES[verb]:
        assert f"\n  {example}\n" in out
        program, named, *words = shlex.split(example.partition(" && ")[0].partition(" > ")[0])
        assert (program, named) == ("igd", verb)
        parser_of(verb).parse_args(words)


@pytest.mark.parametrize("verb", VERBS)
def test_each_flag_says_its_default(verb: str) -> None:
    parser = parser_of(verb)
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.option_strings and action.dest not in ("help", argparse.SUPPRESS):
            assert "default" in (formatter._get_help_string(action) or ""), f"igd {verb} {action.option_strings[0]}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_all_shows_every_flag_and_help_all_but_rare_ones(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main([verb, flag])
        shown[flag] = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    parser = parser_of(verb)
    named = [action for action in parser._actions if action.option_strings]
    flags = {next(each for each in action.option_strings if each.startswith("--")): action.dest for action in named}
    assert set(flags) <= shown["--help-all"]
    rare = {flag for flag, name in flags.items() if name in RARE and "--model" in flags}
    assert set(flags) - shown["--help"] == rare


def test_the_help_of_evaluate_fits_on_two_screens() -> None:
    parser = parser_of("evaluate")
    short, whole = (len(text.splitlines()) for text in (parser.format_help(), parser.format_all()))
    assert short < 120 < whole
