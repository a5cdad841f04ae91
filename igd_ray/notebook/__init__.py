"""Evaluations from a program or a notebook: in this process, of models and defenses that exist only in memory."""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igd_ray.attacks import Attack
from igd_ray.attacks.registry import CLEAN, NamedAttack
from igd_ray.catalog import ask, run_query
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.data import LabeledImages, check_images
from igd_ray.data.class_names import numbered_class_names, rename_classes
from igd_ray.data.images import Window
from igd_ray.data.loading import SOURCES
from igd_ray.defenses.specs import parse_defense
from igd_ray.errors import InputError, first_line
from igd_ray.execution.executor import in_process
from igd_ray.execution.session import Session, require_all
from igd_ray.models import load_model
from igd_ray.models.sources import read_code_anew
from igd_ray.notebook.in_memory import (
    MemoryModel,
    memory_attack,
    memory_defense,
    memory_images,
    memory_model,
    memory_ranking,
)
from igd_ray.notebook.tables import Evaluation, ResultTable
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import IN_MEMORY, Given, Workspace, class_names_of
from igd_ray.protocol import NONE
from igd_ray.ranking import Ranking
from igd_ray.ranking.own import own_settings
from igd_ray.report.results import find_run, read_results
from igd_ray.verbs.evaluate import evaluate as run_evaluation

__all__ = ["Evaluation", "ResultTable", "evaluate"]

Images = LabeledImages | tuple[Tensor, Tensor]

# A label, or what only the program holds.
GivenAttack = str | Attack | type[Attack]

# Settings that are given otherwise, and how.
ELSEWHERE = {
    "data": "pass it as `images`",
    **dict.fromkeys(
        ("executor", "actors", "unit_timeout", "price"), "it runs in this process; use `igd evaluate` for Ray"
    ),
}


def evaluate(
    model: nn.Module | str,
    images: Images | str,
    *,
    defenses: Mapping[str, nn.Module | str | None] | Sequence[str] = (),
    attacks: Mapping[str, GivenAttack | None] | Sequence[GivenAttack] | None = None,
    method: Mapping[str, type[Ranking] | str] | Sequence[str] = (),
    catalog: str | Path | None = None,
    eps: float | str | None = None,
    norm: str | None = None,
    seed: int | None = None,
    probe: Images | None = None,
    **settings: Any,
) -> Evaluation:
    """Attack `model` and `defenses` on `images` in this process, and return the tables of `igd evaluate`.

    What exists only in memory is known by its weights, its values, its settings and its source. The model and the
    modules are copied, and stay as they are.

    Args:
        model: an nn.Module from float32 images [B, C, H, W] in [0, 1] to logits [B, classes], or a spec as `--model`.
        images: `load_images(…)`, a pair (images float [n, C, H, W] in [0, 1], labels int64 [n]), or a spec as `--data`.
        defenses: by label: an nn.Module built around `model`; None where the label says it all, as "loir-16" does; or
            "FILE.py:factory". A list of labels will do without modules. `none` is always among them.
        attacks: labels, as of `--attacks`, and attacks of your own: objects or classes of `igd_ray.attacks.Attack`,
            called by their class's name, or by the keys of a mapping: {"aa": None, "mine": Mine(steps=5), "tr-mine":
            Mine}. AutoAttack and one transfer by default.
        method: rankings of your own by name, {"mine": Mine} or {"mine": "FILE.py:Mine"}, for defenses as "mine-8".
        catalog: the folder of results, from which another call takes what is computed already; by default a new
            temporary folder, which `Evaluation.catalog` names.
        eps: in [0, 1] pixel units, or "8/255", which is the default, but for the digits.
        norm: "linf", "l2" or "l1".
        seed: every seed derives from it.
        probe: labelled training images, where rankings need them and `images` are tensors.
        settings: any other setting of `igd evaluate`, named as its flag: n=64, mode="cascade", sigma=…

    Raises:
        InputError: for anything that cannot be used, before anything is computed or written.
        IncompleteError: if a unit failed; the others are kept in the catalog.
    """
    for name in settings.keys() & ELSEWHERE.keys():
        raise InputError(f"{name}: {ELSEWHERE[name]}")
    named: dict[str, object] = {"eps": eps, "norm": norm, "seed": seed}
    given = {**settings, **{name: value for name, value in named.items() if value is not None}}
    read_code_anew()
    labels, modules = _defenses(defenses)
    held_attacks = None if attacks is None else _attacks(attacks)
    if held_attacks is not None:
        in_files = [entry for entry, held in held_attacks.items() if held is None]
        given["attacks"] = in_files or ([CLEAN] if held_attacks else [])
    given["method"], rankings = _rankings(method)
    arguments = _arguments_of(rankings, given, labels)
    given |= {"defenses": labels, "executor": "local", "catalog": str(catalog or IN_MEMORY), **_of_data(images)}
    given["model"] = model if isinstance(model, str) else _in_memory(type(model))
    checked = load_settings(EvaluateSettings, file=None, given=given)
    executor = in_process(checked.device)
    if isinstance(model, str) and modules:
        raise InputError(
            f"{', '.join(modules)} are modules, but the model is the text {model!r}; pass the module that they are "
            "built around, such as load_model(…) returns it"
        )
    source = None if isinstance(model, str) else memory_model(model)
    own = {
        f"{label}={_in_memory(type(module))}": memory_defense(label, module, model)
        for label, module in modules.items()
        if isinstance(model, nn.Module)
    }
    test = None if isinstance(images, str) else _labelled(images, "test", checked, source)
    if test is not None and checked.n is not None:
        test = test.select(Window(checked.n).rows(len(test), "images"))
    held = Given(
        source,
        test,
        None if probe is None else _labelled(probe, "probe", checked, source),
        own,
        {entry: each for entry, each in (held_attacks or {}).items() if each is not None},
    )
    complete = checked.model_copy(
        update={
            "defenses": (*labels, *own),
            "attacks": checked.attacks if held_attacks is None else tuple(held_attacks),
            "method": (*checked.method, *(f"{name}={_in_memory(each)}" for name, each in rankings.items())),
            "method_arg": {**checked.method_arg, **arguments},
        }
    )
    with _folder(catalog) as folder:
        complete = complete.model_copy(update={"catalog": folder})
        workspace = Workspace(complete, held)
        plan = plan_evaluation(workspace)
    with Session(workspace, executor) as session:
        require_all(run_evaluation(session, plan), "evaluation")
    results = ask(workspace.catalog, lambda reader: read_results(reader, find_run(reader, plan.run_id)))
    rows = f"FROM outcomes WHERE run_id = '{plan.run_id}' ORDER BY defense <> 'none', defense, attack, image_id"
    return Evaluation.of(results, folder, run_query(workspace.catalog, rows))


