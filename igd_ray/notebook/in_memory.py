"""Models, images and defenses that a program holds itself, in place of those that settings name.

Nothing of the program's is changed: igd works on copies, whose base model, and generators, are its own.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import Attack
from igd_ray.attacks.own import named_own, require_free_label
from igd_ray.attacks.registry import NamedAttack
from igd_ray.data import LabeledImages, check_images
from igd_ray.data.images import ArrayReader, row_id
from igd_ray.defenses.own import OwnDefense
from igd_ray.defenses.registry import Argument, Arguments, Parts, Run
from igd_ray.defenses.specs import defense_names, parse_defense
from igd_ray.errors import InputError, first_line
from igd_ray.identity import content_hash
from igd_ray.models import model_fingerprint
from igd_ray.models.live_code import code_in_memory, has_own_code
from igd_ray.models.sources import code_digest
from igd_ray.planning.workspace import IN_MEMORY
from igd_ray.ranking import RANKINGS, Ranking
from igd_ray.ranking.own import checked_class, require_free_name
from igd_ray.units.replica import ModelSource


@dataclass(frozen=True)
class MemoryModel(ModelSource):
    """A base model that a program holds.

    Attributes:
        module: in eval mode, its parameters frozen.
    """

    module: nn.Module = field(kw_only=True, repr=False)

    def load(self, device: str) -> nn.Module:
        """Return the model, or a copy on another device than the CPU."""
        return self.module if device == "cpu" else copy.deepcopy(self.module).to(device)


def memory_model(model: nn.Module) -> MemoryModel:
    """Return `model` for an evaluation: a copy on the CPU, in eval mode, its parameters frozen.

    Its fingerprint is that of the same model loaded by `load_model`, unless its code is in memory only.

    Raises:
        InputError: if it cannot be copied, its parameters are not float32, or the source of its code was not found.
    """
    other = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if other:
        raise InputError(f"model: expected float32 parameters, got {', '.join(map(str, other))}; pass model.float()")
    # Hooks have no place in a compiled graph, and copies of it on several devices.
    for module in model.modules():
        if type(module).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel"):
            raise InputError(
                f"model: {type(module).__name__} is around it; pass what is inside, and build defenses of that"
            )
    fingerprint = model_fingerprint(model)
    if has_own_code(model):
        fingerprint = content_hash([fingerprint, code_in_memory(model)])
    module = _copy(model, {}, "model").cpu().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return MemoryModel(f"{IN_MEMORY}:{type(model).__name__}", None, {}, fingerprint, module=module)


@dataclass(frozen=True, kw_only=True)
class MemoryDefense(OwnDefense):
    """A defense that a program holds, built around its base model.

    Attributes:
        held: the module as the program built it.
        base: the base model that it was built around.
    """

    held: nn.Module = field(repr=False)
    base: nn.Module = field(repr=False)

    name = "memory"

    def imported(self) -> "MemoryDefense":
        """Return this defense: there is nothing to import."""
        return self

    def prepared(self, arguments: Mapping[str, object], run: Run) -> tuple[OwnDefense, Arguments]:
        """Look at the defense on a few images, and return what was found, with its identity.

        Raises:
            InputError: saying what is wrong with it.
        """
        if arguments:
            self.refuse(f"a module takes no arguments, but was given {', '.join(arguments)}; build it with them")
        found = self.looked_at(self.look({}, run))
        return found, {"code": code_in_memory(self.held, self.base.modules())}

    def _made(self, settings: Mapping[str, Argument | str], parts: Parts) -> nn.Module:
        """Return a copy around the base model of `parts`, which draws from its generator."""
        own: dict[int, object] = {id(self.base): parts.model}
        for name, module in self.base.named_modules():
            own[id(module)] = parts.model.get_submodule(name)
        for name, tensor in (*self.base.named_parameters(), *self.base.named_buffers()):
            own[id(tensor)] = _attribute(parts.model, name)
        for generator in _generators(self.held):
            own[id(generator)] = parts.generator
        return _copy(self.held, own, f"defense {self.label}").to(parts.device)

    def refuse(self, why: str) -> NoReturn:
        """Raise an error that names the defense.

        Raises:
            InputError: always.
        """
        raise InputError(f"defense {self.label} ({type(self.held).__name__}): {why}")


def memory_defense(label: str, module: nn.Module, base: nn.Module) -> MemoryDefense:
    """Return `module`, called `label` in tables, as a defense of the base model `base`.

    It is random if one of its modules has a `torch.Generator` as an attribute.

    Raises:
        InputError: if the label is taken, or `module` is the base model itself.
    """
    parse_defense(f"{label}=memory.py:{type(module).__name__}")
    asked = ("generator",) if _generators(module) else ()
    defense = MemoryDefense(label, "", type(module).__name__, asked=asked, held=module, base=base)
    if module is base:
        defense.refuse("it is the base model itself, which `none` stands for; leave it out")
    return defense


def memory_attack(name: str, attack: Attack | type[Attack]) -> NamedAttack:
    """Return `attack` as the one called `name`: LABEL, or LABEL@DEFENSE for one that attacks that defense only.

    Raises:
        InputError: if the label is taken, the class takes arguments, or its source was not found.
    """
    label, _, defense = name.partition("@")
    require_free_label(label, f"attack {name!r}")
    what = f"attack {name} ({attack.__name__ if isinstance(attack, type) else type(attack).__name__})"
    try:
        return named_own(label, attack() if isinstance(attack, type) else attack, defense=defense or None)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:  # making one runs the program's code, which may fail in any way
        raise InputError(f"{what}: {type(error).__name__}: {first_line(error)}") from error


def memory_ranking(name: str, ranking: object) -> type[Ranking]:
    """Make the class `ranking` known as the method `name`, for defenses called NAME-K, and return it.

    Raises:
        InputError: if the name is taken, it is not a class of rankings, or its source was not found.
    """
    what = f"method {name!r}"
    require_free_name(name, what, defense_names())
    found = checked_class(ranking, f"{what}: {getattr(ranking, '__name__', type(ranking).__name__)}")
    if code_digest(found) is None:
        raise InputError(f"{what}: {found.__name__} is a ranking of this package, which has a name already; use that")
    RANKINGS[name] = found
    return found


def memory_images(images: Tensor, labels: Tensor, class_names: tuple[str, ...], what: str) -> LabeledImages:
    """Return tensors as labelled images.

    Args:
        images: float [n, C, H, W] in [0, 1].
        labels: int64 [n].
        class_names: one a class.
        what: how errors call them, and their ids begin.

    Raises:
        InputError: if images or labels are not what they should be.
    """
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
        kinds = f"{type(images).__name__} and {type(labels).__name__}"
        raise InputError(f"{what}: expected tensors (images [n, C, H, W], labels [n]), got {kinds}")
    check_images(images, where=what)
    pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
    return LabeledImages(
        ArrayReader(pixels),
        np.arange(len(pixels), dtype=np.int64),
        labels.detach().cpu(),
        tuple(row_id(what, row, pixels[row].tobytes()) for row in range(len(pixels))),
        class_names,
        IN_MEMORY,
        what,
    )


def _copy(module: nn.Module, own: dict[int, object], what: str) -> nn.Module:
    """Return a copy of `module`, with `own` objects in place of those that have the given ids."""
    try:
        return copy.deepcopy(module, own)
    except Exception as error:  # attributes may be anything
        raise InputError(f"{what}: it cannot be copied by copy.deepcopy: {first_line(error)}") from error


def _attribute(module: nn.Module, path: str) -> object:
    parent, _, name = path.rpartition(".")
    return getattr(module.get_submodule(parent), name)


def _generators(module: nn.Module) -> list[Generator]:
    """Return the generators that modules in `module` have as attributes."""
    return [value for each in module.modules() for value in vars(each).values() if isinstance(value, Generator)]
