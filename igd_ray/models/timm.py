"""Models of the timm library, with their normalisation."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from igd_ray.downloads import check_hub_file, note_download
from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.models.checkpoints import load_weights
from igd_ray.models.normalization import Normalize

# What timm calls its weights on the hub, in the order in which it looks.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def load_timm(
    name: str,
    /,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return timm's model `name` behind its normalisation, with `weights` or timm's pretrained ones.

    Args:
        name: of the architecture, with or without the tag of its weights, such as `resnet18.a1_in1k`.
        weights: a file with the state dict of timm's model; downloaded by timm if absent.
        mean, std: of the pixels in [0, 1], one value or one a channel; by default those of timm's weights, averaged
            for a model with one channel.
        arguments: the architecture's, such as `num_classes` or `in_chans`.

    Raises:
        InputError: if timm has no such model, an argument does not fit, or the weights cannot be had.
    """
    # Imported here because timm takes a second to import, and few models come from it.
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=weights is None, **arguments)
    except (TypeError, AssertionError) as error:
        raise InputError(f"timm:{name} does not take these arguments: {first_line(error)}") from None
    except (RuntimeError, OSError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
        known = None
        with suppress(RuntimeError):  # a tag that timm does not have
            known = timm.get_pretrained_cfg(name)
        if weights is None and known is not None:
            _check_download(name, vars(known))
        raise InputError(
            f"timm:{name}: its weights could not be downloaded ({first_line(error)}); pass --weights FILE"
        ) from None
    config = model.pretrained_cfg
    if weights is not None:
        load_weights(model, weights)
    elif arguments.get("num_classes", config["num_classes"]) != config["num_classes"]:
        raise InputError(
            f"timm:{name}: its weights are for {config['num_classes']} classes, and another number gives it an "
            "untrained head; pass --weights FILE"
        )
    else:
        _check_download(name, config)
    channels = arguments.get("in_chans", len(config["mean"]))
    return Normalize(
        model,
        _per_channel("mean", mean, config["mean"], channels, spec=f"timm:{name}"),
        _per_channel("std", std, config["std"], channels, spec=f"timm:{name}"),
    )


# Arguments of timm's `create_model` that read files or load code: a configuration from elsewhere may not give them.
LOADING = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "scriptable",
        "exportable",
    }
)


def build_timm(spec: str, config: Mapping[str, Any], weights: str | Path, arguments: Mapping[str, Any]) -> nn.Module:
    """Return the model of a configuration as timm writes it to the hub, behind its normalisation, with `weights`.

    Args:
        spec: what the user calls it.
        config: what stands in `config.json`: `architecture`, `num_classes`, `model_args`, `pretrained_cfg`.
        weights: a file with the state dict of timm's model.
        arguments: the architecture's, in place of those in `config`; also `mean` and `std`, as for `load_timm`.

    Raises:
        InputError: if timm has no such architecture, or an argument or the weights do not fit.
    """
    import timm

    name, pretrained = config.get("architecture"), config.get("pretrained_cfg", config)
    if not isinstance(name, str) or not timm.is_model(name) or not isinstance(pretrained, Mapping):
        raise InputError(f"{spec}: its config.json names no architecture that timm has, but {name!r}")
    given = dict(config.get("model_args") or {})
    if refused := sorted(LOADING & {*given, *arguments}):
        raise InputError(f"{spec}: {refused[0]} would load something else; take it out of model_args")
    classes = config.get("num_classes", pretrained.get("num_classes"))
    given = {**({} if classes is None else {"num_classes": classes}), **given, **arguments}
    mean, std = given.pop("mean", None), given.pop("std", None)
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=False, **given)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(f"{spec}: timm's {name} does not take these arguments: {first_line(error)}") from None
    load_weights(model, weights)
    default = {key: pretrained.get(key) or model.pretrained_cfg[key] for key in ("mean", "std")}
    channels = given.get("in_chans", len(default["mean"]))
    return Normalize(
        model,
        _per_channel("mean", mean, default["mean"], channels, spec=spec),
        _per_channel("std", std, default["std"], channels, spec=spec),
    )


def _check_download(name: str, config: Mapping[str, Any]) -> None:
    """Check the file that timm took the weights of `config` from, as far as it is in the hub's cache, and note it.

    Raises:
        InputError: if the file is damaged.
    """
    import huggingface_hub

    for file in (config.get("hf_hub_filename"), *HUB_FILES):
        cached = config.get("hf_hub_id") and file and huggingface_hub.try_to_load_from_cache(config["hf_hub_id"], file)
        if isinstance(cached, str):
            check_hub_file(Path(cached), f"timm:{name}, {file}")
            return
    note_download(f"timm:{name}, {config.get('hf_hub_id') or config.get('url') or 'from timm'}")


def _per_channel(
    what: str, given: Sequence[float] | float | None, default: Sequence[float], channels: int, *, spec: str
) -> list[float]:
    """Return one number a channel: those `given`, or timm's, averaged for one channel."""
    if given is None:
        if channels == len(default):
            return list(default)
        if channels == 1:
            return [sum(default) / len(default)]
        raise InputError(
            f"{spec}: with {channels} channels its normalisation is unknown; pass --model-arg mean=… and std=…, "
            "one number or one a channel"
        )
    values = [given] * channels if isinstance(given, int | float) else list(given)
    if len(values) != channels or not all(isinstance(value, int | float) for value in values):
        raise InputError(f"{spec}: {what} should be one number or {channels}, one a channel, not {given!r}")
    if what == "std" and not all(value > 0 for value in values):
        raise InputError(f"{spec}: std should be positive, not {given!r}")
    return [float(value) for value in values]
