"""Run only the part of a model after a layer, from a recorded activation, without tracing or changing the model.

While the prefix runs, the outputs of the modules that finish before the layer does are recorded; while the suffix
runs, those modules give back what was recorded instead of computing. Whatever the model does between modules runs
as written, so any control flow, skip connection or functional call stays correct.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from igd_ray.errors import InputError
from igd_ray.models.layers import Layer, classifier


class Prefix:
    """What the prefix left for one batch: the layer's activation, and what the suffix may look up.

    Attributes:
        activation: the activation of the layer, [B, …].
        images: the batch [B, C, H, W] it came from.
        outputs: the recorded output of every module that finished before the layer, by path.
    """

    def __init__(self, activation: Tensor, images: Tensor, outputs: dict[str, Any]) -> None:
        self.activation = activation
        self.images = images
        self.outputs = outputs


class SplitModel:
    """`model`, cut at `layer`: `suffix(prefix(x).activation, …)` equals `model(x)`."""

    def __init__(self, model: nn.Module, layer: Layer) -> None:
        self.model = model
        self.layer = layer
        self._classifier = classifier(model, layer)
        # The modules that hold the layer run as written: they must reach it.
        names = layer.module.split(".")
        self._around = {".".join(names[:depth]) for depth in range(len(names))}

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Prefix:
        """Run the model on `images` [B, C, H, W] and keep what its suffix needs.

        Raises:
            InputError: if a module before the layer runs more than once, so that its outputs cannot be told apart.
        """
        finished: dict[str, list[Any]] = {}
        activation: list[Tensor] = []
        handles = []

        def finish(path: str, output: Any) -> None:
            if not activation:
                finished.setdefault(path, []).append(output)

        for path, module in self.model.named_modules():
            if path == self.layer.module:
                if self.layer.side == "input":
                    handles.append(
                        module.register_forward_pre_hook(lambda _module, inputs: activation.append(inputs[0]))
                    )
                else:
                    handles.append(
                        module.register_forward_hook(lambda _module, _inputs, output: activation.append(output))
                    )
            elif path not in self._around and not path.startswith(self.layer.module + "."):
                handles.append(
                    module.register_forward_hook(lambda _module, _inputs, output, path=path: finish(path, output))
                )
        try:
            self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        outermost = {
            path: outputs
            for path, outputs in finished.items()
            if not any(path.startswith(other + ".") for other in finished)
        }
        repeated = [path for path, outputs in outermost.items() if len(outputs) > 1]
        if repeated:
            raise InputError(f"the model cannot be cut at {self.layer.name!r}: {repeated[0]!r} runs more than once")
        return Prefix(activation[0], images, {path: outputs[0] for path, outputs in outermost.items()})

    @torch.no_grad()
    def suffix(self, activation: Tensor, prefix: Prefix, *, copies: int = 1) -> Tensor:
        """Return the logits [copies·B, C] that the rest of the model gives for `activation` [copies·B, …].

        `activation` holds `copies` variants of the prefix's batch, one whole batch after another.
        """
        if self._classifier is not None:
            return self._classifier(activation).flatten(1)  # type: ignore[no-any-return]
        images = _repeat(prefix.images, copies)
        with self._replayed(activation, prefix, copies):
            return self.model(images)  # type: ignore[no-any-return]

    @contextmanager
    def _replayed(self, activation: Tensor, prefix: Prefix, copies: int) -> Iterator[None]:
        """While open, modules before the layer give their recorded output, and the layer gives `activation`."""
        replaced: list[tuple[nn.Module, Any]] = []

        def replace(path: str, output: Any) -> None:
            module = self.model.get_submodule(path)
            replaced.append((module, module.__dict__.get("forward")))
            module.forward = lambda *_args, **_kwargs: output

        try:
            for path, output in prefix.outputs.items():
                replace(path, tree_map(lambda leaf: _repeat(leaf, copies), output))
            replace(self.layer.module, activation)
            yield
        finally:
            for module, own_forward in replaced:
                if own_forward is None:
                    del module.forward
                else:
                    module.forward = own_forward


def _repeat(leaf: Any, copies: int) -> Any:
    """Repeat a batch `copies` times; the copies share memory until something writes to them."""
    if copies == 1 or not isinstance(leaf, Tensor) or leaf.ndim == 0:
        return leaf
    return leaf.unsqueeze(0).expand(copies, *leaf.shape).flatten(0, 1)