def _defenses(
    defenses: Mapping[str, nn.Module | str | None] | Sequence[str],
) -> tuple[tuple[str, ...], dict[str, nn.Module]]:
    """Return the labels, `none` first, and the modules by label."""
    given = defenses if isinstance(defenses, Mapping) else dict.fromkeys(_listed(defenses))
    labels: list[str] = [NONE]
    modules: dict[str, nn.Module] = {}
    for label, value in given.items():
        if isinstance(value, nn.Module):
            modules[label] = value
        elif value is None or value == label:
            labels.append(label)
        elif isinstance(value, str) and ".py:" in value:
            labels.append(f"{label}={value}")
        else:
            raise InputError(
                f"defense {label!r}: expected an nn.Module, None where the label says it all, or FILE.py:factory, not "
                f"{value if isinstance(value, str) else type(value).__name__!r}"
            )
    return tuple(dict.fromkeys(labels)), modules


def _attacks(
    attacks: Mapping[str, GivenAttack | None] | Sequence[GivenAttack],
) -> dict[str, NamedAttack | None]:
    """Return the entries of `attacks`, in order, with the attack where only this program holds it."""
    pairs: Iterable[tuple[str | None, GivenAttack | None]] = (
        attacks.items() if isinstance(attacks, Mapping) else [(None, each) for each in _listed(attacks)]
    )
    found: dict[str, NamedAttack | None] = {}
    for name, value in pairs:
        if isinstance(value, Attack) or (isinstance(value, type) and issubclass(value, Attack)):
            kind = value if isinstance(value, type) else type(value)
            label = _label_of(kind) if name is None else name
            if (entry := f"{label}={_in_memory(kind)}") in found:
                raise InputError(f"two attacks are called {label!r}; name them: attacks={{'one': …, 'other': …}}")
            found[entry] = memory_attack(label, value)
        elif isinstance(value, str) and (name is None or name == value or ".py:" in value):
            found[value if name in (None, value) else f"{name}={value}"] = None
        elif value is None and name is not None:
            found[name] = None
        else:
            raise InputError(
                f"attack {name or value!r}: expected a label, an object or a class of igd_ray.attacks.Attack, or "
                f"NAME=FILE.py:Attack, not {value if isinstance(value, str) else type(value).__name__!r}"
            )
    return found


