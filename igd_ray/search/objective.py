"""Clean accuracy of a setting from caches: exact, for the price of two small matrix products.

For a penultimate mask the second pass is the linear head on a masked activation, and the first pass depends on σ
and the draws only. With a(x) and the first pass's logits kept, every (k, τ) costs
prediction = argmax head( softmax(z / τ) M ⊙ a ).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from igd_ray.errors import InputError


class CachedObjective:
    """Clean accuracy on fixed images with fixed noise.

    Args:
        activations: a(x) at the penultimate layer, [n, N] or [n, N, 1, 1].
        first_logits: the first pass's logits for one σ and its draws, [n, C].
        base_logits: f(x), [n, C].
        labels: int64 [n].
        head: the classifier, [n, N…] to [n, C].

    Raises:
        InputError: if the caches are of different images.
    """

    def __init__(
        self,
        activations: Tensor,
        first_logits: Tensor,
        base_logits: Tensor,
        labels: Tensor,
        head: Callable[[Tensor], Tensor],
    ) -> None:
        lengths = {len(activations), len(first_logits), len(base_logits), len(labels)}
        if len(lengths) != 1:
            raise InputError(f"caches and labels must be of the same images, but their lengths are {sorted(lengths)}")
        self._activations = activations
        self._first_logits = first_logits
        self._labels = labels
        self._head = head
        self.base_accuracy = _accuracy(base_logits.argmax(dim=1), labels)

    @torch.no_grad()
    def predictions(self, masks: Tensor, tau: float) -> Tensor:
        """Return the defense's predictions, int64 [n], with `masks` [C, N] and temperature `tau`."""
        weights = torch.softmax(self._first_logits / tau, dim=1) @ masks
        positions = [1] * (self._activations.ndim - 2)
        masked = self._activations * weights.reshape(*weights.shape, *positions)
        return self._head(masked).flatten(1).argmax(dim=1)

    def accuracy(self, masks: Tensor, tau: float) -> float:
        """Return the fraction in [0, 1] of images that the defense gets right."""
        return _accuracy(self.predictions(masks, tau), self._labels)


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return int((predictions == labels).sum()) / len(labels)
