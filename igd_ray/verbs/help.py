"""The help of a verb: its usual flags with their defaults, and two examples; `--help-all` shows rare flags, too."""

import argparse
from collections.abc import Sequence
from typing import Any

from igd_ray.errors import InputError

# Two commands of each verb.
EXAMPLES = {
    "demo": ("igd demo", "igd demo --executor local --n 16 --catalog results-small"),
    "rank": (
        "igd rank --method loir,cdir",
        "igd rank --model net.py:factory --weights net.safetensors --data 'parquet:{split}.parquet' --classes cifar10",
    ),
    "train": ("igd train sodef", "igd train sodef --defense-arg sodef.steps=200"),
    "search": ("igd search --tolerance 0.01", "igd search --sigmas 0.5,1 --taus 0.001:1:4 --refine 2"),
    "evaluate": (
        "igd evaluate --defenses none,loir-8 --attacks iwwc,audit --mode cascade --dry-run",
        'igd evaluate --model net.py:factory --weights net.safetensors --attacks aa --gate "worst_case >= 0.3"',
    ),
    "analyze": (
        "igd analyze overlap --defenses loir-8,cdir-8",
        "igd analyze sensitivity --defenses none,loir-8 --vary k=4,8,16 --vary sigma=0,0.05 --figure heat.svg",
    ),
    "check": ("igd check mine.py:factory", "igd check mine=mine.py:factory --defense-arg mine.levels=8"),
    "new": ("igd new defense mine", "igd new defense rounding && igd check rounding.py:factory"),
    "verify": ("igd verify --sample 16", "igd verify --points aa.pth --model robustbench:Wong2020Fast --data cifar10"),
    "report": ("igd report", "igd report --run-id 0123456789ab --output paper/report.html"),
    "view": ("igd view", "igd view --catalog results-worst-case --port 8000"),
    "export": ("igd export", "igd export 0123456789ab --to paper/records --points paper/points"),
    "sql": ('igd sql "SELECT * FROM worst_case"', "igd sql --file table8 --format csv --output table8.csv"),
    "status": ("igd status", "igd status --catalog s3://BUCKET/results --json"),
    "config": ("igd config show", "igd config show 0123456789ab > again.yaml"),
    "compact": ("igd compact", "igd compact --catalog results-worst-case"),
    "submit": (
        "igd submit evaluate --defenses none,loir-8 --catalog /shared/results",
        "igd submit --address http://127.0.0.1:8265 report --catalog /shared/results --output /shared/report.html",
    ),
    "zoo": ("igd zoo cifar10/Linf", "igd zoo --check 'cifar100/*_RN18'"),
    "bench": ("igd bench dispatch", "igd bench scaling --actors 4"),
    "completion": ("igd completion bash", "igd completion zsh"),
    "doctor": ("igd doctor", "igd doctor --json"),
}

# Flags, by the setting, that most evaluations leave alone. Where a model is loaded, only `--help-all` shows them.
RARE = frozenset(
    [
        *("output", "label_column", "image_mode", "probe_n", "search_n", "search_split", "every_class", "signed"),
        *("similarity", "prompts", "prompt_template", "clip", "clip_weights", "unit_timeout", "price", "method_arg"),
        *("ranking", "attack_seed", "judge_draws", "shard_size", "engine", "save_points", "draws"),
    ]
)


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag as one line that starts like every other error, and folds rare flags."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        settings.setdefault("formatter_class", _WithDefaults)
        super().__init__(*arguments, **settings)
        self.examples = examples
        if self.usage is None:
            self.add_argument("--help-all", action=_HelpAll, help="show this help message with all flags, and exit")

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise the message, for the one place that prints errors."""
        raise InputError(f"{message}; see `{self.prog} --help`")

    def format_help(self) -> str:
        """Return the help without rare flags."""
        folded = [
            action for action in self._actions if action.dest in RARE and "--model" in self._option_string_actions
        ]
        kept = {action: action.help for action in folded}
        for action in folded:
            action.help = argparse.SUPPRESS
        try:
            more = f"\n{len(folded)} more flags: {self.prog} --help-all\n" if folded else ""
            return f"{self.format_all(more)}"
        finally:
            for action, text in kept.items():
                action.help = text

    def format_all(self, more: str = "") -> str:
        """Return the help of all flags, and `more` before the examples."""
        examples = "".join(f"  {example}\n" for example in self.examples)
        before = self.usage
        self.usage = before or self._short_usage()
        try:
            return super().format_help() + more + (f"\nexamples:\n{examples}" if examples else "")
        finally:
            self.usage = before

    def _short_usage(self) -> str:
        """Return the usage with the names of positional arguments, in place of lines of flags."""
        flags = [action for action in self._actions if action.option_strings]
        kept = {action: action.help for action in flags}
        for action in flags:
            action.help = argparse.SUPPRESS
        try:
            words = " ".join(self.format_usage().split()[1:])
        finally:
            for action, text in kept.items():
                action.help = text
        return f"{words} [flags]".replace("%", "%%")


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], **settings: Any) -> None:
        super().__init__(
            option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=settings["help"]
        )

    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        """Print the help of all flags, and exit."""
        assert isinstance(parser, Parser)
        print(parser.format_all(), end="")
        parser.exit()


class _WithDefaults(argparse.HelpFormatter):
    """Says of each flag that does not say its default itself what it is: off, or not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if not text or not action.option_strings or "default" in text or action.dest in ("help", argparse.SUPPRESS):
            return text
        return f"{text} (default: {'off' if action.nargs == 0 else 'not given'})"
