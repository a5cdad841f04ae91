"""LO-IR: a neuron matters to a class if without it that class's logit moves (Kulkarni & Weng, ECCV 2024, eq. 5).

    I(i, c) = mean over probe images x of class c of | f_c(x) − f_c^(−i)(x) |

Where the rest of the model is linear in the layer's activation, as at the penultimate layer with z = W a + b and
f_c − f_c^(−i) = W[c, i] · a_i, one forward pass over the probe set gives every neuron.
At any other layer the rest of the model is re-run from the recorded activation, several neurons a call.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError
from igd_ray.models.anatomy.cutting import Prefix, SplitModel
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer
from igd_ray.models.anatomy.linear_suffix import is_affine, is_linear_suffix, linear_changes
from igd_ray.models.anatomy.memory import PeakMemory
from igd_ray.models.anatomy.precision import full_precision
from igd_ray.ranking.base import Batch, Probe, State, StatisticRanking, planned, register
from igd_ray.ranking.in_process import rank_neurons
from igd_ray.ranking.scores import NeuronScores

# Bytes that re-running the suffix may take beside the model and what its prefix left: as many neurons share a call
# as fit, but at least one, with the whole batch of images. What one neuron takes is measured on the first.
ABLATION_BYTES = 2**29

# Neurons that share a unit where the suffix is re-run for each of them.
SHARD_NEURONS = 64


@dataclass(frozen=True)
class LeaveOneOutSums:
    """What a shard of images adds to LO-IR for some of the neurons.

    Attributes:
        totals: float64 [C, n]: for each class, the sum over its images of |f_c − f_c^(−i)|, or of the signed change.
        counts: int64 [C]: the number of images that each class's mean is over.
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
    every_class: bool = False,
    signed: bool = False,
) -> LeaveOneOutSums:
    """Return what `images` add to LO-IR.

    Autocast and TF32 are off inside, and sums are float64.

    Args:
        model: the base model, in eval mode.
        layer: where the neurons are.
        images, labels: [B, C, H, W] in [0, 1] and int64 [B].
        num_classes: the number of rows of the result.
        neurons: which neurons; all by default.
        every_class: look at every class's logit on every image, not only at an image's own class.
        signed: sum f_c − f_c^(−i) itself (eq. 5 as printed), not its absolute value (the authors' code).

    Raises:
        InputError: if the model has another number of classes.

    Two neurons, which are the pixels, and one image of each class: without neuron i, the logit of class c changes by
    W[c, i] · x_i.

        >>> from igd_ray.models import find_layer
        >>> linear = nn.Linear(2, 2, bias=False).requires_grad_(False)
        >>> _ = linear.weight.copy_(torch.tensor([[2.0, 1.0], [-4.0, 0.0]]))
        >>> model = nn.Sequential(nn.Flatten(), linear)
        >>> images = torch.tensor([[0.5, 0.25], [0.75, 1.0]]).reshape(2, 1, 1, 2)
        >>> layer = find_layer(model, "penultimate", images[:1])
        >>> leave_one_out_sums(model, layer, images, torch.tensor([0, 1]), 2).totals.tolist()
        [[1.0, 0.25], [3.0, 0.0]]
    """
    neurons = range(layer.width) if neurons is None else neurons
    with full_precision(images.device), torch.no_grad():
        split = SplitModel(model, layer)
        prefix = split.prefix(images)
        if prefix.logits.shape[1] != num_classes:
            raise InputError(
                f"the model has {prefix.logits.shape[1]} classes, the probe set {num_classes}; choose a matching pair"
            )
        labels = labels.to(prefix.logits.device)
        sums = _closed_form_sums if is_affine(split, prefix) else _ablated_sums
        totals = sums(split, prefix, labels, neurons, every_class=every_class, signed=signed)
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    return LeaveOneOutSums(totals.cpu(), torch.full_like(counts, len(labels)) if every_class else counts)


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


