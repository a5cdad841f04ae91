"""The threat model: which perturbations an attack may use, and the verdict on a point, from fresh predictions."""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from igd_ray.errors import IgdError, InputError, did_you_mean

# A float32 point counts as inside the ball if its distance exceeds epsilon by at most this: the subtraction that
# measures the distance rounds, too.
DISTANCE_TOLERANCE = 1e-6


class Norm(StrEnum):
    """The norm that bounds a perturbation."""

    LINF = "linf"
    L2 = "l2"

    @classmethod
    def parse(cls, text: str) -> "Norm":
        """Return the norm called `text`, in upper or lower case.

        Raises:
            InputError: if `text` is not the name of a norm.

        >>> Norm.parse("Linf").value
        'linf'
        """
        try:
            return cls(text.lower())
        except ValueError:
            known = [norm.value for norm in cls]
            raise InputError(
                f"norm must be one of {', '.join(known)}, not {text!r}{did_you_mean(text, known)}"
            ) from None

    def distance(self, perturbed: Tensor, images: Tensor) -> Tensor:
        """Return the distance of each image, float32 [n], in [0, 1] pixel units.

        Args:
            perturbed, images: float32 [n, C, H, W].

        >>> clean = torch.zeros(1, 1, 1, 2)
        >>> moved = torch.tensor([[[[0.3, -0.4]]]])
        >>> [round(norm.distance(moved, clean).item(), 4) for norm in (Norm.LINF, Norm.L2)]
        [0.4, 0.5]
        """
        difference = (perturbed - images).flatten(1)
        if self is Norm.LINF:
            return difference.abs().amax(dim=1)
        lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return lengths


@dataclass(frozen=True)
class ThreatModel:
    """Perturbations of norm at most `epsilon`, in [0, 1] pixel units, that keep the image in [0, 1].

    Raises:
        InputError: if `epsilon` is outside (0, 1] for the infinity norm, or not positive and finite.

    >>> str(ThreatModel(Norm.LINF, 8 / 255))
    'linf 8/255'
    >>> str(ThreatModel(Norm.L2, 0.5))
    'l2 0.5'
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.epsilon) or self.epsilon <= 0 or (self.norm is Norm.LINF and self.epsilon > 1):
            raise InputError(
                f"eps must lie in (0, 1], in [0, 1] pixel units, not {self.epsilon:g}; 8/255 is eight grey levels"
            )

    def __str__(self) -> str:
        levels = self.epsilon * 255
        if abs(levels - round(levels)) < 1e-9:
            return f"{self.norm.value} {round(levels)}/255"
        return f"{self.norm.value} {self.epsilon:g}"


def check_given(points: Tensor, exists: Tensor, images: Tensor, threat: ThreatModel, what: str) -> None:
    """Check points of another attack, called `what`, that are to be used for `images` [N, C, H, W].

    Raises:
        InputError: if `points` are not like the images, `exists` is not bool [N], or a point that exists lies outside
            the ball or [0, 1].

    >>> images, everywhere = torch.full((1, 1, 1, 2), 0.5), torch.tensor([True])
    >>> check_given(images + 0.25, everywhere, images, ThreatModel(Norm.LINF, 0.25), "points")
    >>> check_given(images + 0.25, everywhere, images, ThreatModel(Norm.LINF, 0.125), "points")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    igd_ray.errors.InputError: 1 of 1 points lie outside linf 0.125 or [0, 1]; ...
    """
    if points.shape != images.shape or points.dtype != images.dtype:
        raise InputError(
            f"{what} must be {images.dtype} {list(images.shape)} as the images are, "
            f"not {points.dtype} {list(points.shape)}"
        )
    if exists.shape != images.shape[:1] or exists.dtype != torch.bool:
        raise InputError(f"where {what} exist must be bool [{len(images)}], not {exists.dtype} {list(exists.shape)}")
    exists = exists.to(images.device)
    given = points.to(images.device)[exists]
    inside = threat.norm.distance(given, images[exists]) <= threat.epsilon + DISTANCE_TOLERANCE
    inside &= ((given >= 0) & (given <= 1)).flatten(1).all(dim=1)
    if not inside.all():
        raise InputError(
            f"{int((~inside).sum())} of {len(inside)} {what} lie outside {threat} or [0, 1]; "
            "give points found for the same images and threat model"
        )


def parse_fraction(text: str | float) -> float:
    """Return the number written as ``"8/255"`` or ``"0.03"``.

    Raises:
        InputError: if `text` is neither a number nor a fraction of two numbers.

    >>> parse_fraction("4/8"), parse_fraction("0.03")
    (0.5, 0.03)
    """
    numerator, slash, denominator = str(text).partition("/")
    try:
        value = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"expected a number such as 0.03 or a fraction such as 8/255, not {text!r}") from None
    return value


@torch.no_grad()
def predicted_classes(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class of the highest logit, int64 [n], for `images` [n, C, H, W].

    Raises:
        IgdError: if a logit is NaN, which argmax would call the highest, or infinite, so that margins would be NaN.

    >>> predicted_classes(nn.Flatten(), torch.tensor([[0.1, 0.9], [0.8, 0.2]]).view(2, 1, 1, 2))
    tensor([1, 0])
    """
    logits = model(images)
    invalid = int((~torch.isfinite(logits)).any(dim=1).sum())
    if invalid:
        raise IgdError(f"the model gives NaN or infinite logits for {invalid} of {len(images)} images")
    return logits.argmax(dim=1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Verdict:
    """Predictions of fresh evaluations.

    Attributes:
        predictions: int64 [draws, n]: the predicted class at each evaluation of each point.

    >>> Verdict(torch.tensor([[3, 5], [3, 1]])).broken(torch.tensor([3, 5]))
    tensor([[False, False],
            [False,  True]])
    """

    predictions: Tensor

    def broken(self, labels: Tensor) -> Tensor:
        """Return bool [draws, n]: which evaluations predict another class than `labels`, int64 [n]."""
        return self.predictions != labels


def judge(target: nn.Module, points: Tensor, generator: torch.Generator, *, seed: int, draws: int = 1) -> Verdict:
    """Evaluate `points` [n, C, H, W] in [0, 1] afresh, `draws` times, with noise that no attack has seen.

    Args:
        target: the defended model, which draws its noise from `generator`.
        generator: is seeded with `seed` before the first evaluation.
        seed: derives from the unit's key, so that the verdict can be repeated.
        draws: number of evaluations.

    Raises:
        IgdError: if the target gives NaN or infinite logits for a point.

    >>> judge(nn.Flatten(), torch.tensor([[0.1, 0.9]]), torch.Generator(), seed=0, draws=2).predictions
    tensor([[1],
            [1]])
    """
    generator.manual_seed(seed)
    return Verdict(torch.stack([predicted_classes(target, points) for _ in range(draws)]))
