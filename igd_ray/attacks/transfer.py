"""Attacks whose points are computed on the base model and evaluated on a defense.

They run on all images, also those that the base model gets wrong: a defense tends to lose images near the boundary
(Croce et al., ICML 2022). Two points per image and loss are kept, and a defense is broken if any breaks it: the one of
highest loss, which is what Croce et al.'s code returns, and the last misclassified one, if there was any.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import partial
from typing import ClassVar, Self

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from igd_ray.attacks.apgd import (
    APGD,
    DLR_CLASSES,
    FEW_CLASSES,
    LOSSES,
    TARGETED_DLR_CLASSES,
    few_classes_note,
    few_targets_note,
    require_positive,
)
from igd_ray.attacks.base import Attack, Points
from igd_ray.attacks.counting import CountedTarget, even_shares
from igd_ray.attacks.pyautoattack import (
    NORM_NAMES,
    SILENT,
    MarginTargetedAPGD,
    forked_generators,
    untargeted_apgd,
    wrong_logits,
)
from igd_ray.attacks.registry import register
from igd_ray.threat import ThreatModel, predicted_classes

HIGHEST_LOSS = "highest-loss"
LAST_MISCLASSIFIED = "last-misclassified"
POINT_NAMES = HIGHEST_LOSS, LAST_MISCLASSIFIED

# The losses of the attack with averaged gradients.
AVERAGED_LOSSES = "ce", "dlr"

# The images of a batch that one run takes, in sequence.
BATCHES = ("correct", "misclassified")


@dataclass(frozen=True, repr=False)
class TransferAPGD(APGD):
    """One run of APGD on every image, from a uniform random start in the ball, that keeps both points.

    The images that the target gets right run first, as a batch of their own, then the misclassified ones, both from
    the same seed: on the former it walks as `APGD` does, so that one trajectory can serve both.
    """

    point_names: ClassVar[tuple[str, ...]] = POINT_NAMES
    leaves_misclassified: ClassVar[bool] = False

    restarts: int = field(default=1, init=False)
    eot: int = field(default=1, init=False)
    batches: tuple[str, ...] = field(default=BATCHES, init=False)
    keeps: tuple[str, ...] = field(default=POINT_NAMES, init=False)

    def on_engine(self, engine: str) -> Self:
        """Return this attack: it is searched by pyautoattack."""
        return self

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's APGD once for either batch and keep the two points."""
        before = target.queries, target.forwards, target.backwards
        correct = predicted_classes(target, images) == labels
        attack = untargeted_apgd(self.loss, target, images, threat, seed, steps=self.steps)
        kept = _Kept.nowhere(images)
        for batch in (correct, ~correct):
            rows = batch.nonzero().flatten()
            if len(rows):
                with forked_generators(images.device):
                    torch.random.manual_seed(seed)
                    kept.put(rows, _run(attack, images[rows], labels[rows]))
        return _points({"": kept}, self.stage, target, before, images)


@dataclass(frozen=True, repr=False)
class TransferTargetedAPGD(Attack):
    """Targeted APGD-DLR on every image, one run from a random start for each of the most likely wrong classes.

    Run j aims at the j-th most likely wrong class of the target on the clean image. The highest-loss point is the
    highest of all runs, the last misclassified one that of the last run that had any.

    Loss: −(z_y − z_t)/(z_π1 − (z_π3 + z_π4)/2), π sorting z in descending order (Croce & Hein, ICML 2020, eq. 7). With
    fewer than four classes there is no such denominator, and the numerator −(z_y − z_t) takes its place.

    Args:
        targets: how many wrong classes to aim at; all of them where the model has fewer.
        steps: gradient steps per run.
    """

    name: ClassVar[str] = "apgd-t-dlr"
    point_names: ClassVar[tuple[str, ...]] = POINT_NAMES
    leaves_misclassified: ClassVar[bool] = False

    targets: int = 3
    _: KW_ONLY
    steps: int = 100
    few_classes: str = field(default=FEW_CLASSES, init=False)
    keeps: tuple[str, ...] = field(default=POINT_NAMES, init=False)

    def __post_init__(self) -> None:
        require_positive(targets=self.targets, steps=self.steps)

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that the margin takes the place of the targeted DLR, and that there are too few target classes."""
        return few_classes_note(num_classes, targeted=True) + few_targets_note(self.targets, num_classes)

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then a start and `steps` steps per run."""
        gradients = min(self.targets, num_classes - 1) * (self.steps + 1)
        return gradients + 2, gradients

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's targeted APGD once for each class and keep the two points."""
        before = target.queries, target.forwards, target.backwards
        with torch.no_grad():
            logits = wrong_logits(target(images), labels)
        num_classes = logits.shape[1]
        by_likelihood = logits.argsort(dim=1, descending=True, stable=True)
        attack = (APGDAttack_targeted if num_classes >= TARGETED_DLR_CLASSES else MarginTargetedAPGD)(
            target,
            n_iter=self.steps,
            norm=NORM_NAMES[threat.norm],
            eps=threat.epsilon,
            seed=seed,
            rho=0.75,
            device=images.device,
            logger=SILENT,
        )
        with forked_generators(images.device):
            torch.random.manual_seed(seed)
            runs = []
            for rank in range(min(self.targets, num_classes - 1)):
                attack.y_target = by_likelihood[:, rank]
                runs.append(_run(attack, images, labels))
        kept = runs[0]
        for run in runs[1:]:
            kept = kept.joined(run)
        return _points({"": kept}, self.name, target, before, images)


