"""Models by spec: `demo`, `file.py:factory`, `robustbench:NAME`, `timm:NAME`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.models.checkpoints import load_weights
from igd_ray.models.demo import demo_model
from igd_ray.models.robustbench import load_robustbench
from igd_ray.models.sources import import_sources
from igd_ray.models.timm import load_timm

KNOWN_SPECS = ("demo", "robustbench:NAME", "timm:NAME", "path/to/file.py:factory")


def load_model(
    spec: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu", **factory_args: Any
) -> nn.Module:
    """Return the model that `spec` names, in eval mode, parameters frozen, taking images in [0, 1].

    Args:
        spec: `demo`, `path/to/file.py:factory`, `robustbench:[DATASET/THREAT/]NAME` or `timm:NAME`.
        weights: a safetensors or PyTorch file; for `robustbench:` and `timm:` it replaces the download (how an
            ensemble's several files are given, `load_robustbench` says).
        device: where the model goes.
        factory_args: keyword arguments of the factory or architecture; for `timm:` also `mean` and `std` of pixels.

    Raises:
        InputError: if the spec is unknown, the factory or the weights do not fit, or a download fails.
    """
    prefix, separator, name = spec.partition(":")
    if spec == "demo":
        if weights is not None or factory_args:
            raise InputError(
                "the model 'demo' has its own weights and no arguments; leave --weights and --model-arg out"
            )
        model = demo_model()
    elif prefix == "robustbench" and name:
        if factory_args:
            raise InputError("robustbench: models take no arguments; leave --model-arg out")
        model = load_robustbench(name, weights=weights)
    elif prefix == "timm" and name:
        model = load_timm(name, weights=weights, **factory_args)
    elif separator and spec.rpartition(":")[0].endswith(".py"):
        model = _from_file(spec, factory_args)
        if weights is None:
            raise InputError(f"{spec} needs its weights: pass --weights FILE (safetensors or a PyTorch state dict)")
        load_weights(model, weights)
    else:
        raise InputError(
            f"unknown model {spec!r}; known forms: {', '.join(KNOWN_SPECS)}"
            f"{did_you_mean(prefix, ['demo', 'robustbench', 'timm'])}"
        )
    model.eval().requires_grad_(False)
    return model.to(device=device, dtype=torch.float32)


def _from_file(spec: str, factory_args: dict[str, Any]) -> nn.Module:
    file_name, _, factory_name = spec.rpartition(":")
    path = Path(file_name)
    if not path.is_file():
        raise InputError(f"model {spec!r}: no file at {path}")
    factory = _factory(path, factory_name)
    try:
        model = factory(**factory_args)
    except Exception as error:  # whatever the factory does with arguments that it cannot use
        raise InputError(
            f"model {spec!r}: {type(error).__name__}: {first_line(error)}; pass its arguments as --model-arg NAME=VALUE"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {spec!r}: expected {factory_name} to return an nn.Module, got {type(model).__name__}")
    return model


def _factory(path: Path, factory_name: str) -> Callable[..., object]:
    try:
        module = import_sources(path)
    except Exception as error:
        raise InputError(f"model file {path} cannot be imported: {_named(error)}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{path} has no factory {factory_name!r}{did_you_mean(factory_name, known)}")
    return factory  # type: ignore[no-any-return]


def check_model(model: nn.Module, example: Tensor, class_names: tuple[str, ...], *, spec: str) -> int:
    """Check that `model` takes `example` [1, C, H, W] and gives logits for as many classes as there are names.

    Returns:
        The number of classes.

    Raises:
        InputError: saying which of channels, image size, output or class count does not fit, or that logits are NaN.
    """
    try:
        with torch.no_grad():
            logits = model(example)
    except Exception as error:  # a model is somebody's code, and may fail in any way
        # A bare KeyError or IndexError says nothing without its name.
        reason = first_line(error) if isinstance(error, (RuntimeError, ValueError)) else _named(error)
        raise InputError(f"model {spec!r} cannot take images {list(example.shape[1:])}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model {spec!r} must return float logits [B, C], not {came}")
    if logits.shape[1] != len(class_names):
        raise InputError(
            f"model {spec!r} has {logits.shape[1]} classes, the data {len(class_names)}; choose a matching pair"
        )
    if logits.isnan().any():
        raise InputError(
            f"model {spec!r} gives NaN logits on the first image, so no prediction can be told from another; "
            "check its weights and its normalisation"
        )
    return int(logits.shape[1])


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
