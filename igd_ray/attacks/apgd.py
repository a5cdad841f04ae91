"""Auto-PGD: projected gradient steps whose size adapts to progress (Croce & Hein, ICML 2020)."""

from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar, Self

import torch
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import Tensor

from igd_ray.attacks.base import POOLED, UNSTATED, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.apgd import Walk, climb, random_starts
from igd_ray.attacks.engine.choice import ClimbingAttack
from igd_ray.attacks.engine.losses import TARGETED, UNTARGETED
from igd_ray.attacks.pyautoattack import (
    NORM_NAMES,
    SILENT,
    MarginTargetedAPGD,
    mean_of_equal,
    moved_points,
    run_search,
    untargeted_apgd,
    wrong_logits,
)
from igd_ray.attacks.registry import register
from igd_ray.errors import InputError, did_you_mean
from igd_ray.threat import Norm, ThreatModel

LOSSES = ("ce", "cw", "dlr")

# The difference-of-logits-ratio divides by the gap to the third (targeted: and fourth) largest logit.
DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4

# Where there are too few classes for DLR's denominator, its numerator takes its place.
FEW_CLASSES = "margin"


@dataclass(frozen=True, repr=False)
class APGD(ClimbingAttack):
    """Untargeted APGD on the images that the target gets right; returns a misclassified iterate if there was one.

    Args:
        loss: "ce" (cross-entropy), "cw" (the margin of Carlini & Wagner, IEEE S&P 2017) or "dlr" (difference of
            logits ratio).
        steps: gradient steps per restart.
        restarts: random starts, the later ones on the images still correct.
        eot: gradients averaged per step, for a randomised target (expectation over transformation).
    """

    name: ClassVar[str] = "apgd"

    loss: str = "ce"
    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    eot: int = 1
    collapsed_eot: int = field(default=1, init=False, metadata=UNSTATED)

    def __post_init__(self) -> None:
        require_loss(self.loss)
        require_positive(steps=self.steps, restarts=self.restarts, eot=self.eot)

    @property
    def stage(self) -> str:
        """Its name with the loss."""
        return f"{self.name}-{self.loss}"

    def for_classes(self, num_classes: int) -> Self:
        """With fewer than three classes, the margin CW, which is DLR's numerator, takes the place of DLR."""
        return self._with(loss="cw") if self.fallback_notes(num_classes) else self

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that CW takes the place of DLR, where it does."""
        return few_classes_note(num_classes) if self.loss == "dlr" else ()

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then a start and `steps` steps per restart."""
        gradients = self.restarts * (self.steps + 1) * self.eot
        return gradients + 2 + self.guard_passes, gradients

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that there are enough classes for the loss."""
        if self.loss == "dlr" and num_classes < DLR_CLASSES:
            raise InputError(
                f"APGD with the DLR loss needs at least {DLR_CLASSES} classes, the model has {num_classes}"
            )

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the engine's APGD."""
        if self.engine == POOLED:
            walk = Walk(UNTARGETED[self.loss], self.steps, self.eot, self.restarts, self.ends_when_broken)
            return pooled_points(target, images, labels, threat, walk, seed, self.stage)
        attack = untargeted_apgd(
            self.loss,
            target,
            images,
            threat,
            seed,
            steps=self.steps,
            restarts=self.restarts,
            eot=self.eot,
            equal=self.collapsed_eot,
        )
        return run_search(attack.perturb, self.stage, target, images, labels)