@dataclass(frozen=True, repr=False)
class TransferEOT(Attack):
    """APGD-CE and APGD-DLR with averaged gradients on every image, that keep both points each.

    With two classes there is no denominator for DLR, and its numerator, the margin CW, takes its place.

    Args:
        steps: gradient steps per run.
        eot: gradients averaged a step (expectation over transformation).
        collapse: the target, a base model, is deterministic, so that the gradients of a step are identical: one
            takes the place of `eot`. A target that turns out random is an error.
    """

    name: ClassVar[str] = "apgd-eot"
    point_names: ClassVar[tuple[str, ...]] = tuple(
        f"{loss}-{point}" for loss in AVERAGED_LOSSES for point in POINT_NAMES
    )
    leaves_misclassified: ClassVar[bool] = False

    _: KW_ONLY
    losses: tuple[str, ...] = field(default=AVERAGED_LOSSES, init=False)
    steps: int = 100
    eot: int = 20
    collapse: bool = True
    few_classes: str = field(default=FEW_CLASSES, init=False)
    keeps: tuple[str, ...] = field(default=POINT_NAMES, init=False)

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, eot=self.eot)

    @property
    def collapsed_eot(self) -> int:
        """How many identical gradients each one stands for."""
        return self.eot if self.collapse else 1

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that CW takes the place of DLR, where it does."""
        return few_classes_note(num_classes)

    def collapsed(self) -> Self:
        """Return this attack with `collapse`; the points are the same, in the 2-norm up to rounding."""
        return self if self.collapse else replace(self, collapse=True)

    @property
    def gradients(self) -> int:
        """How many gradients are computed a step."""
        return 1 if self.collapse else self.eot

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes, then a start and `steps` steps for each loss."""
        gradients = len(self.losses) * (self.steps + 1) * self.gradients
        return gradients + 1 + self.guard_passes, gradients

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's APGD once for each loss, each from `seed`, and keep the four points."""
        before = target.queries, target.forwards, target.backwards
        num_classes = target.num_classes(images)
        kept = {}
        for name in self.losses:
            loss = "cw" if name == "dlr" and num_classes < DLR_CLASSES else name
            attack = untargeted_apgd(loss, target, images, threat, seed, steps=self.steps, eot=self.gradients)
            with forked_generators(images.device):
                torch.random.manual_seed(seed)
                kept[f"{name}-"] = _run(attack, images, labels)
        return _points(kept, self.name, target, before, images)


for _loss in LOSSES:
    register(f"tr-apgd-{_loss}", partial(TransferAPGD, _loss), budget="steps")
register("tr-apgd-t-dlr", TransferTargetedAPGD, budget="steps")
# Equal gradients are computed once where the base model is deterministic, see `collapsed`.
register("tr-apgd-eot", partial(TransferEOT, collapse=False), budget="steps")


@dataclass(frozen=True)
class _Kept:
    """The two points of one or several runs of APGD on every image.

    Attributes:
        highest_loss, misclassified: [N, C, H, W].
        loss: of the highest-loss point, [N].
        fooled: whether some iterate was misclassified, bool [N].
    """

    highest_loss: Tensor
    loss: Tensor
    misclassified: Tensor
    fooled: Tensor

    @classmethod
    def nowhere(cls, images: Tensor) -> "_Kept":
        """Return room for the points of `images`, to be `put` there."""
        rows = torch.zeros(len(images), device=images.device)
        return cls(images.clone(), rows, images.clone(), rows.bool())

    def put(self, rows: Tensor, run: "_Kept") -> None:
        """Write the points of `run` in the places `rows`, int64 [n]."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(run, each.name)

    def joined(self, later: "_Kept") -> "_Kept":
        """Return the points of this run and a later one together."""
        higher, fooled = later.loss > self.loss, later.fooled
        return _Kept(
            torch.where(higher[:, None, None, None], later.highest_loss, self.highest_loss),
            torch.where(higher, later.loss, self.loss),
            torch.where(fooled[:, None, None, None], later.misclassified, self.misclassified),
            self.fooled | fooled,
        )


def _run(attack: APGDAttack, images: Tensor, labels: Tensor) -> _Kept:
    """Run `attack` on every image from a random start that the global generator gives."""
    attack.init_hyperparam(images)
    highest_loss, still_correct, loss, misclassified = attack.attack_single_run(images.clone(), labels)
    return _Kept(highest_loss.detach(), loss.detach(), misclassified.detach(), ~still_correct.bool())


def _points(
    kept: Mapping[str, _Kept], stage: str, target: CountedTarget, before: tuple[int, int, int], images: Tensor
) -> Points:
    """Return what was `kept` under the prefix of each point's name; what was counted since `before` is shared."""
    everywhere = torch.ones(len(images), dtype=torch.bool, device=images.device)
    named: dict[str, tuple[Tensor, Tensor]] = {}
    for prefix, points in kept.items():
        named[prefix + HIGHEST_LOSS] = points.highest_loss, everywhere
        named[prefix + LAST_MISCLASSIFIED] = points.misclassified, points.fooled
    first, *alternatives = named.items()
    queries, forwards, backwards = even_shares(target, before, len(images), images.device)
    stages: list[str | None] = [stage] * len(images)
    return Points(first[1][0], stages, everywhere, queries, forwards, backwards, dict(alternatives))
