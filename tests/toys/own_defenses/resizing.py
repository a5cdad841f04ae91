"""Random resizing and padding (Xie et al., ICLR 2018): each call scales the images up and pads them at random."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class Resized(nn.Module):
    """The base model on images of a random size at a random place of a canvas, scaled back to their own size."""

    def __init__(self, model: nn.Module, generator: Generator, share: float) -> None:
        super().__init__()
        self.model = model
        self.generator = generator
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        most = size + max(1, round(self.share * size))
        scaled = self.drawn(size, most)
        left, top = self.drawn(0, most - scaled), self.drawn(0, most - scaled)
        larger = functional.interpolate(x, (scaled, scaled), mode="bilinear", antialias=True)
        canvas = functional.pad(larger, (left, most - scaled - left, top, most - scaled - top))
        return self.model(functional.interpolate(canvas, (size, size), mode="bilinear", antialias=True))

    def drawn(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))


def factory(model: nn.Module, generator: Generator, share: float = 0.25) -> nn.Module:
    return Resized(model, generator, share)
