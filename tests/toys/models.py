"""Models small enough for a sheet of paper, for finite differences, and for passes that cost nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearModel(nn.Module):
    """z = W x + b, where x are an image's pixels [N]: they are the penultimate neurons, `linear` is the classifier."""

    def __init__(self, weight: Sequence[Sequence[float]] | Tensor, bias: Sequence[float] | None = None) -> None:
        super().__init__()
        weight = torch.as_tensor(weight)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        self.linear.weight.data = weight
        if bias is not None:
            self.linear.bias.data = torch.tensor(bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.flatten(images))
        return logits


class Threshold(nn.Module):
    """Class 1 where the first pixel exceeds `at`, otherwise class 0; counts the images that it is asked for."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at, self.forwards = at, 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        over = images[:, 0, 0, 0] - self.at
        return torch.stack([-over, over], dim=1)


class FirstClasses(nn.Module):
    """The first `classes` logits of a model."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits[:, : self.classes]


class Watched(nn.Module):
    """A model that keeps the images that it is given with a gradient to follow, and their logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images: list[Tensor] = []
        self.logits: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        if images.requires_grad:
            self.images.append(images.detach().clone())
            self.logits.append(logits.detach().clone())
        return logits


@torch.no_grad()
def tiny_model() -> nn.Sequential:
    """A smooth network of a few hundred weights: logits [B, 5] of images [B, 1, 6, 6], from 32 penultimate neurons.

    Its batch norm has statistics of its own, so that finite differences are exact enough and meet them.
    Over `tiny_images()` the logits' mean is 0 and their standard deviation 1, so that images differ in their class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Softplus(),
            nn.Conv2d(4, 8, 5),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
        nn.init.normal_(model[1].running_mean)
        nn.init.uniform_(model[1].running_var, 0.5, 2)
    linear = model.eval()[-1]
    linear.bias.zero_()
    linear.weight *= 1 / model(tiny_images()).std(dim=0)[:, None]
    linear.bias -= model(tiny_images()).mean(dim=0)
    return model


def tiny_images(n: int = 6) -> Tensor:
    """Images float32 [n, 1, 6, 6], a sixth of whose pixels are exactly 0 or 1."""
    generator = torch.Generator().manual_seed(4)
    return (1.2 * torch.rand(n, 1, 6, 6, generator=generator) - 0.1).clamp(0, 1)
