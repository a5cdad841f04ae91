"""Rankings computed in this process, from a model and a probe set, without a catalog."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import PENULTIMATE, find_layer
from igd_ray.ranking.base import Batch, Probe, State, Statistic, ranking_class
from igd_ray.ranking.scores import NeuronScores

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip


@dataclass(frozen=True)
class LocalModels:
    """The models of this process.

    Attributes:
        model: the base model.
        load_clip: returns the CLIP model; called only for rankings that read it.
    """

    model: nn.Module
    load_clip: "Callable[[], Clip]"

    @property
    def clip(self) -> "Clip":
        """The CLIP model."""
        return self.load_clip()


def rank_neurons(
    method: str,
    model: nn.Module,
    probe: LabeledImages,
    *,
    layer: str = PENULTIMATE,
    clip: "Clip | None" = None,
    batch_size: int = 256,
    **settings: object,
) -> NeuronScores:
    """Rank the neurons of `layer` by a registered method.

    Args:
        method: its name, such as "loir".
        model: takes images in [0, 1] and returns logits; in eval mode.
        probe: labelled images, best from the training set.
        layer: "penultimate" or a module's path.
        clip: for methods that compare with what CLIP sees.
        batch_size: images a forward pass.
        settings: the method's own.

    Raises:
        InputError: if there is no such method, the layer cannot be masked, or settings and images do not fit.
    """
    parameter = next(model.parameters(), torch.zeros(()))

    def placed(images: Tensor) -> Tensor:
        return images.to(device=parameter.device, dtype=parameter.dtype)

    def load_clip() -> "Clip":
        if clip is None:
            raise InputError(f"{method} rankings read a CLIP model; pass one as clip=")
        return clip

    models = LocalModels(model, load_clip)
    example = placed(next(iter(probe.batches(1)))[0])
    found = find_layer(model, layer, example)
    ranking = ranking_class(method)(found, tuple(probe.class_names), **settings)  # type: ignore[arg-type]
    ranking = ranking.prepared(Probe(example, probe.labels, load_clip))
    neurons = range(found.width)
    statistics = ranking.statistics()
    states: list[list[State]] = [[] for _ in statistics]

    def update(statistic: Statistic, images: Tensor, labels: Tensor) -> State:
        state = statistic.update(Batch(images, labels, neurons, models))
        return {name: array.cpu() for name, array in state.items()}

    for statistic, own in zip(statistics, states, strict=True):
        if "images" not in statistic.reads:
            own.append(update(statistic, example[:0], probe.labels[:0]))
    for images, labels in probe.batches(batch_size):
        for statistic, own in zip(statistics, states, strict=True):
            if "images" in statistic.reads:
                seen = placed(images) if "model" in statistic.reads else images
                own.append(update(statistic, seen, labels.to(seen.device)))
    merged = [statistic.merge(own) for statistic, own in zip(statistics, states, strict=True)]
    details = {"probe": probe.fingerprint, "probe_images": len(probe), **ranking.options}
    return NeuronScores(ranking.scores(merged), method=method, layer=layer, details=details)
