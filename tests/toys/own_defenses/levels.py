"""Rounds pixels to multiples of 1 / k; its k is not one of neurons."""

from torch import nn


class Levels(nn.Module):
    def __init__(self, model, k):
        super().__init__()
        self.model, self.k = model, k

    def forward(self, x):
        return self.model((x * self.k).round() / self.k)


def factory(model, k: int = 4):
    return Levels(model, k)
