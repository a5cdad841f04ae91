"""Run only the part of a model after a layer, from a recorded activation, without tracing or changing the model.

While the prefix runs, the outputs of the modules that finish before the layer does are recorded, call by call; while
the suffix runs, those calls give back what was recorded instead of computing. Later calls of the same modules, and
whatever the model does between modules, run as written, so any control flow, skip connection or functional call
stays correct. What is recorded is copied, because in-place operations would overwrite it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from igd_ray.models.layers import Layer, classifier, recorded


class Prefix:
    """What the prefix left for one batch: the layer's activation, and what the suffix may look up.

    Attributes:
        activation: the activation of the layer, [B, …].
        images: the batch [B, C, H, W] it came from.
        outputs: for every module that finished before the layer, by path, its recorded outputs in the order of calls.
    """

    def __init__(self, activation: Tensor, images: Tensor, outputs: dict[str, list[Any]]) -> None:
        self.activation = activation
        self.images = images
        self.outputs = outputs


class SplitModel:
    """`model`, cut at `layer`: `suffix(prefix(x).activation, …)` equals `model(x)`."""

    def __init__(self, model: nn.Module, layer: Layer) -> None:
        self.model = model
        self.layer = layer
        self._classifier = classifier(model, layer)

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Prefix:
        """Run the model on `images` [B, C, H, W] and keep what its suffix needs."""
        if self._classifier is not None:
            with recorded(self.model, self.layer) as activations:
                self.model(images)
            return Prefix(activations[0], images, {})
        # The outermost calls that finished before the layer did, and, for every open call, how many stood here
        # when it began: those it made itself are dropped when it ends, as giving back its output replaces them.
        finished: list[tuple[str, Any]] = []
        begun: list[int] = []
        activation: list[Tensor] = []

        def begin(_module: nn.Module, _inputs: Any) -> None:
            begun.append(len(finished))

        def finish(path: str, output: Any) -> None:
            position = begun.pop()
            if activation:
                return
            del finished[position:]
            if path == self.layer.module:
                activation.append(output.clone())
            else:
                finished.append((path, tree_map(_snapshot, output)))

        with ExitStack() as hooks:
            for path, module in self.model.named_modules():
                hooks.callback(module.register_forward_pre_hook(begin).remove)
                after = module.register_forward_hook(lambda _module, _inputs, output, path=path: finish(path, output))
                hooks.callback(after.remove)
            self.model(images)
        outputs: dict[str, list[Any]] = {}
        for path, output in finished:
            outputs.setdefault(path, []).append(output)
        return Prefix(activation[0], images, outputs)

    @torch.no_grad()
    def suffix(self, activation: Tensor, prefix: Prefix, *, copies: int = 1) -> Tensor:
        """Return the logits [copies·B, C] that the rest of the model gives for `activation` [copies·B, …].

        `activation` holds `copies` variants of the prefix's batch, one whole batch after another; it is not changed.
        """
        if self._classifier is not None:
            return self._classifier(activation).flatten(1)  # type: ignore[no-any-return]
        images = _repeat(prefix.images, copies)
        with self._replayed(activation, prefix, copies):
            return self.model(images)  # type: ignore[no-any-return]

    @contextmanager
    def _replayed(self, activation: Tensor, prefix: Prefix, copies: int) -> Iterator[None]:
        """While open, calls before the layer give their recorded output, and the layer gives `activation`."""
        replaced: list[tuple[nn.Module, Any]] = []

        def replace(path: str, outputs: list[Any]) -> None:
            module = self.model.get_submodule(path)
            computed = module.forward
            calls = iter(outputs)

            def give_back(*args: Any, **kwargs: Any) -> Any:
                try:
                    output = next(calls)
                except StopIteration:
                    return computed(*args, **kwargs)
                return tree_map(lambda leaf: _repeat(leaf, copies), output)

            replaced.append((module, module.__dict__.get("forward")))
            module.forward = give_back

        try:
            for path, outputs in prefix.outputs.items():
                replace(path, outputs)
            layer = self.model.get_submodule(self.layer.module)
            replaced.append((layer, layer.__dict__.get("forward")))
            layer.forward = lambda *_args, **_kwargs: activation.clone()
            yield
        finally:
            for module, own_forward in replaced:
                if own_forward is None:
                    del module.forward
                else:
                    module.forward = own_forward


def _snapshot(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _repeat(leaf: Any, copies: int) -> Any:
    """Return a new tensor that holds a batch `copies` times."""
    if not isinstance(leaf, Tensor) or leaf.ndim == 0:
        return leaf
    return leaf.repeat(copies, *[1] * (leaf.ndim - 1))