@dataclass(frozen=True, repr=False)
class TargetedAPGD(ClimbingAttack):
    """APGD on the targeted DLR loss, one run for each of the most likely wrong classes.

    Attributes:
        loss: "dlr"; "margin", its numerator −(z_y − z_t), in what `for_classes` returns for fewer than four classes.

    Args:
        classes: how many wrong classes to aim at; all of them where the model has fewer.
        steps, restarts, eot: as in `APGD`.
    """

    name: ClassVar[str] = "apgd-t"

    classes: int = 9
    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    eot: int = 1
    loss: str = field(default="dlr", init=False, metadata=UNSTATED)
    collapsed_eot: int = field(default=1, init=False, metadata=UNSTATED)

    def __post_init__(self) -> None:
        require_positive(classes=self.classes, steps=self.steps, restarts=self.restarts, eot=self.eot)

    def for_classes(self, num_classes: int) -> Self:
        """With fewer than four classes, the margin −(z_y − z_t) takes the place of the targeted DLR."""
        return self._with(loss=FEW_CLASSES) if self.loss == "dlr" and num_classes < TARGETED_DLR_CLASSES else self

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that the margin takes the place of the targeted DLR, and that there are too few target classes."""
        notes = few_targets_note(self.classes, num_classes)
        return few_classes_note(num_classes, targeted=True) + notes if self.loss == "dlr" else notes

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then a look and `steps` steps per class and restart."""
        runs = min(self.classes, num_classes - 1) * self.restarts
        gradients = runs * (self.steps + 1) * self.eot
        return gradients + runs + 2 + self.guard_passes, gradients

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that there are enough classes for the targeted DLR loss."""
        if self.loss == "dlr" and num_classes < TARGETED_DLR_CLASSES:
            raise InputError(
                f"targeted APGD (in AutoAttack, too) needs at least {TARGETED_DLR_CLASSES} classes for its DLR loss, "
                f"the model has {num_classes}"
            )

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the engine's targeted APGD."""
        if self.engine == POOLED:
            classes = min(self.classes, target.num_classes(images) - 1)
            rows = classes * self.restarts
            walk = Walk(TARGETED[self.loss], self.steps, self.eot, rows, self.ends_when_broken)
            return pooled_points(target, images, labels, threat, walk, seed, self.name, classes=classes)
        attack = (APGDAttack_targeted if self.loss == "dlr" else MarginTargetedAPGD)(
            lambda points: target(mean_of_equal(points, self.collapsed_eot)),
            n_iter=self.steps,
            norm=NORM_NAMES[threat.norm],
            n_restarts=self.restarts,
            eps=threat.epsilon,
            seed=seed,
            eot_iter=self.eot,
            rho=0.75,
            n_target_classes=min(self.classes, target.num_classes(images) - 1),
            device=images.device,
            logger=SILENT,
        )
        return run_search(attack.perturb, self.name, target, images, labels)


def pooled_points(
    target: CountedTarget,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    walk: Walk,
    seed: int,
    stage: str,
    *,
    classes: int | None = None,
) -> Points:
    """Search by the engine's APGD on the images that the target gets right at a first look.

    Args:
        classes: of a targeted loss: how many of the most likely wrong classes of that look the rows aim at, the most
            likely first, each in as many rows as there are restarts.
    """
    before = target.queries, target.forwards, target.backwards
    with torch.no_grad():
        logits = target(images)
    attacked = (logits.argmax(dim=1) == labels).nonzero().flatten().tolist()
    targets = None
    if classes is not None:
        likely = wrong_logits(logits, labels).topk(classes, dim=1).indices
        targets = likely.repeat_interleave(walk.rows // classes, dim=1)
    starts = random_starts(images, threat, seed, stage)
    points, _ = climb(target, images, labels, threat, walk, starts=starts, attacked=attacked, targets=targets)
    return moved_points(points, stage, target, before, images)


def few_classes_note(num_classes: int, *, targeted: bool = False) -> tuple[str, ...]:
    """Return that DLR gives way to its numerator on a model of `num_classes` classes, where it does."""
    name, needed, margin = (
        ("targeted DLR", TARGETED_DLR_CLASSES, "−(z_y − z_t)")
        if targeted
        else ("DLR", DLR_CLASSES, "−(z_y − max_{j≠y} z_j)")
    )
    if num_classes >= needed:
        return ()
    return (f"{name} needs {needed} classes, the model has {num_classes}: the margin {margin} took its place",)


def few_targets_note(targets: int, num_classes: int) -> tuple[str, ...]:
    """Return that a model of `num_classes` classes has fewer wrong classes than `targets`, where it has."""
    return (f"aims at {num_classes - 1} of {targets} target classes",) if num_classes - 1 < targets else ()


def require_loss(loss: str) -> None:
    """Check that `loss` is one of `LOSSES`.

    Raises:
        InputError: if it is not.
    """
    if loss not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}{did_you_mean(loss, LOSSES)}")


def require_positive(**values: int) -> None:
    """Check that every value is at least 1.

    Raises:
        InputError: naming the first that is not.
    """
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")


for _loss in LOSSES:
    register(f"apgd-{_loss}", partial(APGD, _loss), budget="steps")
register("apgd-t", TargetedAPGD, budget="steps")
