"""Models of the RobustBench zoo, with weights that are given, cached or downloaded."""

import contextlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igd_ray.downloads import fetched, reason, transfer
from igd_ray.errors import InputError
from igd_ray.models.checkpoints import State, load_state, read_checkpoint, state_in
from igd_ray.models.zoo import Entry, build_entry, find_entry, robustbench_modules
from igd_ray.values.file_parts import file_and_part

# Where downloads are kept, one folder a dataset and threat model, as robustbench lays them out.
DOWNLOADS = Path.home() / ".cache" / "igd-ray" / "robustbench"

# The normalisation that RobustBench's architectures bring along; some of its checkpoints lack it.
NORMALISATION = frozenset({"mu", "sigma", "mean", "std"})

# What some of its checkpoints hold beside the weights: second names of the first layers, the attacker that the
# training library had wrapped in, its normalisation, and tables that newer versions of Swin compute.
BESIDE_WEIGHTS = re.compile(
    r"(module\.)?(model_preact_hl1|attacker|normalizer)\.|(.*\.)?(attn_mask|relative_position_index)$"
)

# Its checkpoint holds the weights of the last and of the best epoch; RobustBench takes the last.
LAST_EPOCH = frozenset({"Andriushchenko2020Understanding"})


def load_robustbench(name: str, *, weights: str | Path | None = None) -> nn.Module:
    """Return RobustBench's model `name` with `weights`, or with its own, downloaded once.

    Args:
        name: an entry such as `Wong2020Fast`, or `cifar100/Linf/…` where several datasets have it.
        weights: the checkpoint file that RobustBench offers, or any file with a state dict of the whole model. The
            checkpoints of an ensemble are files `…_m0.pt`, `…_m1.pt`, …: give one, or what stands before `_m0.pt`.

    Raises:
        InputError: if there is no such model, it cannot be built, the weights do not fit, or the download fails.
    """
    entry = find_entry(name)
    path, part = (None, None) if weights is None else file_and_part(weights)
    files = None if path is None else _given(entry, path)
    with torch.random.fork_rng(devices=[]):
        model = build_entry(entry)
    if files is None:
        try:
            files = _downloaded(entry)
        except InputError:
            raise
        except Exception as error:  # gdown fails in too many ways to list
            raise InputError(
                f"robustbench:{name} could not be downloaded ({reason(error)}); try again, or pass its "
                "checkpoint as --weights FILE"
            ) from None
    if len(files) == 1:
        _load(model, read_checkpoint(files[0]), files[0], part=part, last_epoch=entry.name in LAST_EPOCH)
    else:
        if part is not None:
            raise InputError(f"robustbench:{entry} is an ensemble with {len(files)} files; leave #{part} out")
        for index, file in enumerate(files):
            _load_member(model, entry, index, file)
    return model


def _given(entry: Entry, weights: Path) -> list[Path]:
    """Return the files that `weights` stands for: one with the whole model, or one for each member of an ensemble."""
    members = len(entry.drive_ids)
    stem = re.sub(r"_m\d+\.pt$", "", weights.name)
    files = [weights.with_name(f"{stem}_m{index}.pt") for index in range(members)] if members > 1 else []
    if files and (weights in files or files[0].is_file()) and not (weights.is_file() and weights not in files):
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise InputError(
                f"weights: no file at {absent[0]}; robustbench:{entry} is an ensemble with {members} files, "
                f"{files[0].name} to {files[-1].name}"
            )
        return files
    if not weights.is_file():
        raise InputError(f"weights: no file at {weights}")
    return [weights]


def _downloaded(entry: Entry) -> list[Path]:
    """Return the entry's files in the cache, each downloaded if it is not there."""
    folder = DOWNLOADS / entry.dataset / entry.threat
    downloads, digest = _downloads(entry)
    names = [f"{entry.name}.pt"]
    if len(downloads) > 1:
        names = [f"{entry.name}.pt_m{index}.pt" for index in range(len(downloads))]
    # Progress is not part of the result.
    with contextlib.redirect_stdout(sys.stderr):
        return [
            fetched(folder / name, download, digest=digest) for name, download in zip(names, downloads, strict=True)
        ]


def _downloads(entry: Entry) -> tuple[list[Callable[[Path], object]], str]:
    """Return what downloads each of the entry's files, and the digest that their publisher gives, or ""."""
    if entry.timm_name is not None:
        import timm

        return [partial(transfer, timm.get_pretrained_cfg(entry.timm_name).url)], ""
    if entry.drive_ids:
        utils, _ = robustbench_modules()
        return [partial(utils.download_gdrive_new, drive_id) for drive_id in entry.drive_ids], ""
    import torchvision

    # Standard_R50: what `pretrained=True` means there. The name of the file ends with the begin of its SHA-256.
    url = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
    return [partial(transfer, url)], f"sha256:{Path(url).stem.rpartition('-')[2]}"


def _load_member(model: Any, entry: Entry, index: int, file: Path) -> None:
    """Load the file of one member of an ensemble, as `robustbench.utils.load_model` distributes them."""
    content = read_checkpoint(file)
    if entry.name.startswith("Bai2023Improving"):
        mixture = model.comp_model
        if index < len(mixture.models):
            _load(mixture.models[index], content, file)
            return
        parts = content.get("state_dict", content) if isinstance(content, Mapping) else None
        if not isinstance(parts, Mapping) or not {"model", "bn"} <= set(parts):
            raise InputError(f"weights: {file} should hold the mixing network as 'model' and 'bn'")
        _load(mixture.policy_net, parts["model"], file)
        _load(mixture.bn, parts["bn"], file)
    elif entry.name.startswith("Bai2024MixedNUTS"):
        _load((model.std_model, model.rob_model)[index], content, file)
    else:
        _load(model.models[index], content, file)


def _load(model: nn.Module, content: Any, file: Path, *, part: str | None = None, last_epoch: bool = False) -> None:
    """Load one checkpoint's content, or the state dict called `part` in it, into `model`."""
    if part is None and last_epoch and isinstance(content, Mapping) and "last" in content:
        content = content["last"]
    load_state(
        model,
        state_in(content, file, part),
        file,
        may_lack=lambda name: name.rpartition(".")[2] in NORMALISATION,
        may_bring=lambda name: BESIDE_WEIGHTS.match(name) is not None,
        adapt=_newer_names(model),
    )


def _newer_names(model: nn.Module) -> Callable[[State], State]:
    """Return what rewrites a checkpoint of the original Swin or XCiT to the names that timm's has."""
    from timm.models import swin_transformer, xcit

    children = dict(model.named_children())
    network = children["model"] if set(children) == {"normalize", "model"} else model
    if isinstance(network, xcit.Xcit):
        return lambda state: dict(xcit.checkpoint_filter_fn(state, network))
    if isinstance(network, swin_transformer.SwinTransformer):
        return _newer_swin
    return lambda state: state


def _newer_swin(state: State) -> State:
    """Downsampling stands at the begin of the next stage, no longer at the end of one; the head has a module `fc`."""

    def newer(name: str) -> str:
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name)
        return re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)

    return {newer(name): tensor for name, tensor in state.items()}
