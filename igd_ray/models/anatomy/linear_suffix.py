"""Where the rest of a model is linear in a layer's activation, one gradient gives the effect of every neuron.

A suffix such as pooling, flattening, dropout (off) and a Linear is affine: f(a) = J a + b, where J and b may depend
on the image through what passes by the layer. Without neuron i the logit of class c then changes by
f_c − f_c^(−i) = Σ_positions J[c, i, ·] · a[i, ·] exactly.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from igd_ray.models.anatomy.cutting import Prefix, SplitModel
from igd_ray.models.anatomy.layers import Layer, classifier
from igd_ray.models.anatomy.precision import full_precision

# Lengths of the random steps that a suffix must answer linearly, in units of the largest activation. The larger
# ones cross any threshold that the data itself stays away from.
STEP_LENGTHS = (1.0, 1e2, 1e4)

# How far the sum of two answers may be off, in units of the floating-point type's precision: relative to the answers,
# long sums of products, and to the logits, of which they are differences.
ANSWER_ROUNDING = 1e3
LOGIT_ROUNDING = 16.0


def is_linear_suffix(model: nn.Module, layer: Layer, example: Tensor) -> bool:
    """Return whether the logits are an affine function of the activation of `layer`.

    Args:
        model: the base model, in eval mode.
        layer: where the neurons are.
        example: an image [1, channels, H, W] in [0, 1]; only the first counts.
    """
    with full_precision(example.device), torch.no_grad():
        split = SplitModel(model, layer)
        return is_affine(split, split.prefix(example[:1]))


@torch.no_grad()
def is_affine(split: SplitModel, prefix: Prefix) -> bool:
    """Return whether the suffix behaves like an affine function of the activation, with the gradient that it reports.

    It is run on the first image of `prefix`, with signed random steps of `STEP_LENGTHS`: an affine function answers
    to the sum of two steps with the sum of its answers. Only functions that are affine up to rounding pass.
    """
    if linear_weight(split.model, split.layer) is not None:
        return True
    image = prefix.select([0])
    activation = image.activation
    if activation.dtype not in (torch.float32, torch.float64):
        return False
    generator = torch.Generator().manual_seed(0)
    largest = float(activation.abs().amax()) or 1.0
    for length in STEP_LENGTHS:
        steps = torch.randn(2, *activation.shape, generator=generator, dtype=torch.float64).to(activation)
        first, second = steps * (length * largest)
        points = torch.cat([activation + first, activation + second, activation + first + second])
        logits = torch.cat([image.logits, split.suffix(points, image, copies=3)])
        coarser = max(activation.dtype, logits.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        if not _adds_up(logits.double(), coarser):
            return False
    return _gradient_answers(split, image, generator, largest)


def linear_changes(split: SplitModel, prefix: Prefix, classes: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield f_c − f_c^(−i), [B, N], for every int64 [B] of `classes`: one class c for each image.

    Exact for an affine suffix. Sums over positions are taken in float64; the result is float64.
    """
    weight = linear_weight(split.model, split.layer)
    if weight is not None:
        # A 1×1 convolution sees [B, N, 1, 1]; its output is the logits, so there is one position.
        activation = prefix.activation.flatten(1).double()
        for chosen in classes:
            yield weight[chosen].double() * activation
        return
    with torch.enable_grad():
        traced = prefix.activation.detach().requires_grad_()
        logits = split.suffix(traced, prefix)
    for chosen in classes:
        with torch.enable_grad():
            picked = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(picked, traced, retain_graph=True)
        yield split.layer.by_position(gradient.double() * prefix.activation.double()).sum(dim=2)


def linear_weight(model: nn.Module, layer: Layer) -> Tensor | None:
    """Return W, [C, N], if the classifier computes W a + b from the penultimate layer's activation a; else None."""
    head = classifier(model, layer)
    # A subclass, or a forward of its own, may normalise its input or its weights.
    computes = getattr(getattr(head, "forward", None), "__func__", None)
    if computes not in (nn.Linear.forward, nn.Conv2d.forward) or getattr(head, "groups", 1) != 1:
        return None
    return head.weight.detach().flatten(1)  # type: ignore[operator, union-attr]


def _gradient_answers(split: SplitModel, image: Prefix, generator: torch.Generator, largest: float) -> bool:
    """Return whether the gradient of the logits, summed with random weights, predicts the answer to a step.

    It does not behind a `detach`, or where the model defines a gradient of its own.
    """
    with torch.enable_grad():
        traced = image.activation.detach().requires_grad_()
        logits = split.suffix(traced, image)
        weights = torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits.device)
        if not logits.requires_grad:
            return False
        (gradient,) = torch.autograd.grad((weights * logits).sum(), traced, allow_unused=True)
    if gradient is None:
        return False
    # Long steps: beside their answers, the rounding of the logits does not count.
    step = torch.randn(traced.shape, generator=generator, dtype=torch.float64).to(traced) * (largest * STEP_LENGTHS[-1])
    answers = weights * (split.suffix(image.activation + step, image).double() - logits.detach().double())
    predicted = (gradient.double() * step.double()).sum()
    allowed = ANSWER_ROUNDING * torch.finfo(traced.dtype).eps * answers.abs().sum()
    return bool((answers.sum() - predicted).abs() <= allowed)


def _adds_up(logits: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the answer to two steps is the sum of their answers, up to rounding.

    Args:
        logits: float64 [4, C]: without a step, after the first, after the second, after both.
        dtype: the floating-point type that they were computed in.
    """
    precision = torch.finfo(dtype).eps
    first, second, both = logits[1:] - logits[0]
    # Measured by the answers and not by the logits, beside which a small nonlinear branch would not show.
    scale = torch.stack([first, second, both]).abs().sum(dim=0)
    # A class whose own answers happen to be small is rounded like the others.
    scale = scale.clamp(min=float(scale.mean()))
    allowed = ANSWER_ROUNDING * precision * scale + LOGIT_ROUNDING * precision * logits.abs().sum(dim=0)
    return bool(((both - first - second).abs() <= allowed).all())
