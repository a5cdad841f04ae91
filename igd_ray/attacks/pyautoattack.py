"""pyautoattack's attack classes, run so that they disturb nothing and depend on nothing but their seed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from igd_ray.attacks.base import Points
from igd_ray.attacks.counting import CountedTarget, even_shares
from igd_ray.threat import Norm, ThreatModel

# The names pyautoattack gives to norms.
NORM_NAMES = {Norm.LINF: "Linf", Norm.L2: "L2"}

# Its attacks warn of zero gradients through a logger; the platform measures those itself, as a check.
SILENT = logging.getLogger("igd_ray.attacks.pyautoattack")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


class MarginAPGD(APGDAttack):  # type: ignore[misc]
    """APGD on the loss CW = −(z_y − max_{j≠y} z_j), in the place where pyautoattack computes DLR."""

    def dlr_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return CW, [B], for `logits` [B, C]."""
        true = logits.gather(1, labels[:, None])[:, 0]
        return wrong_logits(logits, labels).amax(dim=1) - true


class MarginTargetedAPGD(APGDAttack_targeted):  # type: ignore[misc]
    """Targeted APGD on the loss −(z_y − z_t), in the place where pyautoattack computes the targeted DLR."""

    def dlr_loss_targeted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the targeted margin, [B], for `logits` [B, C]."""
        classes = torch.stack([self.y_target, labels], dim=1)
        aim, true = logits.gather(1, classes).unbind(dim=1)
        return aim - true


class _MeanOfEqual(torch.autograd.Function):
    """The identity, whose gradient is rounded as the mean of so many equal ones is."""

    @staticmethod
    def forward(context: Any, points: Tensor, count: int) -> Tensor:
        context.count = count
        return points.detach()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The very sums of pyautoattack's average: the mean of equal numbers may round to a neighbour of theirs.
        total = torch.zeros_like(gradients[0])
        for _ in range(context.count):
            total += gradients[0]
        total /= float(context.count)
        return total, None


def mean_of_equal(points: Tensor, count: int) -> Tensor:
    """Return `points`, whose gradient shall be the mean of `count` equal ones, bit for bit as pyautoattack takes it.

    The sign of that mean is the gradient's own; its size, which steps in the 2-norm depend on, may differ in rounding.
    """
    if count == 1 or not points.requires_grad:
        return points
    return _MeanOfEqual.apply(points, count)  # type: ignore[no-any-return, no-untyped-call]


def wrong_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `logits` [B, C] with minus infinity at the `labels` [B]."""
    true = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    return logits.masked_fill(true, -torch.inf)


def untargeted_apgd(
    loss: str,
    target: CountedTarget,
    images: Tensor,
    threat: ThreatModel,
    seed: int,
    *,
    steps: int,
    restarts: int = 1,
    eot: int = 1,
    equal: int = 1,
) -> APGDAttack:
    """Return pyautoattack's untargeted APGD on `loss`: "ce", "cw" or "dlr".

    Each of the `eot` gradients averaged a step stands for `equal` equal ones.
    """
    return (MarginAPGD if loss == "cw" else APGDAttack)(
        lambda points: target(mean_of_equal(points, equal)),
        n_iter=steps,
        norm=NORM_NAMES[threat.norm],
        n_restarts=restarts,
        eps=threat.epsilon,
        seed=seed,
        loss="dlr" if loss == "cw" else loss,
        eot_iter=eot,
        rho=0.75,
        device=images.device,
        logger=SILENT,
    )


@contextmanager
def forked_generators(device: torch.device) -> Iterator[None]:
    """While open, the global generators may be seeded and used; afterwards they are as before.

    pyautoattack seeds the global generator of every run, which would otherwise freeze a defense's noise or let
    one unit's result depend on another's.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def run_search(
    perturb: Callable[[Tensor, Tensor], Tensor], stage: str, target: CountedTarget, images: Tensor, labels: Tensor
) -> Points:
    """Run pyautoattack's `perturb(images, labels)`; the points are what it returns, misclassified images excepted."""
    before = target.queries, target.forwards, target.backwards
    with forked_generators(images.device):
        adversarial = perturb(images.clone(), labels.clone()).detach()
    return moved_points(adversarial, stage, target, before, images)


def moved_points(
    adversarial: Tensor, stage: str, target: CountedTarget, before: tuple[int, int, int], images: Tensor
) -> Points:
    """Return the points of `adversarial` that are not the clean image; what was counted since `before` is shared."""
    moved = (adversarial != images).flatten(1).any(dim=1)
    queries, forwards, backwards = even_shares(target, before, len(images), images.device)
    stages: list[str | None] = [stage if row else None for row in moved.tolist()]
    return Points(adversarial, stages, moved, queries, forwards, backwards)
