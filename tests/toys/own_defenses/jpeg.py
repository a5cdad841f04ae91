"""JPEG compression of the input (Guo et al., ICLR 2018), by Pillow, which passes no gradients on."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class Compressed(nn.Module):
    """The base model on images that were saved as JPEG and read again."""

    def __init__(self, model: nn.Module, quality: int) -> None:
        super().__init__()
        self.model = model
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.stack([self.compressed(image) for image in x.detach().cpu()]).to(x))

    def compressed(self, image: Tensor) -> Tensor:
        levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=self.quality)
        pixels = np.array(Image.open(file)).reshape(levels.shape)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def factory(model: nn.Module, quality: int = 75) -> nn.Module:
    return Compressed(model, quality)
