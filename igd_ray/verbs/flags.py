"""Flags that verbs share, their help with rare ones folded, and what they choose; one that is not given is absent."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from igd_ray.errors import InputError, first_line
from igd_ray.values.environment import CATALOG, EXECUTOR, environment_settings

if TYPE_CHECKING:
    from igd_ray.cluster import RayExecutor
    from igd_ray.config import WorkspaceSettings
    from igd_ray.execution.session import ExecutorFactory
    from igd_ray.units.replica import WorkerSetup


def add_catalog_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--catalog` to a verb that reads one."""
    parser.add_argument(
        "--catalog",
        metavar="DIR",
        default=environment_settings().get("catalog", "results"),
        help=f"folder of results (default: {CATALOG}, else results)",
    )


def add_workspace_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `WorkspaceSettings`."""
    model = parser.add_argument_group("model and data")
    model.add_argument(
        "--model",
        help="demo, robustbench:NAME, timm:NAME, hf:OWNER/NAME[@REVISION] (safetensors with timm's config.json; "
        "with :FILE.py:factory behind it the code there) or path/to/file.py:factory (default: demo)",
    )
    model.add_argument(
        "--weights",
        metavar="FILE",
        help="safetensors, or a PyTorch state dict; FILE#model_ema picks one of several; own takes the factory's",
    )
    model.add_argument(
        "--model-arg", action="append", metavar="NAME=VALUE", help="an argument of the factory; may be repeated"
    )
    model.add_argument(
        "--output", metavar="NAME", help="which output of the model holds the logits, by key or position: logits, 0"
    )
    model.add_argument(
        "--data",
        help="digits, cifar10, cifar100, imagenet:DIR, parquet:FILE (or a folder or pattern of files), hf:OWNER/NAME "
        "or folder:DIR (default: digits)",
    )
    model.add_argument(
        "--label-column", metavar="NAME", help="of parquet: and hf: (default: label, fine_label, labels or target)"
    )
    model.add_argument(
        "--image-mode", metavar="MODE", help="RGB makes grey images colour, L colour ones grey (default: as they are)"
    )
    model.add_argument("--split", help="the split that is evaluated (default: test)")
    model.add_argument("--n", type=int, help="how many of its images, from the first (default: 256)")
    model.add_argument("--probe-n", type=int, help="training images that rank neurons (default: at most 10000)")
    model.add_argument("--search-n", type=int, help="images that choose k (default: at most 2000)")
    model.add_argument("--search-split", help="where those come from (default: train, apart from the probe images)")
    model.add_argument("--classes", metavar="FILE", help="class names, one per line; or cifar10, cifar100")
    model.add_argument("--layer", help="penultimate, or a module's path such as layer3 (default: penultimate)")
    model.add_argument(
        "--clip", help="demo, NAME/PRETRAINED or a JSON config (default: demo for digits, else ViT-B-16/openai)"
    )
    model.add_argument("--every-class", action="store_true", help="LO-IR: every class's logit on every image")
    model.add_argument("--signed", action="store_true", help="LO-IR: signed instead of absolute changes")
    model.add_argument("--similarity", help="CD-IR: soft-wpmi, wpmi or rank-reorder (default: soft-wpmi)")
    model.add_argument("--prompts", metavar="FILE", help="CD-IR: prompts, one line per class (default: class names)")
    model.add_argument(
        "--prompt-template", action="append", metavar="TEXT", help='CD-IR: such as "a photo of a {}."; may be repeated'
    )
    model.add_argument("--clip-weights", metavar="FILE", help="a local checkpoint of the CLIP model")
    running = parser.add_argument_group("running")
    running.add_argument("--catalog", metavar="DIR", help=f"folder of results (default: {CATALOG}, else results)")
    running.add_argument("--seed", type=int, help="what every seed derives from (default: 0)")
    running.add_argument(
        "--executor", choices=["ray", "local"], help=f"actors, or this process (default: {EXECUTOR}, else ray)"
    )
    running.add_argument("--actors", type=int, help="model replicas (default: one per GPU, or one per CPU)")
    running.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: auto")
    running.add_argument(
        "--unit-timeout", type=float, metavar="SECONDS", help="take a unit for hung after this long (default: 6 hours)"
    )
    running.add_argument("--price", type=float, help="of a worker, an hour, for the cost that igd status shows")
    running.add_argument("--config", metavar="FILE", default=None, help="YAML with any of these settings")
    running.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run`."""
    parser.add_argument(
        "--dry-run", action="store_true", default=False, help="print units, passes and estimated time; run nothing"
    )


