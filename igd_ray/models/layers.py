"""Layers whose neurons can be recorded and scaled, found by running the model, through hooks that never stay."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean

PENULTIMATE = "penultimate"

# Axis of the neurons, by the number of axes of an activation: [B, N], tokens [B, T, N], channels [B, N, H, W].
NEURON_AXIS = {2: 1, 3: 2, 4: 1}


@dataclass(frozen=True)
class Layer:
    """Where a model's neurons are: at the input or the output of one of its modules.

    Attributes:
        name: what the user calls it: "penultimate", or the module's path such as "layer3".
        module: the module's path in `model.named_modules()`.
        side: whether the activation is that module's input or its output.
        shape: the activation's shape without the batch axis: (N,), (T, N) or (N, H, W).
    """

    name: str
    module: str
    side: Literal["input", "output"]
    shape: tuple[int, ...]

    @property
    def axis(self) -> int:
        """The axis of the neurons, the batch axis being 0."""
        return NEURON_AXIS[len(self.shape) + 1]

    @property
    def width(self) -> int:
        """The number N of neurons."""
        return self.shape[self.axis - 1]

    def broadcast(self, per_neuron: Tensor) -> Tensor:
        """Return `per_neuron` [B, N] with axes of length 1 inserted, so that it multiplies an activation."""
        shape = [1] * (len(self.shape) + 1)
        shape[0], shape[self.axis] = per_neuron.shape[0], per_neuron.shape[1]
        return per_neuron.reshape(shape)

    def pool(self, activation: Tensor) -> Tensor:
        """Return the mean over positions, [B, N], of an activation with any of the layouts of `NEURON_AXIS`."""
        others = [axis for axis in range(1, activation.ndim) if axis != self.axis]
        return activation.mean(dim=others) if others else activation


def find_layer(model: nn.Module, name: str, example: Tensor) -> Layer:
    """Find the layer called `name` by running `model` once on `example` [1, C, H, W].

    "penultimate" is the input of the last Linear (or 1×1 convolution) whose output is the logits; any other name
    is a module's path, and the layer is that module's output.

    Raises:
        InputError: if there is no such module, its output cannot be masked, or it is not called exactly once.
    """
    if name == PENULTIMATE:
        return _find_penultimate(model, example)
    modules = dict(model.named_modules())
    if name not in modules or name == "":
        maskable = maskable_layers(model, example)
        raise InputError(
            f"the model has no layer {name!r}; layers that can be masked: {', '.join([PENULTIMATE, *maskable])}"
            f"{did_you_mean(name, [PENULTIMATE, *modules])}"
        )
    outputs: list[Any] = []
    with _forward_hooks([(modules[name], lambda _module, _inputs, output: outputs.append(output))]), torch.no_grad():
        model(example)
    if len(outputs) != 1:
        raise InputError(f"layer {name!r} is called {len(outputs)} times in one forward pass; choose one called once")
    if not _is_maskable(outputs[0], example):
        came = list(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
        raise InputError(
            f"layer {name!r} cannot be masked: expected an output [B, N], [B, T, N] or [B, N, H, W], got {came}"
        )
    return Layer(name=name, module=name, side="output", shape=tuple(outputs[0].shape[1:]))


def maskable_layers(model: nn.Module, example: Tensor, *, depth: int = 2) -> list[str]:
    """Return the paths, at most `depth` names deep, of the modules whose output can be masked."""
    calls: dict[str, list[Any]] = {}
    hooks: list[tuple[nn.Module, Callable[..., None]]] = []
    for path, module in model.named_modules():
        if path and path.count(".") < depth:
            calls[path] = []
            hooks.append((module, lambda _module, _inputs, output, path=path: calls[path].append(output)))
    with _forward_hooks(hooks), torch.no_grad():
        model(example)
    return [path for path, outputs in calls.items() if len(outputs) == 1 and _is_maskable(outputs[0], example)]


def classifier(model: nn.Module, layer: Layer) -> nn.Module | None:
    """Return the module that maps the penultimate activation to the logits, or None for any other layer."""
    return model.get_submodule(layer.module) if layer.side == "input" else None


@contextmanager
def recorded(model: nn.Module, layer: Layer) -> Iterator[list[Tensor]]:
    """While open, append the activation of `layer` of every forward pass of `model` to the list it gives.

    It is a copy (gradients flow through it): operations in place that follow the layer would overwrite the original.
    """
    activations: list[Tensor] = []
    module = model.get_submodule(layer.module)
    if layer.side == "input":
        handle = module.register_forward_pre_hook(lambda _module, inputs: activations.append(inputs[0].clone()))
    else:
        handle = module.register_forward_hook(lambda _module, _inputs, output: activations.append(output.clone()))
    try:
        yield activations
    finally:
        handle.remove()


@contextmanager
def scaled(model: nn.Module, layer: Layer, per_neuron: Tensor) -> Iterator[None]:
    """While open, multiply the activation of `layer` by `per_neuron` [B, N] in every forward pass of `model`."""
    factor = layer.broadcast(per_neuron)
    module = model.get_submodule(layer.module)
    if layer.side == "input":
        handle = module.register_forward_pre_hook(
            lambda _module, inputs: (inputs[0] * factor.to(inputs[0].dtype), *inputs[1:])
        )
    else:
        handle = module.register_forward_hook(lambda _module, _inputs, output: output * factor.to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


def _find_penultimate(model: nn.Module, example: Tensor) -> Layer:
    """Find the last Linear or 1×1 convolution whose output, flattened, is the logits."""
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks: list[tuple[nn.Module, Callable[..., None]]] = []

    def call(path: str, activation: Tensor, output: Tensor) -> None:
        # A copy, or an operation in place behind the layer would make its output pass for the logits.
        calls.append((path, activation, output.clone()))

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            hooks.append((module, lambda _module, inputs, output, path=path: call(path, inputs[0], output)))
    with _forward_hooks(hooks), torch.no_grad():
        logits = model(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model must return logits [B, C], not {came}; wrap it so that it returns the logits only")
    for path, activation, output in reversed(calls):
        if output.numel() == logits.numel() and torch.equal(output.flatten(1), logits):
            if sum(1 for other, _, _ in calls if other == path) > 1:
                break
            if not _is_maskable(activation, example):
                break
            return Layer(name=PENULTIMATE, module=path, side="input", shape=tuple(activation.shape[1:]))
    layers = maskable_layers(model, example)
    raise InputError(
        "the model has no penultimate layer: no Linear or 1×1 convolution, called once, gives its logits. "
        f"Layers that can be masked: {', '.join(layers) or 'none'}"
    )


def _is_maskable(output: Any, example: Tensor) -> bool:
    return (
        isinstance(output, Tensor)
        and output.ndim in NEURON_AXIS
        and output.shape[0] == example.shape[0]
        and output.is_floating_point()
    )


@contextmanager
def _forward_hooks(hooks: list[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
