"""Layers whose neurons can be recorded and scaled, found by running the model, through hooks that never stay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.anatomy.layout import NEURON_AXIS, Call, neuron_axis

PENULTIMATE = "penultimate"

# Images of the pass in which layers are looked for: two, so that an output that has no batch axis is seen to have none.
BATCH = 2


@dataclass(frozen=True)
class Layer:
    """Where a model's neurons are: at the input or the output of one of its modules.

    Attributes:
        name: what the user calls it: "penultimate", or the module's path such as "layer3".
        module: the module's path in `model.named_modules()`.
        side: whether the activation is that module's input or its output.
        shape: the activation's shape without the batch axis: (N,), (T, N), (N, H, W) or (H, W, N).
        axis: the axis of the neurons, the batch axis being 0; by default that of `NEURON_AXIS`.
        mapped: whether something behind the module, such as a softmax or a temperature, makes the model's output of
            what the module returns.
    """

    name: str
    module: str
    side: Literal["input", "output"]
    shape: tuple[int, ...]
    axis: int = 0
    mapped: bool = False

    def __post_init__(self) -> None:
        if self.axis == 0:
            object.__setattr__(self, "axis", NEURON_AXIS[len(self.shape) + 1])

    @property
    def identity(self) -> list[object]:
        """What tells this layer from others of the same model, for hashes."""
        usual = self.axis == NEURON_AXIS[len(self.shape) + 1]
        return [self.module, self.side] if usual else [self.module, self.side, self.axis]

    @property
    def is_last(self) -> bool:
        """Whether the model's output is what the module makes of the activation, and nothing else follows."""
        return self.side == "input" and not self.mapped

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
        """Return the mean over positions, [B, N], of an activation of this layer."""
        return self.by_position(activation).mean(dim=2)

    def by_position(self, activation: Tensor) -> Tensor:
        """Return an activation of this layer as [B, N, positions]."""
        return activation.movedim(self.axis, 1).reshape(len(activation), self.width, -1)