@register("loir")
@dataclass(frozen=True)
class LeaveOneOut(StatisticRanking):
    """LO-IR. Its state are the sums of `LeaveOneOutSums`; those of several shards of images add up.

    Attributes:
        every_class: score a class by its logit on every image, not only on images of that class.
        signed: score by the mean of f_c − f_c^(−i) itself (eq. 5 as printed), not of its absolute value (the
            authors' code).
        one_pass: one pass over an image gives all neurons, as the rest of the model is linear.
        unit_neurons: how many neurons share a unit where one pass does not give all of them.
    """

    every_class: bool = False
    signed: bool = False
    one_pass: bool = planned(True)
    unit_neurons: int = planned(SHARD_NEURONS)

    kind: ClassVar[str] = "leave-one-out"

    def prepared(self, probe: Probe) -> Self:
        """Check that the probe set has images of every class, unless each image counts for all classes."""
        if not self.every_class:
            require_every_class(torch.bincount(probe.labels, minlength=len(self.class_names)), self.class_names)
        return self

    def sharded(self, model: nn.Module, example: Tensor) -> Self:
        """Find out whether one pass gives all neurons: then cutting them up would only repeat it."""
        return replace(self, one_pass=is_linear_suffix(model, self.layer, example))

    def neuron_ranges(self, width: int) -> tuple[range, ...]:
        """Return one range, or several of `unit_neurons`."""
        step = width if self.one_pass else self.unit_neurons
        return tuple(range(start, min(start + step, width)) for start in range(0, width, step))

    def forwards(self, neurons: range) -> int:
        """Return one, or one for the logits, one for what the suffix is like, and one for each neuron."""
        return 1 if self.one_pass else 2 + len(neurons)

    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return the options and the neurons; the model says which classes there are."""
        return {"method": "loir", "neurons": [neurons.start, neurons.stop], **self.options}

    def update(self, batch: Batch) -> State:
        """Return the sums over the batch."""
        sums = leave_one_out_sums(
            batch.model,
            self.layer,
            batch.images,
            batch.labels,
            len(self.class_names),
            neurons=batch.neurons,
            every_class=self.every_class,
            signed=self.signed,
        )
        return {"totals": sums.totals, "counts": sums.counts}

    def compute(self, state: State) -> Tensor:
        """Divide the totals by the numbers of images."""
        return state["totals"] / state["counts"][:, None]


def leave_one_out(
    model: nn.Module,
    probe: LabeledImages,
    *,
    layer: str = PENULTIMATE,
    batch_size: int = 256,
    every_class: bool = False,
    signed: bool = False,
) -> NeuronScores:
    """Rank the neurons of `layer` by LO-IR in this process (eq. 5).

    Args:
        model: takes images in [0, 1] and returns logits; in eval mode.
        probe: images of every class, best from the training set.
        layer: "penultimate" or a module's path.
        batch_size: images a forward pass.
        every_class: score a class by its logit on every image, not only on images of that class.
        signed: score by the mean of f_c − f_c^(−i) itself (eq. 5 as printed), not of its absolute value (the
            authors' code).

    Returns:
        scores float64 [C, N] in logits, at least 0 unless `signed`.

    Raises:
        InputError: for a layer that cannot be masked, or a probe set that lacks a class or has too many.
    """
    return rank_neurons(
        "loir", model, probe, layer=layer, batch_size=batch_size, every_class=every_class, signed=signed
    )


def _closed_form_sums(
    split: SplitModel, prefix: Prefix, labels: Tensor, neurons: range, *, every_class: bool, signed: bool
) -> Tensor:
    """Return the totals, float64 [C, len(neurons)], for a suffix that is linear in the activation."""
    num_classes = prefix.logits.shape[1]
    turns = [torch.full_like(labels, index) for index in range(num_classes)] if every_class else [labels]
    totals = torch.zeros(num_classes, len(neurons), dtype=torch.float64, device=labels.device)
    for classes, changes in zip(turns, linear_changes(split, prefix, turns), strict=True):
        changes = changes[:, neurons.start : neurons.stop]
        totals.index_add_(0, classes, changes if signed else changes.abs())
    return totals


def _ablated_sums(
    split: SplitModel, prefix: Prefix, labels: Tensor, neurons: range, *, every_class: bool, signed: bool
) -> Tensor:
    """Return the totals, float64 [C, len(neurons)], by re-running the suffix with each neuron set to zero."""
    counted = nn.functional.one_hot(labels, prefix.logits.shape[1]).double()
    if every_class:
        counted = torch.ones_like(counted)
    # Where a neuron is zero already, its change is zero, not the rounding of two batches of different size.
    active = (split.layer.by_position(prefix.activation) != 0).any(dim=2)
    totals = []
    for neuron, ablated in ablated_logits(split, prefix, neurons):
        change = (prefix.logits.double() - ablated.double()) * active[:, neuron, None]
        totals.append((counted * (change if signed else change.abs())).sum(dim=0))
    return torch.stack(totals, dim=1)


def ablated_logits(split: SplitModel, prefix: Prefix, neurons: range) -> Iterator[tuple[int, Tensor]]:
    """Yield every neuron and the logits [B, C] with it set to zero."""
    activation = prefix.activation
    done, at_once = 0, 1
    while done < len(neurons):
        some = neurons[done : done + at_once]
        with PeakMemory() if done == 0 else nullcontext() as memory:
            variants = activation.expand(len(some), *activation.shape).clone()
            for variant, neuron in zip(variants, some, strict=True):
                variant.select(split.layer.axis, neuron).zero_()
            logits = split.suffix(variants.flatten(0, 1), prefix, copies=len(some))
        if memory is not None:
            at_once = max(1, ABLATION_BYTES // memory.peak)
        yield from zip(some, logits.view(len(some), *prefix.logits.shape), strict=True)
        done += len(some)
