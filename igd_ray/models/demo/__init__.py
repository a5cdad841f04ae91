"""A small adversarially trained network on 8×8 digits: the base model of the demo, shipped with its weights.

``python -m igd_ray.models.demo.training`` made the weights in this folder and printed, for an infinity-norm budget
of 0.15 in [0, 1] pixel units:

    clean, 540 test images: 98.89 %
    PGD, 50 steps, 540 test images: 54.63 %
    CLIP zero-shot, bare class names, 540 test images: 92.41 %
    clean, first 128 test images: 100.00 %
    AutoAttack standard, first 128 test images: 51.56 %
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.errors import InputError

WEIGHTS_FILE = Path(__file__).parents[1] / "weights" / "demo_resnet.safetensors"

# The infinity-norm budget, in [0, 1] pixel units, of the attacks on the shipped weights; training used 0.08.
DEMO_EPSILON = 0.15

IMAGE_SHAPE = (1, 8, 8)

# Mean and standard deviation of the pixels of the digits' training split.
PIXEL_MEAN = 0.3058
PIXEL_STD = 0.3755


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut (He et al., 2016): [n, in, H, W] to [n, out, H/stride, …]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DemoResNet(nn.Module):
    """Logits float32 [n, 10] of digit images float32 [n, 1, 8, 8] in [0, 1]; normalises inside.

    Stages `layer1`, `layer2`, `layer3` have 16, 32 and 64 channels; `linear` sees 64 pooled neurons.

    Raises:
        InputError: if the images have another shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = ResidualBlock(16, 16, stride=1)
        self.layer2 = ResidualBlock(16, 32, stride=2)
        self.layer3 = ResidualBlock(32, 64, stride=2)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != IMAGE_SHAPE:
            raise InputError(
                f"the demo model takes images [n, 1, 8, 8], got {list(images.shape)}; use it with the data 'digits'"
            )
        out = (images - PIXEL_MEAN) / PIXEL_STD
        out = functional.relu(self.bn1(self.conv1(out)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def demo_model(device: str = "cpu") -> nn.Module:
    """Return the shipped `DemoResNet` on `device`, in eval mode, parameters frozen."""
    model = DemoResNet()
    model.load_state_dict(load_file(WEIGHTS_FILE), strict=True)
    return model.to(device).eval().requires_grad_(False)