def find_layer(model: nn.Module, name: str, example: Tensor) -> Layer:
    """Find the layer called `name` by running `model` on `example` [1, C, H, W].

    "penultimate" is the input of the last Linear (or 1×1 convolution) whose output is the logits, or is mapped to
    the model's output logit by logit, or by a softmax; any other name is a module's path, and the layer is that
    module's output.

    Raises:
        InputError: if there is no such module, its output cannot be masked, or it is not called exactly once.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError("no layer of the model can be masked, as TorchScript takes no hooks; give its Python code")
    if name == PENULTIMATE:
        return _find_penultimate(model, example)
    modules = dict(model.named_modules())
    if name not in modules or name == "":
        raise InputError(
            f"the model has no layer {name!r}; {_advice(model, example)}{did_you_mean(name, [PENULTIMATE, *modules])}"
        )
    calls = _calls(model, example)
    outputs = [call.output for call in calls if call.module is modules[name]]
    if len(outputs) != 1:
        raise InputError(
            f"layer {name!r} is called {len(outputs)} times in one forward pass; choose one called once: "
            f"{_advice(model, example)}"
        )
    (output,) = outputs
    if not _is_maskable(output):
        came = type(output).__name__
        if isinstance(output, Tensor):
            came = f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)} for B = {BATCH}"
        raise InputError(
            f"layer {name!r} cannot be masked: expected a float output [B, N], [B, T, N], [B, N, H, W] or "
            f"[B, H, W, N], got {came}; {_advice(model, example)}"
        )
    shape = tuple(output.shape[1:])
    return Layer(name=name, module=name, side="output", shape=shape, axis=neuron_axis(output, calls))


def maskable_layers(model: nn.Module, example: Tensor, *, depth: int = 2) -> list[str]:
    """Return the paths, at most `depth` names deep, of the modules whose output can be masked."""
    outputs: dict[nn.Module, list[Any]] = {}
    for call in _calls(model, example):
        outputs.setdefault(call.module, []).append(call.output)
    return [
        path
        for path, module in model.named_modules()
        if path and path.count(".") < depth and [_is_maskable(output) for output in outputs.get(module, [])] == [True]
    ]


def classifier(model: nn.Module, layer: Layer) -> nn.Module | None:
    """Return the module whose output for the layer's activation is the model's, or None if there is none."""
    return model.get_submodule(layer.module) if layer.is_last else None


@contextmanager
def recorded(model: nn.Module, layer: Layer) -> Iterator[list[Tensor]]:
    """While open, append the activation of `layer` of every forward pass of `model` to the list it gives.

    It is a copy (gradients flow through it): operations in place that follow the layer would overwrite the original.
    """
    activations: list[Tensor] = []

    def record(activation: Tensor) -> None:
        activations.append(activation.clone())

    handle = _on_activation(model, layer, record)
    try:
        yield activations
    finally:
        handle.remove()


@contextmanager
def scaled(model: nn.Module, layer: Layer, per_neuron: Tensor) -> Iterator[None]:
    """While open, multiply the activation of `layer` by `per_neuron` [B, N] in every forward pass of `model`."""
    factor = layer.broadcast(per_neuron)
    handle = _on_activation(model, layer, lambda activation: activation * factor.to(activation.dtype))
    try:
        yield
    finally:
        handle.remove()


def _on_activation(model: nn.Module, layer: Layer, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `act` with the activation of every pass; what it returns, unless None, takes the activation's place."""
    module = model.get_submodule(layer.module)
    if layer.side == "output":
        return module.register_forward_hook(lambda _module, _inputs, output: act(output))

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A classifier has one input, which some models pass by keyword.
        if args:
            new = act(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        ((keyword, activation),) = kwargs.items()
        new = act(activation)
        return None if new is None else ((), {keyword: new})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _find_penultimate(model: nn.Module, example: Tensor) -> Layer:
    """Find the last Linear or 1×1 convolution whose output, flattened, is the logits."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def finish(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        # A copy, or an operation in place behind the layer would make its output pass for the logits.
        calls.append((path, _tensors(args, kwargs)[0], output.clone()))

    with ExitStack() as hooks, torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
                handle = module.register_forward_hook(
                    lambda _module, args, kwargs, output, path=path: finish(path, args, kwargs, output),
                    with_kwargs=True,
                )
                hooks.callback(handle.remove)
        logits = model(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model must return logits [B, C], not {came}; wrap it so that it returns the logits only")
    for path, activation, output in reversed(calls):
        if output.numel() != logits.numel():
            continue
        module = model.get_submodule(path)
        exact = output.dtype == logits.dtype and torch.equal(output.flatten(1), logits)
        last = exact and _gives_the_logits(model, module, output, example)
        if not last and not _is_mapped_alone(model, module, output, example):
            if exact:
                break
            continue
        if sum(1 for other, _, _ in calls if other == path) > 1 or activation.ndim not in NEURON_AXIS:
            break
        shape = tuple(activation.shape[1:])
        axis = 1 if isinstance(module, nn.Conv2d) else len(shape)
        return Layer(name=PENULTIMATE, module=path, side="input", shape=shape, axis=axis, mapped=not last)
    raise InputError(
        "the model has no penultimate layer: no Linear or 1×1 convolution, called once, gives its logits. "
        + _advice(model, example, penultimate=False)
    )


def _gives_the_logits(model: nn.Module, module: nn.Module, output: Tensor, example: Tensor) -> bool:
    """Return whether the logits are what `module` returns, whatever that is, and not by chance on one image.

    An ensemble of two equal models, or logits that are only clamped, differ for other values.
    """
    other = torch.linspace(1e3, -1e3, output.numel()).to(output).view_as(output)
    return torch.equal(_answer(model, module, other, example), other.flatten(1))


def _is_mapped_alone(model: nn.Module, module: nn.Module, output: Tensor, example: Tensor) -> bool:
    """Return whether the model's output depends on what `module` returns alone, each logit mapped on its own.

    That is so for a temperature, a cast or a tanh, where the others do not move with one logit, and for softmax and
    log-softmax, which keep the order of the logits and treat all classes alike.
    """
    generator = torch.Generator().manual_seed(0)
    # Of the size of logits; far apart, a softmax would give zeros.
    given = torch.randn(output.shape, generator=generator).to(output)
    answers = _answer(model, module, given, example)
    if answers.shape != given.flatten(1).shape or not answers.isfinite().all():
        return False
    # Another branch would show on another image.
    if not torch.equal(_answer(model, module, given, 1 - example), answers):
        return False
    order = torch.randperm(given.shape[1], generator=generator)
    permuted = _answer(model, module, given[:, order.to(given.device)], example)
    alike = torch.allclose(permuted, answers[:, order.to(answers.device)], rtol=1e-3, atol=1e-6)
    if alike and torch.equal(answers.argsort(dim=1), given.flatten(1).argsort(dim=1)):
        return True
    moved = given.clone()
    moved[:, 0] += 1
    others = _answer(model, module, moved, example)
    return torch.equal(others[:, 1:], answers[:, 1:]) and not torch.equal(others[:, 0], answers[:, 0])


def _answer(model: nn.Module, module: nn.Module, output: Tensor, example: Tensor) -> Tensor:
    """Return what `model` gives for `example` where `module` returns `output`."""
    handle = module.register_forward_hook(lambda _module, _inputs, _output: output.clone())
    try:
        with torch.no_grad():
            return model(example)  # type: ignore[no-any-return]
    finally:
        handle.remove()


def _calls(model: nn.Module, example: Tensor) -> list[Call]:
    """Return all calls of one forward pass on `BATCH` copies of `example` [1, C, H, W], in the order of their end."""
    calls: list[Call] = []
    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            handle = module.register_forward_hook(
                lambda module, args, kwargs, output: calls.append(Call(module, _tensors(args, kwargs), output)),
                with_kwargs=True,
            )
            hooks.callback(handle.remove)
        model(example[:1].repeat(BATCH, *[1] * (example.ndim - 1)))
    return calls


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _is_maskable(output: Any) -> bool:
    return (
        isinstance(output, Tensor)
        and output.ndim in NEURON_AXIS
        and output.shape[0] == BATCH
        and output.is_floating_point()
    )


def _advice(model: nn.Module, example: Tensor, *, penultimate: bool = True) -> str:
    layers = [*([PENULTIMATE] if penultimate else []), *maskable_layers(model, example)]
    return f"layers that can be masked: {', '.join(layers) or 'none'}"
