"""Normalisation as part of a model, so that data and attacks stay in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtracts `mean` and divides by `std`, one value a channel, before `model` sees the images."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, C] of `images` [B, channels, H, W] in [0, 1].

        Raises:
            ValueError: for another number of channels, which would broadcast.
        """
        if images.shape[1] != self.mean.shape[1]:
            raise ValueError(f"expected images with {self.mean.shape[1]} channels, got {images.shape[1]}")
        return self.model((images - self.mean) / self.std)  # type: ignore[no-any-return]
