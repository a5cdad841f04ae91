"""A defense in a file of the user's: `mine=FILE.py:factory`, judged like the package's own.

`factory(model, **arguments)` returns an nn.Module from [0, 1] images to logits. It may ask by parameter name for
`generator`, `probe`, `scores`, `class_names` and `device`; its other parameters are arguments.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks.adaptive.two_pass import TwoPass
from igd_ray.defenses.contract import DRAWS, Contract, look_at
from igd_ray.defenses.registry import (
    ONE_PASS,
    Argument,
    Arguments,
    DefenseKind,
    DefensePasses,
    Parts,
    Run,
    converted,
)
from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash
from igd_ray.models.anatomy.layers import Layer
from igd_ray.models.anatomy.stand_in import stand_in_logits
from igd_ray.models.sources import contained, import_sources, model_sources, sources_digest
from igd_ray.ranking import RANKINGS

if TYPE_CHECKING:
    from igd_ray.defenses.specs import DefenseLabel, DefenseSpec

# What a factory may ask for by the name of a parameter.
ASKED = ("generator", "probe", "scores", "class_names", "device")

# The argument that names the ranking of the scores, where a factory asks for them.
RANKING = "ranking"
DEFAULT_RANKING = "loir"

# Arguments that say which code it is, and so cannot be a factory's.
IDENTITY = ("code", "factory", RANKING)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(-[A-Za-z0-9_]*[A-Za-z_][A-Za-z0-9_]*)*")

# Images that a defense is looked at on before any work.
LOOKED_AT_IMAGES = 8


@dataclass(frozen=True)
class OwnDefense(DefenseKind):
    """A defense in a file.

    Attributes:
        label: what it is called in tables and before the dot of `--defense-arg`.
        path, factory: the file, and the name of a function or class in it.
        module: what the imported file is called in this process and in every worker: it holds the digest of the code.
        asked: what the factory asks for, of `ASKED`.
        counted: passes of the base model that it makes.
        first_passes: those of its first pass, where it offers both passes.
        surrogate: passes of the stand-in for its gradient; None where attacks can follow its own.
    """

    label: str
    path: str
    factory: str
    module: str = ""
    asked: tuple[str, ...] = ()
    counted: DefensePasses = ONE_PASS
    first_passes: int | None = None
    surrogate: DefensePasses | None = None

    name = "file"

    @property
    def has_two_passes(self) -> bool:
        """Whether its module offers both passes."""
        return self.first_passes is not None

    @property
    def has_surrogate(self) -> bool:
        """Whether a stand-in takes the place of its gradient."""
        return self.surrogate is not None

    @property
    def asks(self) -> tuple[str, ...]:
        """What its factory asks for."""
        return self.asked

    def prepared(self, arguments: Mapping[str, object], run: Run) -> tuple["OwnDefense", Arguments]:
        """Import the file, look at the defense on a few images, and return what was found, with all arguments.

        Raises:
            InputError: naming the file and what is wrong with it.
        """
        known = self.imported()
        settings, method = known.checked(arguments)
        found = known.looked_at(known.look(settings, run))
        run.bring_code(Path(self.path))
        identity: dict[str, Argument | str] = {
            "code": sources_digest(model_sources(Path(self.path))),
            "factory": self.factory,
        }
        if "scores" in known.asks:
            identity[RANKING] = method
        if "probe" in known.asks:
            identity["probe"] = run.probe()[1]
        if "class_names" in known.asks:
            identity["class_names"] = content_hash(list(run.class_names))
        return found, {**settings, **identity}

    def looked_at(self, contract: Contract) -> Self:
        """Return this defense with what a look at it found.

        Raises:
            InputError: if the look found an error.
        """
        if contract.error is not None:
            self.refuse(f"{contract.error.name}: {contract.error.found}")
        return replace(self, counted=contract.passes, first_passes=contract.first_passes, surrogate=contract.surrogate)

    def imported(self) -> "OwnDefense":
        """Return this defense after importing its file, knowing what its factory asks for.

        Raises:
            InputError: if there is no such file or factory, or importing it fails.
        """
        path = Path(self.path)
        if not path.is_file():
            self.refuse(f"no file at {path}")
        try:
            with contained():
                module = import_sources(path)
        except InputError as error:
            self.refuse(f"importing it: {error}")
        factory = getattr(module, self.factory, None)
        if not callable(factory):
            known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            self.refuse(f"it has no factory {self.factory!r}{did_you_mean(self.factory, known)}")
        names = _parameters(factory)
        for name in IDENTITY:
            if name in names:
                self.refuse(f"its factory cannot have an argument called {name!r}, which igd uses; rename it")
        return replace(self, module=module.__name__, asked=tuple(name for name in ASKED if name in names))

    def checked(self, arguments: Mapping[str, object]) -> tuple[dict[str, Argument | str], str]:
        """Return the arguments of the factory, its defaults replaced by those given, and the ranking that it names.

        Raises:
            InputError: if it has no such argument, or a value is of another type than the default.
        """
        given = dict(arguments)
        method = DEFAULT_RANKING
        if "scores" in self.asks:
            method = str(given.pop(RANKING, DEFAULT_RANKING))
            if method not in RANKINGS:
                self.refuse(
                    f"--defense-arg {self.label}.{RANKING}: expected one of {', '.join(RANKINGS)}, not {method!r}"
                )
        own = {name: each for name, each in _parameters(self._factory).items() if name not in ASKED}
        settings: dict[str, Argument | str] = {}
        for name, value in given.items():
            if name not in own:
                has = f"it has {', '.join(own)}" if own else "it has none"
                self.refuse(f"its factory has no argument {name!r}; {has}{did_you_mean(name, own)}")
            default = own[name].default
            if isinstance(default, bool | int | float):
                settings[name] = converted(default, value, f"{self.label}.{name}")
            elif isinstance(value, bool | int | float | str):
                settings[name] = value
            else:
                self.refuse(
                    f"--defense-arg {self.label}.{name}: expected a number, true, false or a text, not {value!r}"
                )
        for name, parameter in own.items():
            if name in settings:
                continue
            if parameter.default is inspect.Parameter.empty:
                self.refuse(f"its factory needs {name}; give --defense-arg {self.label}.{name}=VALUE")
            if isinstance(parameter.default, bool | int | float | str):
                settings[name] = parameter.default
        return settings, method

    def look(self, settings: Mapping[str, Argument | str], run: Run) -> Contract:
        """Look at the defense on a few images, with a stand-in where it asks for a ranking."""
        images, labels = run.examples(LOOKED_AT_IMAGES)
        classes = len(run.class_names)
        scores = None
        if "scores" in self.asks:
            scores = _stand_in_scores(classes, run.layer().width)
        probe = run.probe()[0] if "probe" in self.asks else None

        def build(model: nn.Module, generator: Generator) -> nn.Module:
            parts = Parts(model, generator, scores, probe=probe, class_names=tuple(run.class_names))
            return self._made(settings, parts)

        return look_at(build, run.model, images, labels, num_classes=classes, may_be_random="generator" in self.asks)

    def layer(self, run: Run) -> Layer | None:
        """Return the layer whose neurons are ranked; none where the factory asks for no scores."""
        return run.layer() if "scores" in self.asks else None

    def ranking(self, label: "DefenseLabel", arguments: Arguments) -> str | None:
        """Return the ranking of the scores; none where the factory asks for none."""
        return str(arguments[RANKING]) if "scores" in self.asks else None

    def is_random(self, spec: "DefenseSpec") -> bool:
        """Return whether the factory asks for a generator."""
        return "generator" in self.asks

    def passes(self, spec: "DefenseSpec") -> DefensePasses:
        """Return the passes that were counted; a stand-in's gradient is one where its own has none."""
        return self.counted._replace(gradient_backwards=max(1, self.counted.gradient_backwards))

    def build(self, spec: "DefenseSpec", parts: Parts) -> nn.Module:
        """Return what the factory returns, with what igd has counted of it."""
        names = (*IDENTITY, *ASKED)
        module = self._made({name: value for name, value in spec.arguments if name not in names}, parts).eval()
        counted = self.counted
        for name, passes in (
            ("forward_passes", counted.query_forwards),
            ("inner_backward_passes", counted.query_backwards),
            ("backward_passes", counted.gradient_backwards),
        ):
            if not hasattr(module, name):
                setattr(module, name, passes)
        if self.first_passes is not None and not isinstance(module, TwoPass):
            setattr(module, DRAWS, self.first_passes)
        if self.surrogate is not None:
            offered: Any = module
            offered.surrogate_passes = tuple(self.surrogate)
            offered.surrogate_logits = partial(stand_in_logits, module, parts.model)
        return module

    def _made(self, settings: Mapping[str, Argument | str], parts: Parts) -> nn.Module:
        available = {
            "generator": parts.generator,
            "probe": parts.probe,
            "scores": parts.scores,
            "class_names": parts.class_names,
            "device": parts.device,
        }
        made: nn.Module = self._factory(parts.model, **{name: available[name] for name in self.asks}, **settings)
        return made

    @property
    def _factory(self) -> Callable[..., Any]:
        if self.module not in sys.modules:
            import_sources(Path(self.path))
        factory: Callable[..., Any] = getattr(sys.modules[self.module], self.factory)
        return factory

    def refuse(self, why: str) -> NoReturn:
        """Raise an error that names the file.

        Raises:
            InputError: always.
        """
        raise InputError(f"defense {self.label}={Path(self.path).name}:{self.factory}: {why}")


def parse_own(entry: str) -> OwnDefense:
    """Return the defense that `entry`, NAME=FILE.py:factory, names; nothing is read.

    Raises:
        InputError: if it is not of that form.
    """
    name, _, spec = entry.partition("=")
    file, colon, factory = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not factory:
        raise InputError(f"a defense of your own is given as NAME=FILE.py:factory, not {entry!r}")
    if not NAME.fullmatch(name):
        raise InputError(
            f"--defenses {entry}: a name has letters, digits, _ and -, and must not end like loir-50; choose another"
        )
    return OwnDefense(name, str(Path(file).resolve()), factory)


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named parameters of `factory` behind the first, the base model."""
    named = inspect.signature(factory).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in list(named.items())[1:] if each.kind in kinds}


def _stand_in_scores(classes: int, width: int) -> Tensor:
    """Return random scores, float64 [C, N], for a look at the defense before its ranking is computed."""
    return torch.rand(classes, width, generator=Generator().manual_seed(0), dtype=torch.float64)
