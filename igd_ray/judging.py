"""From a model's logits to the class that it predicts, and from fresh predictions to the verdict on a point."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igd_ray.errors import IgdError


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
    """
    generator.manual_seed(seed)
    return Verdict(torch.stack([predicted_classes(target, points) for _ in range(draws)]))
