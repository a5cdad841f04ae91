"""RobustBench's zoo: its entries against ℓ∞ and ℓ2 attacks, and their architectures, built without any download."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import pyautoattack
import pyautoattack.state
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean, first_line

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
THREATS = ("Linf", "L2")


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        dataset: "cifar10", "cifar100" or "imagenet".
        threat: "Linf" or "L2".
        name: RobustBench's name, such as "Wong2020Fast".
        timm_name: the architecture's name in timm's registry, where RobustBench takes the model from there.
        drive_ids: where its checkpoint files are on Google Drive, several for an ensemble.
    """

    dataset: str
    threat: str
    name: str
    timm_name: str | None
    drive_ids: tuple[str, ...]

    def __str__(self) -> str:
        """Return the name by which `robustbench:` finds this entry and no other."""
        return f"{self.dataset}/{self.threat}/{self.name}"


@cache
def robustbench_modules() -> tuple[ModuleType, dict[Any, dict[Any, dict[str, Any]]]]:
    """Import robustbench; return its `utils` and its models by dataset and threat model."""
    # robustbench imports `autoattack`; the package on the index is the same code under the name `pyautoattack`.
    sys.modules.setdefault("autoattack", pyautoattack)
    sys.modules.setdefault("autoattack.state", pyautoattack.state)
    with warnings.catch_warnings():
        # It imports pkg_resources, which warns of its own removal; setuptools is pinned for that reason.
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
        # It imports timm by names that timm has since moved.
        warnings.filterwarnings("ignore", category=FutureWarning)
        from robustbench import utils
        from robustbench.model_zoo import model_dicts
    return utils, model_dicts


@cache
def zoo_entries() -> tuple[Entry, ...]:
    """Return every entry, by dataset, then threat model, then in RobustBench's order."""
    import timm  # takes a second

    definitions = _definitions()
    found = []
    for (dataset, threat, name), definition in definitions.items():
        timm_name = f"{name}_{dataset}_{threat}".lower().replace("-", "_")
        ids = definition["gdrive_id"]
        found.append(
            Entry(
                dataset,
                threat,
                name,
                timm_name if timm.is_model(timm_name) else None,
                tuple(ids) if isinstance(ids, list) else (ids,) if ids else (),
            )
        )
    return tuple(found)


@cache
def _definitions() -> dict[tuple[str, str, str], dict[str, Any]]:
    _, models = robustbench_modules()
    by_value = {
        (dataset.value, threat.value): entries for dataset in models for threat, entries in models[dataset].items()
    }
    return {
        (dataset, threat, name): definition
        for dataset in CLASSES
        for threat in THREATS
        for name, definition in by_value.get((dataset, threat), {}).items()
    }


def find_entry(name: str) -> Entry:
    """Return the entry `NAME` or `DATASET/THREAT/NAME`; of several with one NAME the first.

    Raises:
        InputError: if there is none, with the names that are close.
    """
    parts = name.split("/")
    if len(parts) not in (1, 3):
        raise InputError(f"robustbench model must be NAME or DATASET/THREAT/NAME, not {name!r}")
    among = [entry for entry in zoo_entries() if len(parts) == 1 or [entry.dataset, entry.threat] == parts[:2]]
    found = [entry for entry in among if entry.name == parts[-1]]
    if not found:
        known = {entry.name for entry in among}
        raise InputError(f"RobustBench has no model {name!r}{did_you_mean(parts[-1], known)}")
    return found[0]


def build_entry(entry: Entry) -> nn.Module:
    """Return the entry's architecture with untrained weights, in eval mode; nothing is downloaded.

    Untrained weights come from the global generator: fork and seed it around this call where they matter.

    Raises:
        InputError: if it cannot be built on this machine, with the reason.
    """
    try:
        # Some constructors print, warn of what timm has moved, and put constants on a GPU.
        with contextlib.redirect_stdout(io.StringIO()), _quiet(), _constants_stay():
            model = constructed(entry).eval()
    except Exception as error:  # a constructor is RobustBench's code, and may fail in any way
        raise InputError(
            f"robustbench:{entry} cannot be built here ({type(error).__name__}: {first_line(error)})"
        ) from error
    for module in model.modules():
        # As buffers, the constants follow the model to its device.
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)
    return model


def constructed(entry: Entry) -> nn.Module:
    """Return what RobustBench's constructor of `entry` makes, with untrained weights."""
    if entry.timm_name is not None:
        import timm

        model = timm.create_model(entry.timm_name, num_classes=CLASSES[entry.dataset], pretrained=False)
    elif entry.name == "Standard_R50":
        # RobustBench's constructor downloads torchvision's weights.
        import torchvision
        from robustbench.model_zoo import imagenet

        model = imagenet.normalize_model(torchvision.models.resnet50(), imagenet.mu, imagenet.sigma)
    else:
        model = _definitions()[entry.dataset, entry.threat, entry.name]["model"]()
    assert isinstance(model, nn.Module)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _constants_stay() -> Iterator[None]:
    """While open, `tensor.cuda()` gives the tensor itself: a machine may have no GPU, or a model another device."""
    move = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_arguments, **_options: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = move  # type: ignore[method-assign]
