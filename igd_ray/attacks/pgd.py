"""PGD: gradient steps of a fixed size, projected back into the ball (Madry et al., ICLR 2018)."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from igd_ray.attacks.apgd import require_positive
from igd_ray.attacks.base import UNSTATED, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import moved_points
from igd_ray.attacks.registry import register
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel, predicted_classes

# All steps together could cross the ball's radius this many times (Madry et al.).
REACH = 2.5


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """PGD on the cross-entropy of the images that the target gets right.

    It returns the last iterate, misclassified or not: of the first restart whose last iterate was misclassified,
    otherwise of the last restart.

    Args:
        steps: gradient steps per restart.
        step_size: in units of epsilon; 2.5 / steps by default.
        restarts: runs, the later ones on the images still correct.
        random_start: start from a uniform random point of the ball rather than from the image.
    """

    name: ClassVar[str] = "pgd"

    steps: int = 50
    _: KW_ONLY
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, restarts=self.restarts)
        step_size = REACH / self.steps if self.step_size is None else self.step_size
        if not 0 < step_size < math.inf:
            raise InputError(f"step_size must be positive, in units of epsilon, not {step_size:g}")
        object.__setattr__(self, "step_size", step_size)

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """The look at the number of classes and at the image, then `steps` steps and a look for each restart."""
        return self.restarts * (self.steps + 1) + 2, self.restarts * self.steps

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Climb from the start of each restart."""
        before = target.queries, target.forwards, target.backwards
        generator = Generator().manual_seed(seed)
        adversarial = images.clone()
        correct = predicted_classes(target, images) == labels
        for _ in range(self.restarts):
            rows = correct.nonzero().flatten()
            if len(rows) == 0:
                break
            start = random_points(images[rows], threat, generator) if self.random_start else images[rows]
            adversarial[rows] = self._climb(target, images[rows], labels[rows], start, threat)
            correct[rows] = predicted_classes(target, adversarial[rows]) == labels[rows]
        return moved_points(adversarial, self.name, target, before, images)

    def _climb(
        self, target: CountedTarget, images: Tensor, labels: Tensor, points: Tensor, threat: ThreatModel
    ) -> Tensor:
        assert self.step_size is not None
        for _ in range(self.steps):
            points = points.detach().requires_grad_()
            loss = cross_entropy(target(points), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, [points])
            step = self.step_size * threat.epsilon * steepest(gradient, threat.norm)
            points = project(points.detach() + step, images, threat)
        return points


register("pgd", PGD, budget="steps")


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the step of length 1 in `norm` that rises most along each `gradient` [n, C, H, W]; none along 0.

    >>> gradient = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    >>> [[round(x, 4) for x in steepest(gradient, norm).flatten().tolist()] for norm in (Norm.LINF, Norm.L2)]
    [[1.0, -1.0], [0.6, -0.8]]
    """
    if norm is Norm.LINF:
        return gradient.sign()
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)[:, None, None, None]
    return torch.where(length > 0, gradient / length, 0)


def project(points: Tensor, images: Tensor, threat: ThreatModel) -> Tensor:
    """Return `points` [n, C, H, W], moved into the ball around `images` and then into [0, 1].

    >>> points, images = (torch.tensor(row).view(1, 1, 1, 2) for row in ([0.5, -1.0], [0.0, 0.125]))
    >>> project(points, images, ThreatModel(Norm.LINF, 0.25)).flatten().tolist()
    [0.25, 0.0]
    """
    difference = points - images
    if threat.norm is Norm.LINF:
        difference = difference.clamp(-threat.epsilon, threat.epsilon)
    else:
        length = torch.linalg.vector_norm(difference.flatten(1), dim=1)[:, None, None, None]
        difference = torch.where(length > threat.epsilon, difference * (threat.epsilon / length), difference)
    return (images + difference).clamp(0, 1)


def random_points(images: Tensor, threat: ThreatModel, generator: Generator) -> Tensor:
    """Return a uniform random point of the ball around each of `images` [n, C, H, W], clipped to [0, 1].

    Args:
        generator: on the CPU, so that the points are the same on every device.
    """
    if threat.norm is Norm.LINF:
        offset = 2 * torch.rand(images.shape, generator=generator) - 1
    else:
        direction = torch.randn(images.shape, generator=generator)
        share = torch.rand(len(images), generator=generator) ** (1 / images[0].numel())
        offset = share[:, None, None, None] * steepest(direction, Norm.L2)
    return project(images + threat.epsilon * offset.to(images.device), images, threat)


@dataclass(frozen=True, repr=False)
class FGSM(PGD):
    """FGSM (Goodfellow et al., ICLR 2015): one step of size epsilon from the image along the sign of the gradient.

    In the 2-norm it is along the gradient. It draws nothing at random.
    """

    name: ClassVar[str] = "fgsm"

    steps: int = field(default=1, init=False, metadata=UNSTATED)
    step_size: float | None = field(default=1.0, init=False, metadata=UNSTATED)
    restarts: int = field(default=1, init=False, metadata=UNSTATED)
    random_start: bool = field(default=False, init=False, metadata=UNSTATED)


register("fgsm", FGSM)