def add_defense_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the two-pass defense and the threat model."""
    defense = parser.add_argument_group("threat model and defense")
    defense.add_argument("--norm", help="linf or l2 (default: linf)")
    defense.add_argument("--eps", help="in [0, 1] pixel units, such as 8/255 (default: 0.15 for digits, else 8/255)")
    defense.add_argument("--sigma", help="first-pass noise, in [0, 1] pixel units (default: eps/2)")
    defense.add_argument("--tau", type=float, help="temperature of the pseudo-label (default: 0.01)")
    defense.add_argument("--draws", type=int, help="noise draws averaged in the first pass (default: 1)")


def add_defense_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--defense-arg`."""
    parser.add_argument(
        "--defense-arg",
        action="append",
        metavar="NAME=VALUE",
        help="an argument of a defense, such as hedge.steps=10 or, of your own, mine.steps=3; may be repeated",
    )


OWN_RANKING = "NAME=FILE.py:CLASS"


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--method-arg`."""
    parser.add_argument(
        "--method-arg",
        action="append",
        metavar="NAME.SETTING=VALUE",
        help=f"a setting of a ranking of your own, given as --method {OWN_RANKING}; may be repeated",
    )


# Where things are now, which may be elsewhere than when the run was evaluated.
MOVED: Mapping[str, tuple[str | None, str]] = {
    "model": (None, "where the model is now; a Python file must be named here"),
    "weights": ("FILE", "where its weights are now"),
    "defenses": (None, "all of the run's; defenses in Python files must be named here"),
    "attacks": (None, "all of the run's; attacks in Python files must be named here"),
    "method": (None, "all of the run's; rankings in Python files must be named here"),
    "points": ("FILE", "where the files of points are now, named as in the run"),
    "data": (None, "where the data is now"),
    "classes": ("FILE", "where the class names are now"),
    "clip": (None, "where the CLIP model is now, for CD-IR"),
    "clip_weights": ("FILE", "where its checkpoint is now"),
    "prompts": ("FILE", "where the prompts are now"),
}


def add_moved_flags(parser: argparse.ArgumentParser, title: str, names: Iterable[str]) -> None:
    """Add those flags of `MOVED` that `names` names, under `title`."""
    group = parser.add_argument_group(title)
    for name in names:
        metavar, meaning = MOVED[name]
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=f"{meaning} (default: the run's)")


NOT_SETTINGS = (
    *("verb", "run", "config", "json", "dry_run", "show", "top", "gate", "junit", "figure"),
    *("experiment", "scale"),
)


def given_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings that the command line gives.

    Raises:
        InputError: for a --model-arg, --defense-arg or --method-arg without "=".
    """
    given = {name: value for name, value in vars(arguments).items() if name not in NOT_SETTINGS}
    for setting, example in (
        ("model_arg", "width=16"),
        ("defense_arg", "hedge.steps=20"),
        ("method_arg", "mine.power=2"),
    ):
        if setting in given:
            texts = getattr(arguments, setting)
            given[setting] = dict(_argument(text, setting.replace("_", "-"), example) for text in texts)
    return given


def _argument(text: str, flag: str, example: str) -> tuple[str, object]:
    import yaml

    from igd_ray.values.plain_yaml import plain_value

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--{flag} must be NAME=VALUE, such as {example}, not {text!r}")
    try:
        return name, plain_value(value)
    except yaml.YAMLError as error:
        if isinstance(error, yaml.MarkedYAMLError):
            return name, value  # text that YAML would read as broken syntax
        raise InputError(f"--{flag} {name}: {first_line(error)}") from None
    except ValueError as error:
        raise InputError(f"--{flag} {name}: not a plain value ({first_line(error)})") from None


def executor_for(settings: "WorkspaceSettings") -> "ExecutorFactory":
    """Return what makes the executor; PyTorch is imported only here, and Ray where something is to run on it.

    Raises:
        InputError: for a device that this machine does not have.
    """
    if settings.executor == "local":
        from igd_ray.execution.executor import in_process

        return in_process(settings.device)

    def on_ray(setup: "WorkerSetup") -> "RayExecutor":
        from igd_ray.cluster import RayExecutor

        return RayExecutor(setup, actors=settings.actors, device=settings.device, seconds=settings.unit_timeout)

    return on_ray


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
