"""Exact clean accuracy of a setting, from cached passes, at the cost of what follows the masked layer.

The first pass depends only on σ and the draws. Up to the masked layer the second pass is the clean pass. So once a(x)
and the first pass's logits z are cached, a trial (k, τ) computes argmax h( softmax(z / τ) M ⊙ a(x) ): two small matrix
products for a penultimate mask, the rest of the model for another layer.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from igd_ray.defenses.masks import class_masks
from igd_ray.errors import InputError
from igd_ray.search.space import Measurement, Noise, Setting


class CachedObjective:
    """The defense's predictions on fixed images with fixed noise; reads the caches and never changes them.

    Args:
        activations: a(x) at the masked layer, [n, …, N, …].
        first_logits: the first pass's logits [n, C], for each σ and number of draws.
        base_logits: f(x), [n, C].
        labels: int64 [n].
        suffix: h, from a masked activation to logits [n, C].
        axis: the axis of the N neurons in `activations`.

    Raises:
        InputError: if the caches differ in their number of images.
    """

    def __init__(
        self,
        activations: Tensor,
        first_logits: Mapping[Noise, Tensor],
        base_logits: Tensor,
        labels: Tensor,
        suffix: Callable[[Tensor], Tensor],
        *,
        axis: int = 1,
    ) -> None:
        lengths = {len(activations), len(base_logits), len(labels), *(len(logits) for logits in first_logits.values())}
        if len(lengths) != 1:
            raise InputError(f"caches and labels must be of the same images, but their lengths are {sorted(lengths)}")
        self.labels = labels
        self.base_predictions = base_logits.argmax(dim=1)
        self.activations = activations
        self.first_logits = first_logits
        self._suffix = suffix
        self._axis = axis

    @torch.no_grad()
    def predictions(self, masks: Tensor, noise: Noise, tau: float) -> Tensor:
        """Return the defense's predictions, int64 [n], with `masks` [C, N] and temperature `tau`."""
        weights = torch.softmax(self.first_logits[noise] / tau, dim=1) @ masks
        shape = [1] * self.activations.ndim
        shape[0], shape[self._axis] = weights.shape
        return self._suffix(self.activations * weights.reshape(shape)).flatten(1).argmax(dim=1)


class CleanAccuracy:
    """The clean accuracy that a search maximises, over all shards of the search images.

    Args:
        shards: one objective per shard of images.
        scores: the ranking, [C, N].
    """

    def __init__(self, shards: Sequence[CachedObjective], scores: Tensor) -> None:
        self.shards = shards
        self._scores = scores

    def measure(self, setting: Setting) -> Measurement:
        """Return the clean predictions of the defense with `setting`, compared with the base model's."""
        masks = class_masks(self._scores, setting.k)
        predictions = torch.cat([shard.predictions(masks, setting.noise, setting.tau) for shard in self.shards])
        labels = torch.cat([shard.labels for shard in self.shards])
        base = torch.cat([shard.base_predictions for shard in self.shards]) == labels
        right = predictions == labels
        return Measurement(
            images=self._counts(labels),
            base_correct=self._counts(labels[base]),
            gained=self._counts(labels[right & ~base]),
            lost=self._counts(labels[base & ~right]),
        )

    def _counts(self, labels: Tensor) -> tuple[int, ...]:
        return tuple(torch.bincount(labels, minlength=len(self._scores)).tolist())
