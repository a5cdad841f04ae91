"""Models by spec: `demo`, `file.py:factory`, `robustbench:NAME`, `timm:NAME`, `hf:OWNER/NAME`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.models.adapter import Adapter, OutputError, described_answer
from igd_ray.models.checkpoints import OWN, load_weights
from igd_ray.models.demo import demo_model
from igd_ray.models.fingerprint import changed_since, model_fingerprint, model_state
from igd_ray.models.hub import find_on_hub
from igd_ray.models.robustbench import load_robustbench
from igd_ray.models.sources import HUB, exits_refused, factory_file, import_sources
from igd_ray.models.timm import build_timm, load_timm
from igd_ray.models.wrappers import unwrapped

KNOWN_SPECS = ("demo", "robustbench:NAME", "timm:NAME", "hf:OWNER/NAME[@REVISION]", "path/to/file.py:factory")


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    output: str | None = None,
    device: str | torch.device = "cpu",
    **factory_args: Any,
) -> nn.Module:
    """Return the model that `spec` names, in eval mode, parameters frozen, from [0, 1] images to float32 logits.

    A model whose parameters are all float64, float16 or bfloat16 computes in that type; any other in float32.
    `torch.compile` and `DataParallel` around it or its modules come off.

    Args:
        spec: `demo`, `path/to/file.py:factory`, `robustbench:[DATASET/THREAT/]NAME`, `timm:NAME`, or
            `hf:OWNER/NAME[@REVISION]` with timm's configuration, or with `:FILE.py:factory` behind it, which runs code.
        weights: a safetensors or PyTorch file, or one of several state dicts in it, `FILE#model_ema`; "own" takes
            those that the factory loads. For `robustbench:`, `timm:` and `hf:` a file replaces the download (how an
            ensemble's several files are given, `load_robustbench` says).
        output: which output holds the logits of a model that returns several: a key or a position, "logits" or "0".
        device: where the model goes.
        factory_args: keyword arguments of the factory or architecture; for `timm:` also `mean` and `std` of pixels.

    Raises:
        InputError: if the spec is unknown, the factory or the weights do not fit, a download fails, or "own" weights
            differ from one call of the factory to the next.
    """
    prefix, _, name = spec.partition(":")
    if spec == "demo":
        if weights is not None or factory_args:
            raise InputError(
                "the model 'demo' has its own weights and no arguments; leave --weights and --model-arg out"
            )
        model = demo_model()
    elif prefix == "robustbench" and name:
        if factory_args:
            raise InputError("robustbench: models take no arguments; leave --model-arg out")
        model = load_robustbench(name, weights=None if weights == OWN else weights)
    elif prefix == "timm" and name:
        model = load_timm(name, weights=None if weights == OWN else weights, **factory_args)
    elif spec.startswith(HUB) and name:
        model = _from_hub(spec, weights, factory_args)
    elif factory_file(spec) is not None:
        model = _with_weights(spec, weights, factory_args)
    else:
        raise InputError(
            f"unknown model {spec!r}; known forms: {', '.join(KNOWN_SPECS)}"
            f"{did_you_mean(prefix, ['demo', 'robustbench', 'timm'])}"
        )
    model = _adapted(model, output).eval()
    # One by one, as TorchScript's modules cannot do it at once.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device)


def _adapted(model: nn.Module, output: str | None) -> nn.Module:
    """Return `model` in float32, or in its own type behind an `Adapter`, which also picks its output."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    dtype = types.pop() if len(types) == 1 else torch.float32
    if dtype == torch.float32:
        model = model.to(dtype=dtype)
    return model if dtype == torch.float32 and output is None else Adapter(model, dtype=dtype, output=output)


def _with_weights(spec: str, weights: str | Path | None, factory_args: dict[str, Any]) -> nn.Module:
    model = _from_file(spec, factory_args)
    if weights is None:
        raise InputError(
            f"{spec} needs its weights: pass --weights FILE (safetensors or a PyTorch state dict), or --weights own "
            "where the factory loads them itself"
        )
    if weights != OWN:
        load_weights(model, weights)
    elif model_fingerprint(model) != model_fingerprint(_from_file(spec, factory_args, seed=1)):
        raise InputError(
            f"model {spec!r}: two calls of the factory give different weights, so it does not load all of them; "
            "load them in the factory, or pass --weights FILE"
        )
    return model


def _from_hub(spec: str, weights: str | Path | None, factory_args: dict[str, Any]) -> nn.Module:
    found = find_on_hub(spec, needs_weights=weights is None)
    weights = found.weights if weights is None else weights
    if found.factory is not None:
        return _with_weights(found.factory, weights, factory_args)
    if weights is None or weights == OWN:
        raise InputError(
            f"{spec}: timm's architectures load no weights of their own; pass --weights FILE, or leave it out"
        )
    return build_timm(spec, found.config, weights, factory_args)


def _from_file(spec: str, factory_args: dict[str, Any], *, seed: int = 0) -> nn.Module:
    """Call the factory, with the global generator at `seed` and put back afterwards."""
    file_name, _, factory_name = spec.rpartition(":")
    path = Path(file_name)
    if not path.is_file():
        raise InputError(f"model {spec!r}: no file at {path}")
    factory = _factory(path, factory_name)
    try:
        with torch.random.fork_rng(devices=[]), exits_refused(f"model {spec!r}"):
            torch.manual_seed(seed)
            model = factory(**factory_args)
    except InputError:
        raise
    except Exception as error:  # whatever the factory does with arguments that it cannot use
        raise InputError(
            f"model {spec!r}: {type(error).__name__}: {first_line(error)}; pass its arguments as --model-arg NAME=VALUE"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {spec!r}: expected {factory_name} to return an nn.Module, got {type(model).__name__}")
    return unwrapped(model)


def _factory(path: Path, factory_name: str) -> Callable[..., object]:
    try:
        with exits_refused(f"model file {path}"):
            module = import_sources(path)
    except InputError:
        raise
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
        InputError: saying which of channels, image size, output or class count does not fit, that logits are NaN or
            infinite, or what the model changes of itself in its forward pass.
    """
    before = model_state(model)
    try:
        with torch.no_grad(), exits_refused(f"model {spec!r}"):
            logits = model(example)
    except OutputError as error:
        raise InputError(f"model {spec!r}: {error}") from None
    except Exception as error:  # a model is somebody's code, and may fail in any way
        # A bare KeyError or IndexError says nothing without its name.
        reason = first_line(error) if isinstance(error, (RuntimeError, ValueError)) else _named(error)
        raise InputError(
            f"model {spec!r} cannot take images {list(example.shape[1:])}: {reason}{_precision_advice(model)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        choose = "" if isinstance(logits, Tensor) else "; say which output holds them, by key or position: --output 0"
        raise InputError(f"model {spec!r} must return float logits [B, C], not {described_answer(logits)}{choose}")
    if logits.shape[1] != len(class_names):
        raise InputError(
            f"model {spec!r} has {logits.shape[1]} classes, the data {len(class_names)}; choose a matching pair"
        )
    if not logits.isfinite().all():
        raise InputError(
            f"model {spec!r} gives NaN or infinite logits on the first image, so no prediction can be told from "
            "another; check its weights and its normalisation"
        )
    _require_unchanged(model, before, spec)
    return int(logits.shape[1])


def _require_unchanged(model: nn.Module, before: dict[str, Tensor | str], spec: str) -> None:
    """Check that a forward pass left the model in eval mode and as it was."""
    training = next((name for name, module in model.named_modules() if module.training), None)
    changed = changed_since(model, before)
    if training is None and changed is None:
        return
    what = f"puts {training or 'itself'} into training mode" if training is not None else f"changes {changed}"
    raise InputError(
        f"model {spec!r} {what} in its forward pass, so that its answers would depend on those before; "
        "let forward leave the model as it is"
    )


def _precision_advice(model: nn.Module) -> str:
    if not isinstance(model, Adapter) or model.dtype == torch.float32:
        return ""
    name = str(model.dtype).removeprefix("torch.")
    return f"; it was given {name} images, the type of its parameters: return it as float32, `model.float()`"


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