def _label_of(kind: type[Attack]) -> str:
    """Return what an attack without a given label is called: its name, or that of its class in lower case.

    >>> from igd_ray.attacks import FGSM
    >>> _label_of(type("RandomCorners", (FGSM,), {"name": "RandomCorners"}))
    'random-corners'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.name).lower()


def _rankings(
    method: Mapping[str, type[Ranking] | str] | Sequence[str],
) -> tuple[list[str], dict[str, type[Ranking]]]:
    """Return the entries of rankings in files, and the classes that only this program holds, by name."""
    entries: list[str] = []
    classes: dict[str, type[Ranking]] = {}
    if not isinstance(method, Mapping):
        return _listed(method), classes
    for name, value in method.items():
        if isinstance(value, str):
            entries.append(f"{name}={value}")
        else:
            classes[name] = memory_ranking(name, value)
    return entries, classes


def _arguments_of(
    rankings: Mapping[str, type[Ranking]], given: dict[str, object], labels: Sequence[str]
) -> dict[str, object]:
    """Take the settings of `rankings` out of the given `method_arg`, and return them.

    Raises:
        InputError: if a ranking has no such setting, or no defense among `labels` uses it.
    """
    used = {parse_defense(label).method for label in labels}
    for name in rankings:
        if name not in used:
            raise InputError(f"method {name!r}: no defense of the run uses it; add {name}-K to defenses")
    everything = given.get("method_arg")
    if not rankings or not isinstance(everything, Mapping):
        return {}
    own = {name: value for name, value in everything.items() if str(name).partition(".")[0] in rankings}
    given["method_arg"] = {name: value for name, value in everything.items() if name not in own}
    for name, ranking in rankings.items():
        own_settings(name, ranking, own)
    return own


def _in_memory(kind: type) -> str:
    """Return what settings and catalog call an object of the class `kind` that only this program holds."""
    return f"{IN_MEMORY}:{kind.__name__}"


def _listed(labels: str | Sequence[Any]) -> list[Any]:
    return [label.strip() for label in labels.split(",")] if isinstance(labels, str) else list(labels)


def _of_data(images: Images | str) -> dict[str, object]:
    """Return the settings that say where `images` are from."""
    if isinstance(images, str):
        return {"data": images}
    if isinstance(images, LabeledImages) and images.spec.partition(":")[0] in SOURCES:
        return {"data": images.spec, "split": images.split}
    return {"data": IN_MEMORY}


def _labelled(images: Images, what: str, settings: EvaluateSettings, source: MemoryModel | None) -> LabeledImages:
    """Return `images` with class names: their own, those that the settings name, or else numbers.

    Raises:
        InputError: if they are not images, or the names do not fit.
    """
    names = class_names_of(settings.classes)
    if isinstance(images, LabeledImages):
        return images if names is None else rename_classes(images, names)
    if not isinstance(images, tuple | list) or len(images) != 2 or not all(isinstance(each, Tensor) for each in images):
        raise InputError(
            f"{what} images: expected load_images(…) or a pair of tensors (images [n, C, H, W], labels [n]), not "
            f"{type(images).__name__}"
        )
    pixels, labels = images
    check_images(pixels, where=f"{what} images")
    if names is None:
        names = numbered_class_names(_classes(pixels[:1].float(), settings, source))
    return memory_images(pixels, labels, names, what)


def _classes(example: Tensor, settings: EvaluateSettings, source: MemoryModel | None) -> int:
    """Return how many classes the model tells apart, by its answer to an image; 1 where that is not a tensor."""
    if source is not None:
        model = source.load("cpu")
    else:
        model = load_model(settings.model, weights=settings.weights, output=settings.output, **settings.model_arg)
    try:
        with torch.no_grad():
            logits = model(example.cpu())
    except Exception as error:  # a model is somebody's code, and may fail in any way
        raise InputError(
            f"model cannot take images {list(example.shape[1:])}: {type(error).__name__}: {first_line(error)}"
        ) from error
    return int(logits.shape[-1]) if isinstance(logits, Tensor) else 1


@contextmanager
def _folder(catalog: str | Path | None) -> Iterator[str]:
    """Yield the folder of results: a new one where none is given, which goes again where planning fails."""
    if catalog is not None:
        yield str(catalog)
        return
    folder = tempfile.mkdtemp(prefix="igd-")
    try:
        yield folder
    except BaseException:
        Path(folder).rmdir()
        raise
