"""Checks: measurements that can make a robustness number suspicious, with all of their thresholds.

A finding says what was measured even where nothing is wrong, because a check that did not run has not passed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from igd_ray.attacks.base import RANDOMISED_DIFFERENCE
from igd_ray.errors import InputError
from igd_ray.statistics import SIGNIFICANCE, mcnemar
from igd_ray.threat import DISTANCE_TOLERANCE, Norm, ThreatModel, predicted_classes

INFO, WARNING = "info", "warning"

# More than this share of images has an all-zero gradient.
ZERO_GRADIENT_SHARE = 0.01
# Query attacks break at least this many images that no gradient attack on the same target broke.
QUERY_BEATS_GRADIENT_IMAGES = 1
# A transferred attack breaks at least this many more images than the direct ones, with this significance.
TRANSFER_BEATS_DIRECT_IMAGES = 1
# A prediction changes with the batch size although its margin exceeds this.
BATCH_MARGIN = 1e-3
BATCH_SIZES = (1, 64)
# An attack with many steps leaves more images correct than one with few, with this significance.
FEW_STEPS, MANY_STEPS = 20, 200
# More than this accuracy is left at this multiple of epsilon, where hardly any image is recognisable.
LARGE_EPSILON_FACTOR = 16
LARGE_EPSILON_ACCURACY = 0.05
# Rounding to 8 bits loses more than this share of the broken images, and at least this many, beyond what a second
# evaluation without rounding loses. The share alone is not enough: of few images one is a large share, and an honest
# model may lose one image that lies on its decision boundary.
ROUNDING_SHARE = 0.05
ROUNDING_IMAGES = 2
GREY_LEVELS = 255
# Outputs this close to a probability distribution count as one.
PROBABILITY_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Finding:
    """What one check measured.

    Attributes:
        check: name of the check.
        severity: "info" where nothing is wrong, "warning" where the accuracy deserves doubt.
        value: the quantity that is compared with the threshold; None where there was nothing to measure.
        message: one sentence for the reader of the report.
    """

    check: str
    severity: str
    value: float | None
    message: str


def not_measurable(check: str, why: str) -> Finding:
    """Return the finding of a `check` that had nothing to measure, so that it does not count as passed."""
    return Finding(check, INFO, None, f"{why}: nothing to measure")


@torch.no_grad()
def check_randomised(target: nn.Module, images: Tensor, *, protocol: str) -> Finding:
    """Compare two passes over `images` [n, C, H, W]; a randomised target under a deterministic protocol is a warning.

    Blends of two images are compared, too. Noise before a hard pseudo-label (τ = 0.01) shows only where the label is in
    doubt, and a confident model is not in doubt on clean images.

    Args:
        target: the defended model.
        images: some clean images.
        protocol: "standard" for attacks made for deterministic targets, "rand" for those that average gradients.
    """
    points = torch.cat([images, (images + images.roll(1, dims=0)) / 2])
    difference = float((target(points) - target(points)).abs().max())
    randomised = not difference <= RANDOMISED_DIFFERENCE  # NaN counts as randomised
    if not randomised:
        message = f"two passes over {len(images)} images differ by at most {difference:.1e}: no randomness seen"
    elif protocol == "standard":
        message = (
            f"two passes differ by up to {difference:.2g} in a logit: the target is randomised, and attacks made for "
            "deterministic targets (AutoAttack standard) may overrate it; see the rand and EoT attacks"
        )
    else:
        message = f"two passes differ by up to {difference:.2g} in a logit: the target is randomised"
    return Finding("randomised", WARNING if randomised and protocol == "standard" else INFO, difference, message)


def check_zero_gradient(target: nn.Module, images: Tensor, labels: Tensor) -> Finding:
    """Measure the share of images whose cross-entropy gradient is all zero or not finite."""
    points = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(target(points), labels, reduction="sum")
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, [points], allow_unused=True, materialize_grads=True)
    else:
        gradient = torch.zeros_like(points)
    useless = (gradient == 0).flatten(1).all(dim=1) | ~torch.isfinite(gradient).flatten(1).all(dim=1)
    share = float(useless.float().mean())
    severity = WARNING if share > ZERO_GRADIENT_SHARE else INFO
    count = int(useless.sum())
    message = f"{count} of {len(images)} images have an all-zero or non-finite cross-entropy gradient"
    if severity == WARNING:
        message += ": gradient attacks may be blind there"
    return Finding("zero-gradient", severity, share, message)


@torch.no_grad()
def check_batch_dependence(target: nn.Module, images: Tensor) -> Finding:
    """Compare the predictions of a deterministic target at two batch sizes."""
    logits = [
        torch.cat([target(images[start : start + size]) for start in range(0, len(images), size)])
        for size in BATCH_SIZES
    ]
    top = logits[0].topk(2, dim=1).values
    decided = top[:, 0] - top[:, 1] > BATCH_MARGIN
    changed = int(((logits[0].argmax(dim=1) != logits[1].argmax(dim=1)) & decided).sum())
    sizes = " and ".join(str(size) for size in BATCH_SIZES)
    message = f"{changed} of {len(images)} predictions change between batch sizes {sizes}"
    return Finding("batch-dependence", WARNING if changed else INFO, changed, message)


@torch.no_grad()
def check_output_range(target: nn.Module, images: Tensor) -> Finding:
    """Warn of outputs that look like probabilities: the losses of attacks expect logits."""
    logits = target(images)
    off = float((logits.sum(dim=1) - 1).abs().max())
    inside = bool((logits >= -PROBABILITY_TOLERANCE).all() and (logits <= 1 + PROBABILITY_TOLERANCE).all())
    if inside and off < PROBABILITY_TOLERANCE:
        message = "the outputs sum to 1 and lie in [0, 1]: probabilities, not logits, weaken gradient attacks"
        return Finding("output-range", WARNING, off, message)
    return Finding("output-range", INFO, off, f"outputs range over [{logits.min():.3g}, {logits.max():.3g}]: logits")


def check_query_beats_gradient(broken_only_by_queries: int, broken: int) -> Finding:
    """Compare the number of images that only a query attack broke with the threshold."""
    severity = WARNING if broken_only_by_queries >= QUERY_BEATS_GRADIENT_IMAGES else INFO
    message = f"{broken_only_by_queries} of {broken} broken images were broken by a query attack alone"
    if severity == WARNING:
        message += ": gradients may be masked"
    return Finding("query-beats-gradient", severity, broken_only_by_queries, message)


def check_transfer_beats_direct(only_transfer: int, only_direct: int) -> Finding:
    """Compare the numbers of images that only transfers and only direct attacks broke (exact McNemar)."""
    p_value = mcnemar(only_transfer, only_direct)
    beats = only_transfer - only_direct >= TRANSFER_BEATS_DIRECT_IMAGES and p_value < SIGNIFICANCE
    message = (
        f"transfers from the base model alone broke {only_transfer} images, direct attacks alone {only_direct} "
        f"(p = {p_value:.2g})"
    )
    if beats:
        message += ": the direct attacks are too weak for this target"
    return Finding("transfer-beats-direct", WARNING if beats else INFO, only_transfer - only_direct, message)


def check_more_steps(only_few: int, only_many: int) -> Finding:
    """Compare the numbers of images that only 20 steps and only 200 steps of one attack broke (exact McNemar)."""
    p_value = mcnemar(only_few, only_many)
    worse = only_few > only_many and p_value < SIGNIFICANCE
    message = (
        f"{FEW_STEPS} steps alone broke {only_few} images, {MANY_STEPS} steps alone {only_many} (p = {p_value:.2g})"
    )
    if worse:
        message += ": more steps break less, so that the attack does not follow the target's loss"
    return Finding("more-steps", WARNING if worse else INFO, only_few - only_many, message)


def large_threat(threat: ThreatModel) -> ThreatModel:
    """Return `threat` with 16 times its epsilon; for the infinity norm at most 1, the whole range of a pixel."""
    epsilon = LARGE_EPSILON_FACTOR * threat.epsilon
    return ThreatModel(threat.norm, min(epsilon, 1.0) if threat.norm is Norm.LINF else epsilon)


def check_large_epsilon(robust: int, images: int) -> Finding:
    """Compare the accuracy that an attack within `large_threat` left with the threshold.

    Args:
        robust: number of images that stayed correct.
        images: number of all images.

    Raises:
        InputError: if `images` is less than 1.
    """
    if images < 1:
        raise InputError(f"the accuracy at {LARGE_EPSILON_FACTOR} times eps needs at least one image, not {images}")
    accuracy = robust / images
    severity = WARNING if accuracy > LARGE_EPSILON_ACCURACY else INFO
    message = f"{robust} of {images} images stay correct at {LARGE_EPSILON_FACTOR} times eps"
    if severity == WARNING:
        message += f", more than {LARGE_EPSILON_ACCURACY:.0%}: the attack fails where any should succeed"
    return Finding("large-epsilon", severity, accuracy, message)


def check_few_classes(notes: Sequence[str]) -> Finding:
    """Report the losses that attacks replaced because the model has too few classes for them.

    Args:
        notes: one sentence per attack.
    """
    notes = list(dict.fromkeys(notes))
    message = "; ".join(notes) if notes else "the model has enough classes for the losses of all attacks"
    return Finding("few-classes", INFO, len(notes), message)


class StoredPoints(NamedTuple):
    """Points as read back from storage.

    Attributes:
        points: number of points.
        outside: number of points outside the ball or [0, 1].
        excess: the largest distance by which a point is outside, in [0, 1] pixel units.
    """

    points: int
    outside: int
    excess: float


def measure_stored_points(points: Tensor, images: Tensor, threat: ThreatModel) -> StoredPoints:
    """Measure how far points, as read back from storage, leave the ball or [0, 1].

    Args:
        points: as stored, float32 [n, C, H, W].
        images: the clean images, [n, C, H, W].
        threat: the threat model of the attack.
    """
    # Measure in float64: the stored points are rounded to float32, the measurement must not be.
    points, images = points.double(), images.double()
    low, high = -points.flatten(1).amin(dim=1), points.flatten(1).amax(dim=1) - 1
    distance = threat.norm.distance(points, images) - threat.epsilon
    excess = torch.stack([distance, low, high]).amax(dim=0).nan_to_num(nan=torch.inf, posinf=torch.inf)
    outside = int((excess > DISTANCE_TOLERANCE).sum())
    return StoredPoints(len(points), outside, max(float(excess.max()), 0.0) if len(excess) else 0.0)


def check_stored_points(measured: Sequence[StoredPoints]) -> Finding:
    """Warn of points outside the ball or [0, 1]; `measured` has one entry per part of the points."""
    points, outside = sum(part.points for part in measured), sum(part.outside for part in measured)
    if points == 0:
        return not_measurable("stored-points", "no point is stored")
    largest = max(part.excess for part in measured)
    by = f"by at most {largest:.1e}" if math.isfinite(largest) else "some with pixels that are not finite"
    message = f"{outside} of {points} stored points lie outside the ball or [0, 1], {by}"
    return Finding("stored-points", WARNING if outside else INFO, largest, message)


class Rounded(NamedTuple):
    """Points of broken images, evaluated again.

    Attributes:
        points: number of points.
        wrong: number of points that the target misclassifies at a first evaluation; the rest counts these only.
        lost: number that are classified correctly after rounding to 8 bits per channel.
        again: number that are classified correctly at another evaluation without rounding.
        both: number that are classified correctly in both cases.
    """

    points: int
    wrong: int
    lost: int
    again: int
    both: int


@torch.no_grad()
def measure_rounding(target: nn.Module, points: Tensor, labels: Tensor) -> Rounded:
    """Evaluate `points`, and twice more those that `target` misclassifies: once rounded, once as they are.

    Args:
        target: the defended model.
        points: of broken images, float32 [n, C, H, W] in [0, 1].
        labels: int64 [n].

    Raises:
        IgdError: if the target gives NaN or infinite logits for a point.
    """
    if len(points) == 0:
        return Rounded(0, 0, 0, 0, 0)
    wrong = predicted_classes(target, points) != labels
    chosen, labels = points[wrong], labels[wrong]
    if len(chosen) == 0:
        return Rounded(len(points), 0, 0, 0, 0)
    rounded = (chosen * GREY_LEVELS).round() / GREY_LEVELS
    lost = predicted_classes(target, rounded) == labels
    again = predicted_classes(target, chosen) == labels
    return Rounded(len(points), len(chosen), int(lost.sum()), int(again.sum()), int((lost & again).sum()))


def check_rounding(measured: Sequence[Rounded]) -> Finding:
    """Warn of broken images that are correct again once their points are rounded to 8 bits per channel.

    A randomised target changes its answer without any rounding. So only the points count that rounding loses beyond
    those, and only if they are at least two and the difference is significant (exact McNemar).
    """
    points, wrong = sum(part.points for part in measured), sum(part.wrong for part in measured)
    if wrong == 0:
        return not_measurable("rounding", f"none of {points} stored points of broken images is misclassified")
    lost, again, both = (sum(counts) for counts in zip(*(part[2:] for part in measured), strict=True))
    beyond = max(lost - again, 0)
    share = beyond / wrong
    chance = again > 0 and mcnemar(lost - both, again - both) >= SIGNIFICANCE
    suspicious = share > ROUNDING_SHARE and beyond >= ROUNDING_IMAGES and not chance
    severity = WARNING if suspicious else INFO
    message = f"rounding to 8 bits loses {lost} of {wrong} misclassified points, asking again without it {again}"
    if severity == WARNING:
        message += ": saved as images of 8 bits, these no longer fool the target"
    return Finding("rounding", severity, share, message)
