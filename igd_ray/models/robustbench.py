"""Models of the RobustBench zoo."""

import pickle
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pyautoattack
import pyautoattack.state
from torch import nn

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.models.checkpoints import load_weights

# Where downloads are kept, one folder a dataset and threat model, as robustbench lays them out.
DOWNLOADS = Path.home() / ".cache" / "igd-ray" / "robustbench"

DATASETS = ("cifar10", "cifar100", "imagenet")
THREATS = ("Linf", "L2")


@cache
def _zoo() -> tuple[ModuleType, dict[Any, dict[Any, dict[str, Any]]]]:
    """Import robustbench; return its loading module and its models by dataset and threat model."""
    # robustbench imports `autoattack`; the package on the index is the same code under the name `pyautoattack`.
    sys.modules.setdefault("autoattack", pyautoattack)
    sys.modules.setdefault("autoattack.state", pyautoattack.state)
    with warnings.catch_warnings():
        # It imports pkg_resources, which warns of its own removal; setuptools is pinned for that reason.
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
        from robustbench import utils
        from robustbench.model_zoo import model_dicts
    return utils, model_dicts


def _find(name: str) -> tuple[Any, Any, str]:
    """Return (dataset, threat model, entry) of `NAME` or `DATASET/THREAT/NAME`; the first dataset that has it wins."""
    _, models = _zoo()
    parts = name.split("/")
    if len(parts) not in (1, 3):
        raise InputError(f"robustbench model must be NAME or DATASET/THREAT/NAME, not {name!r}")
    entry = parts[-1]
    found = []
    known: set[str] = set()
    for dataset, by_threat in models.items():
        for threat, entries in by_threat.items():
            if dataset.value not in DATASETS or threat.value not in THREATS:
                continue
            if len(parts) == 3 and [dataset.value, threat.value] != parts[:2]:
                continue
            known |= set(entries)
            if entry in entries:
                found.append((dataset, threat, entry))
    if not found:
        raise InputError(f"RobustBench has no model {name!r}{did_you_mean(entry, known)}")
    return min(found, key=lambda item: (DATASETS.index(item[0].value), THREATS.index(item[1].value)))


def load_robustbench(name: str, *, weights: str | Path | None = None) -> nn.Module:
    """Return RobustBench's model `name` with `weights`, or with its own, downloaded once.

    Args:
        name: an entry such as `Wong2020Fast`, or `cifar100/Linf/…` where several datasets have it.
        weights: a safetensors file of the whole model, or the checkpoint file that RobustBench offers.

    Raises:
        InputError: if there is no such model, the weights do not fit, or the download fails.
    """
    utils, models = _zoo()
    dataset, threat, entry = _find(name)
    if weights is not None and Path(weights).suffix == ".safetensors":
        model: nn.Module = models[dataset][threat][entry]["model"]()
        load_weights(model, weights)
        return model
    try:
        if weights is None:
            return utils.load_model(entry, DOWNLOADS, dataset, threat)  # type: ignore[no-any-return]
        if not Path(weights).is_file():
            raise InputError(f"weights: no file at {weights}")
        with tempfile.TemporaryDirectory() as folder:
            # robustbench knows how each of its checkpoints is wrapped; it looks for them by this path.
            expected = Path(folder) / dataset.value / threat.value / f"{entry}.pt"
            expected.parent.mkdir(parents=True)
            expected.symlink_to(Path(weights).resolve())
            return utils.load_model(entry, folder, dataset, threat)  # type: ignore[no-any-return]
    except pickle.UnpicklingError:
        raise InputError(f"weights of robustbench:{name} hold more than tensors and are not loaded") from None
    except InputError:
        raise
    except Exception as error:  # gdown, requests and torch fail in too many ways to list
        raise InputError(
            f"robustbench:{name} could not be loaded ({type(error).__name__}: {first_line(error)}); "
            "pass its checkpoint as --weights FILE"
        ) from None
