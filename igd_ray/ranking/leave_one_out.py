"""LO-IR: a neuron matters to a class if without it that class's logit moves (Kulkarni & Weng, ECCV 2024, eq. 5).

    I(i, c) = mean over probe images x of class c of | f_c(x) − f_c^(−i)(x) |

At the penultimate layer the rest of the model is linear, z = W a + b, so that
f_c − f_c^(−i) = W[c, i] · a_i exactly, and one forward pass over the probe set gives every neuron.
At any other layer the rest of the model is re-run from the recorded activation, several neurons a call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError
from igd_ray.models.layers import PENULTIMATE, Layer, classifier, find_layer, recorded
from igd_ray.models.splitting import SplitModel
from igd_ray.ranking.scores import NeuronScores

# Activation values held at once while neurons are ablated; 2**25 float32 values are 128 MiB.
ABLATION_VALUES = 2**25


@dataclass(frozen=True)
class LeaveOneOutSums:
    """What a shard of images adds to LO-IR for some of the neurons.

    Attributes:
        totals: float64 [C, n]: for each class, the sum over its images of |f_c − f_c^(−i)|.
        counts: int64 [C]: the number of images of each class.
    """

    totals: Tensor
    counts: Tensor


def leave_one_out_sums(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    neurons: range | None = None,
) -> LeaveOneOutSums:
    """Return what `images` add to LO-IR.

    Args:
        model: the base model, in eval mode.
        layer: where the neurons are.
        images, labels: [B, C, H, W] in [0, 1] and int64 [B].
        num_classes: the number of rows of the result.
        neurons: which neurons; all by default.
    """
    neurons = range(layer.width) if neurons is None else neurons
    head = classifier(model, layer)
    if head is not None and _is_linear(head):
        changes = _closed_form_changes(model, head, layer, images, labels)[:, neurons.start : neurons.stop]
    else:
        changes = _ablated_changes(SplitModel(model, layer), images, labels, neurons)
    totals = torch.zeros(num_classes, len(neurons), dtype=torch.float64)
    totals.index_add_(0, labels.cpu(), changes.double().cpu())
    return LeaveOneOutSums(totals, torch.bincount(labels.cpu(), minlength=num_classes))


def scores_from_sums(parts: list[LeaveOneOutSums], class_names: tuple[str, ...]) -> Tensor:
    """Return LO-IR scores, float64 [C, N], from the sums of all image shards over the same neurons.

    Raises:
        InputError: if some class has no probe image.
    """
    counts = torch.stack([part.counts for part in parts]).sum(dim=0)
    require_every_class(counts, class_names)
    return torch.stack([part.totals for part in parts]).sum(dim=0) / counts[:, None]


def require_every_class(counts: Tensor, class_names: tuple[str, ...]) -> None:
    """Check that the probe set has images of every class, int64 `counts` [C].

    Raises:
        InputError: naming the classes without any.
    """
    empty = [class_names[index] for index in (counts == 0).nonzero().flatten().tolist()]
    if empty:
        shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
        raise InputError(
            f"the probe set has no image of {len(empty)} of {len(class_names)} classes ({shown}); use more probe images"
        )


def leave_one_out(
    model: nn.Module, probe: LabeledImages, *, layer: str = PENULTIMATE, batch_size: int = 256
) -> NeuronScores:
    """Rank the neurons of `layer` by LO-IR in this process (eq. 5, absolute values, ground-truth class).

    Args:
        model: takes images in [0, 1] and returns logits; in eval mode.
        probe: images of every class, best from the training set.
        layer: "penultimate" or a module's path.
        batch_size: images a forward pass.

    Raises:
        InputError: for a layer that cannot be masked, or a probe set that lacks a class.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    found: Layer | None = None
    parts = []
    for images, labels in probe.batches(batch_size):
        images = images.to(device=parameter.device, dtype=parameter.dtype)
        if found is None:
            found = find_layer(model, layer, images[:1])
        parts.append(leave_one_out_sums(model, found, images, labels, len(probe.class_names)))
    return NeuronScores(
        scores_from_sums(parts, probe.class_names),
        method="loir",
        layer=layer,
        details={"probe": probe.fingerprint, "probe_images": len(probe)},
    )


def _is_linear(head: nn.Module) -> bool:
    """Return whether `head` computes W a + b: a subclass may normalise its input or its weights."""
    return type(head).forward in (nn.Linear.forward, nn.Conv2d.forward) and getattr(head, "groups", 1) == 1


@torch.no_grad()
def _closed_form_changes(model: nn.Module, head: nn.Module, layer: Layer, images: Tensor, labels: Tensor) -> Tensor:
    """Return |W[y, i] · a_i|, [B, N]: the change of the true class's logit, exact for a linear head."""
    with recorded(model, layer) as activations:
        model(images)
    weight: Tensor = head.weight.flatten(1)  # type: ignore[operator]
    # A 1×1 convolution sees [B, N, 1, 1]; its output is the logits, so there is one position.
    return weight[labels.to(weight.device)].abs() * activations[0].flatten(1).abs()


@torch.no_grad()
def _ablated_changes(split: SplitModel, images: Tensor, labels: Tensor, neurons: range) -> Tensor:
    """Return |f_y − f_y^(−i)|, [B, len(neurons)], by re-running the suffix with each neuron set to zero."""
    prefix = split.prefix(images)
    activation = prefix.activation
    rows = torch.arange(len(images), device=activation.device)
    labels = labels.to(activation.device)
    true_logit = split.suffix(activation, prefix)[rows, labels]
    at_once = max(1, ABLATION_VALUES // max(activation.numel(), images.numel()))
    columns = []
    for start in range(0, len(neurons), at_once):
        some = neurons[start : start + at_once]
        variants = activation.repeat(len(some), *[1] * (activation.ndim - 1)).view(len(some), *activation.shape)
        for position, neuron in enumerate(some):
            variants[position].select(split.layer.axis, neuron).zero_()
        logits = split.suffix(variants.flatten(0, 1), prefix, copies=len(some)).view(len(some), len(images), -1)
        columns.append((true_logit - logits[:, rows, labels]).abs())
    return torch.cat(columns).T
