"""What the adaptive attacks share: APGD's steps (Croce & Hein, ICML 2020) on an objective of their own."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar, Self, final

import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor
from torch.nn.functional import cross_entropy

from igd_ray.attacks.apgd import DLR_CLASSES, few_classes_note, require_loss, require_positive
from igd_ray.attacks.base import UNSTATED, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import (
    NORM_NAMES,
    SILENT,
    forked_generators,
    mean_of_equal,
    moved_points,
    wrong_logits,
)
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel, predicted_classes

# Points [n, C, H, W] to the logits [n, classes] that decide whether one is misclassified, and the losses [n] to climb.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """What one run of an attack works on: the images that no earlier run broke.

    Attributes:
        number: of the run, from 0.
        target: what is attacked.
        images: the centres of the balls, [n, C, H, W].
        labels: the classes that are not to be answered, int64 [n].
        rows: the places of the images in the batch that is attacked, int64 [n].
        threat: the norm and epsilon.
        seed: decides all randomness.
    """

    number: int
    target: CountedTarget
    images: Tensor
    labels: Tensor
    rows: Tensor
    threat: ThreatModel
    seed: int


@dataclass(frozen=True, repr=False)
class ObjectiveAPGD(Attack):
    """Runs of APGD on the images that the target gets right, each on an objective of the subclass.

    A subclass gives `objective`, or `run` where its runs differ from each other or start somewhere.

    The later runs are for the images that no earlier run broke. The point of an image is the last misclassified
    iterate of the run that broke it; otherwise the iterate of highest loss of its first run, so that a randomised
    target is judged on it afresh and later attacks may start there.

    Args:
        loss: "ce", "cw" or "dlr", as in `APGD`.
        steps: gradient steps per run.
        eot: gradients averaged per step, for a randomised target (expectation over transformation).
    """

    # What one gradient of the objective costs: queries, and gradients of logits.
    cost: ClassVar[tuple[int, int]] = (1, 1)

    loss: str = "ce"
    _: KW_ONLY
    steps: int = 100
    eot: int = 1
    collapsed_eot: int = field(default=1, init=False, metadata=UNSTATED)

    def __post_init__(self) -> None:
        require_loss(self.loss)
        require_positive(steps=self.steps, eot=self.eot)

    def for_classes(self, num_classes: int) -> Self:
        """With fewer than three classes, the margin CW, which is DLR's numerator, takes the place of DLR."""
        return self._with(loss="cw") if self.fallback_notes(num_classes) else self

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that CW takes the place of DLR, where it does."""
        return few_classes_note(num_classes) if self.loss == "dlr" else ()

    @property
    def runs(self) -> int:
        """How many runs an image gets at most."""
        return 1

    @property
    def looks(self) -> int:
        """Queries without a gradient that a run makes for an image before it climbs."""
        return 0

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then a start and `steps` steps per run."""
        climbs = self.runs * (self.steps + 1) * self.eot
        queries, gradients = self.cost
        return 2 + self.guard_passes + self.runs * self.looks + climbs * queries, climbs * gradients

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that there are enough classes for the loss."""
        if self.loss == "dlr" and num_classes < DLR_CLASSES:
            raise InputError(
                f"{self.name} with the DLR loss needs at least {DLR_CLASSES} classes, the model has {num_classes}"
            )

    @final
    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run after run on the images still correct."""
        before = target.queries, target.forwards, target.backwards
        self.prepare(target, images, threat)
        adversarial = images.clone()
        correct = predicted_classes(target, images) == labels
        for number in range(self.runs):
            rows = correct.nonzero().flatten()
            if len(rows) == 0:
                break
            points, fooled = self.run(Task(number, target, images[rows], labels[rows], rows, threat, seed))
            chosen = fooled | (number == 0)
            adversarial[rows[chosen]] = points[chosen]
            correct[rows[fooled]] = False
        return moved_points(adversarial, self.name, target, before, images)

    def prepare(self, target: CountedTarget, images: Tensor, threat: ThreatModel) -> None:
        """Check what the runs need besides images and labels.

        Raises:
            InputError: saying what is missing.
        """

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Return the points of one run, and whether some iterate was misclassified, bool [n]."""
        return self.climb(partial(self.objective, task), task)

    def objective(self, task: Task, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits that decide whether one of `points` is misclassified, and the losses to climb.

        By default these are the target's logits, and the losses of these.

        Args:
            task: what the run works on.
            points: [n, C, H, W].

        Returns:
            Logits [n, classes] and losses [n].
        """
        logits = task.target(points)
        return logits, image_losses(self.loss, logits, task.labels)

    def climb(self, objective: Objective, task: Task, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Climb `objective` by APGD in the balls around the task's images.

        Args:
            objective: see `Objective`.
            task: what the run works on.
            start: where to start, [n, C, H, W] in the balls; a random point (pyautoattack's) by default.

        Returns:
            The last misclassified iterate or, without one, that of highest loss, and which of them it is, bool [n].
        """
        attack = _LossAPGD(objective, task.images, task.threat, self.steps, self.eot, self.collapsed_eot)
        with forked_generators(task.images.device):
            torch.random.manual_seed(task.seed)
            highest, correct, _, misclassified = attack.attack_single_run(
                task.images.clone(), task.labels, x_init=start
            )
        fooled = ~correct.bool()
        return torch.where(fooled[:, None, None, None], misclassified, highest).detach(), fooled


@dataclass(frozen=True, repr=False)
class TwoPassAttack(ObjectiveAPGD):
    """An attack on the two passes of a defense.

    Raises:
        InputError: when it attacks a target that does not offer them.
    """

    needs_two_passes: ClassVar[bool] = True

    def prepare(self, target: CountedTarget, images: Tensor, threat: ThreatModel) -> None:
        """Check that the target offers its two passes."""
        target.two_pass()


class _LossAPGD(APGDAttack):  # type: ignore[misc]
    """APGD that climbs any loss, in the place where pyautoattack computes DLR from the logits.

    Each of the `eot` gradients averaged a step stands for `equal` equal ones.
    """

    def __init__(
        self, objective: Objective, images: Tensor, threat: ThreatModel, steps: int, eot: int, equal: int
    ) -> None:
        super().__init__(
            self._look,
            n_iter=steps,
            norm=NORM_NAMES[threat.norm],
            eps=threat.epsilon,
            loss="dlr",
            eot_iter=eot,
            rho=0.75,
            device=images.device,
            logger=SILENT,
        )
        self._objective, self._equal = objective, equal
        self.init_hyperparam(images)

    def _look(self, points: Tensor) -> Tensor:
        logits, self._losses = self._objective(mean_of_equal(points, self._equal))
        return logits

    def dlr_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses that came with `logits`, [n]."""
        return self._losses


def image_losses(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's loss, [n], for `logits` [n, C], higher the less the answer is that of `labels` [n].

    "ce" is the cross-entropy, "cw" is −(z_y − max_{j≠y} z_j), and "dlr" divides that by
    z_π1 − z_π3, π sorting z in descending order.

    >>> logits, labels = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0])
    >>> [round(image_losses(name, logits, labels).item(), 4) for name in ("ce", "cw", "dlr")]
    [0.1429, -2.0, -0.5]
    """
    if name == "ce":
        return cross_entropy(logits, labels, reduction="none")
    margins = wrong_logits(logits, labels).amax(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    if name == "cw":
        return margins
    top = logits.topk(3, dim=1).values
    return margins / (top[:, 0] - top[:, 2] + 1e-12)


@torch.no_grad()
def mean_margins(target: CountedTarget, points: Tensor, labels: Tensor, draws: int) -> Tensor:
    """Return the margin CW of `points`, [n], the mean over `draws` answers; positive where misclassified."""
    margins = torch.stack([image_losses("cw", target(points), labels) for _ in range(draws)])
    # In float64, so that the mean of equal margins is theirs exactly, however many there are.
    return margins.mean(dim=0, dtype=torch.float64).to(margins)
