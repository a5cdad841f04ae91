"""A smooth network of a few hundred weights, so that finite differences are exact enough and passes cost nothing."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def tiny_model() -> nn.Sequential:
    """Logits [B, 5] of images [B, 1, 6, 6]; 32 penultimate neurons; batch norm with statistics of its own.

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
