"""Run only the part of a model after a layer, from a recorded activation, without tracing or changing the model.

While the prefix runs, the outputs of the modules that finish before the layer does are recorded, call by call; while
the suffix runs, those calls give back what was recorded instead of computing. Later calls of the same modules, and
whatever the model does between modules, run as written, so any control flow, skip connection or functional call
stays correct. What is recorded is copied, because in-place operations would overwrite it.

The suffix may run on several variants of the activation at once. Of the recorded outputs, only those that it reads
(skip connections) are then repeated for every variant; the others are given back as they are, for one batch. Which
these are is found by a gradient and tried on two images; a model that cannot run so gets all of them, or one variant
at a time.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import Layer, classifier, recorded

# A recorded output: the module's path and the place among the module's calls. The images count as one.
Recorded = tuple[str, int]
IMAGES: Recorded = ("", 0)


@dataclass(frozen=True)
class Prefix:
    """What the prefix left for one batch: the layer's activation, and what the suffix may look up.

    Attributes:
        activation: the activation of the layer, [B, …].
        logits: [B, C], what the whole model gave.
        images: the batch [B, channels, H, W] it all came from.
        outputs: for every module that finished before the layer, by path, its recorded outputs in the order of calls.
    """

    activation: Tensor
    logits: Tensor
    images: Tensor
    outputs: dict[str, list[Any]]

    def select(self, images: list[int]) -> "Prefix":
        """Return what it would hold for some of its images, by index."""
        size = len(self.images)

        def chosen(leaf: Any) -> Any:
            if not _is_batched(leaf, size):
                return leaf
            # Windows or patches of an image may stand on the batch axis, too.
            return leaf.unflatten(0, (size, -1))[images].flatten(0, 1)

        outputs = {path: [tree_map(chosen, output) for output in calls] for path, calls in self.outputs.items()}
        return Prefix(self.activation[images], self.logits[images], self.images[images], outputs)


class SplitModel:
    """`model`, cut at `layer`: `suffix(prefix(x).activation, …)` equals `model(x)`."""

    def __init__(self, model: nn.Module, layer: Layer) -> None:
        self.model = model
        self.layer = layer
        self._classifier = classifier(model, layer)
        self._tried_copies = False
        self._repeated: frozenset[Recorded] | None = None

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Prefix:
        """Run the model on `images` [B, C, H, W] and keep what its suffix needs."""
        if self._classifier is not None:
            with recorded(self.model, self.layer) as activations:
                logits = self.model(images)
            return Prefix(activations[0], logits, images, {})
        # The outermost calls that finished before the layer did, and, for every open call, how many stood here
        # when it began: those it made itself are dropped when it ends, as giving back its output replaces them.
        finished: list[tuple[str, Any]] = []
        begun: list[int] = []
        activation: list[Tensor] = []

        def begin(_module: nn.Module, _inputs: Any) -> None:
            begun.append(len(finished))

        def finish(path: str, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            position = begun.pop()
            if activation:
                return
            del finished[position:]
            if path == self.layer.module:
                given = (*inputs, *keywords.values())
                activation.append((output if self.layer.side == "output" else given[0]).clone())
            else:
                finished.append((path, tree_map(_snapshot, output)))

        with ExitStack() as hooks:
            for path, module in self.model.named_modules():
                hooks.callback(module.register_forward_pre_hook(begin).remove)
                after = module.register_forward_hook(
                    lambda _module, inputs, keywords, output, path=path: finish(path, inputs, keywords, output),
                    with_kwargs=True,
                )
                hooks.callback(after.remove)
            logits = self.model(images)
        outputs: dict[str, list[Any]] = {}
        for path, output in finished:
            outputs.setdefault(path, []).append(output)
        return Prefix(activation[0], logits, images, outputs)

    def trimmed(self, prefix: Prefix) -> Prefix:
        """Return `prefix`, cut down to the first image wherever the suffix does not read the others.

        The suffix gives the same for both; of a model that runs with nothing less, everything is kept.
        """
        if self._classifier is not None:
            return replace(prefix, images=prefix.images[:1])
        if not self._tried_copies:
            self._repeated, self._tried_copies = self._outputs_to_repeat(prefix), True
        if self._repeated is None:
            return prefix
        read, first = self._repeated, prefix.select([0])
        outputs = {
            path: [call if (path, place) in read else first.outputs[path][place] for place, call in enumerate(calls)]
            for path, calls in prefix.outputs.items()
        }
        trimmed = replace(prefix, images=prefix.images if IMAGES in read else first.images, outputs=outputs)
        try:
            with torch.no_grad():
                same = torch.equal(self.suffix(prefix.activation, trimmed), self.suffix(prefix.activation, prefix))
        except Exception:  # a model is somebody's code, and may fail in any way
            return prefix
        return trimmed if same else prefix

    def suffix(self, activation: Tensor, prefix: Prefix, *, copies: int = 1) -> Tensor:
        """Return the logits [copies·B, C] that the rest of the model gives for `activation` [copies·B, …].

        `activation` holds `copies` variants of the prefix's batch, one whole batch after another; it is not changed.
        Gradients flow to it.

        Raises:
            InputError: if the model does not come to the layer when it runs again.
        """
        if self._classifier is not None:
            return self._classifier(activation).flatten(1)  # type: ignore[no-any-return]
        if copies == 1:
            return self._run(activation, prefix, 1, frozenset())
        if not self._tried_copies:
            self._repeated, self._tried_copies = self._outputs_to_repeat(prefix), True
        if self._repeated is None:
            return torch.cat([self._run(part, prefix, 1, frozenset()) for part in activation.chunk(copies)])
        return self._run(activation, prefix, copies, self._repeated)

    def _run(self, activation: Tensor, prefix: Prefix, copies: int, repeated: frozenset[Recorded]) -> Tensor:
        """Run the suffix with the outputs in `repeated` given back once for every copy, and all others once."""
        batch = len(prefix.images)
        images = _repeat(prefix.images, copies if IMAGES in repeated else 1, batch)
        replaced: list[tuple[nn.Module, Any]] = []
        arrived: list[bool] = []

        def replace_forward(path: str, forward: Any) -> Any:
            module = self.model.get_submodule(path)
            computed = module.forward
            replaced.append((module, module.__dict__.get("forward")))
            module.forward = forward
            return computed

        def give_back(path: str, outputs: list[Any]) -> None:
            calls = iter(enumerate(outputs))

            def forward(*args: Any, **kwargs: Any) -> Any:
                position, output = next(calls, (None, None))
                if position is None:
                    return computed(*args, **kwargs)
                times = copies if (path, position) in repeated else 1
                return tree_map(lambda leaf: _repeat(leaf, times, batch), output)

            computed = replace_forward(path, forward)

        def arrive(*_args: Any, **_kwargs: Any) -> Any:
            arrived.append(True)
            return activation.clone() if self.layer.side == "output" else compute(activation.clone())

        # PyTorch's transformer layers skip their modules' forward unless one of them has a hook.
        handle = self.model.get_submodule(self.layer.module).register_forward_pre_hook(lambda _module, _inputs: None)
        try:
            for path, outputs in prefix.outputs.items():
                give_back(path, outputs)
            compute = replace_forward(self.layer.module, arrive)
            logits: Tensor = self.model(images)
        finally:
            handle.remove()
            for module, own_forward in reversed(replaced):
                if own_forward is None:
                    del module.forward
                else:
                    module.forward = own_forward
        if len(arrived) != 1:
            raise InputError(
                f"layer {self.layer.name!r} is called {len(arrived)} times when the model runs again from it, "
                "not once; choose another layer"
            )
        return logits

    def _outputs_to_repeat(self, prefix: Prefix) -> frozenset[Recorded] | None:
        """Return the recorded outputs that every variant needs: those that the suffix reads.

        All of them, if the model does not run with fewer; None if it takes only one variant at a time.
        """
        calls = [(path, place) for path, outputs in prefix.outputs.items() for place in range(len(outputs))]
        few = prefix.select([0, min(1, len(prefix.images) - 1)])
        variants = few.activation.repeat(2, *[1] * (few.activation.ndim - 1))
        choices: list[Callable[[], frozenset[Recorded]]] = [
            lambda: self._reached_by_gradient(prefix.select([0])),
            lambda: frozenset([IMAGES, *calls]),
        ]
        for choose in choices:
            try:
                repeated = choose()
                with torch.no_grad():
                    logits = self._run(variants, few, 2, repeated)
                fits = torch.allclose(logits, few.logits.repeat(2, 1), rtol=1e-3, atol=1e-3)
            except Exception:  # a model is somebody's code, and may fail in any way
                continue
            if fits:
                return repeated
        return None

    def _reached_by_gradient(self, prefix: Prefix) -> frozenset[Recorded]:
        """Return the recorded outputs of one image that the logits depend on other than through the layer."""
        owners: list[Recorded] = []
        tensors: list[Tensor] = []
        unknown: set[Recorded] = set()

        def tracked(owner: Recorded, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if not leaf.is_floating_point():
                unknown.add(owner)  # it has no gradient
                return leaf
            owners.append(owner)
            tensors.append(leaf.detach().requires_grad_())
            return tensors[-1]

        outputs: dict[str, list[Any]] = {
            path: [
                tree_map(lambda leaf, owner=(path, place): tracked(owner, leaf), output)
                for place, output in enumerate(calls)
            ]
            for path, calls in prefix.outputs.items()
        }
        with torch.enable_grad():
            again = replace(prefix, images=tracked(IMAGES, prefix.images), outputs=outputs)
            logits = self._run(prefix.activation, again, 1, frozenset()).sum()
        if not logits.requires_grad:
            return frozenset(unknown)
        gradients = torch.autograd.grad(logits, tensors, allow_unused=True)
        reached = {owner for owner, gradient in zip(owners, gradients, strict=True) if gradient is not None}
        return frozenset(reached | unknown)


def _snapshot(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _is_batched(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] % batch == 0


def _repeat(leaf: Any, copies: int, batch: int) -> Any:
    """Return a new tensor that holds a batch `copies` times; what has no batch axis stays as it is."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.repeat(copies, *[1] * (leaf.ndim - 1)) if _is_batched(leaf, batch) else leaf.clone()
