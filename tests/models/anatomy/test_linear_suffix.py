"""Suffixes that are affine in the activation are recognised, and no others."""

from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.models.anatomy.layers import find_layer
from igd_ray.models.anatomy.linear_suffix import is_affine, is_linear_suffix, linear_changes
from igd_ray.models.demo import demo_model
from igd_ray.models.loading import load_model

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Behind(nn.Module):
    """A convolution `layer`, then `suffix(a, x)`, then pooling and a Linear."""

    def __init__(self, suffix) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.batch_norm = nn.BatchNorm2d(6)
        self.squeeze = nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.suffix = suffix
        self.head = nn.Linear(6, 5)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.suffix(self, self.layer(x), x).mean(dim=(2, 3)))


def attend(model: Behind, a: Tensor) -> Tensor:
    tokens = a.flatten(2).transpose(1, 2)
    return model.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(a)


AFFINE = {
    "pooling alone": lambda m, a, x: a,
    "batch norm and dropout": lambda m, a, x: m.dropout(m.batch_norm(a)),
    "skip connection": lambda m, a, x: a + functional.relu(x.repeat(1, 2, 1, 1) - 0.5),
    "gate that depends on the image": lambda m, a, x: a * torch.sigmoid(8 * x.repeat(1, 2, 1, 1) - 4),
    "average pooling and a matrix": lambda m, a, x: torch.einsum(
        "ij,bjhw->bihw", m.squeeze.weight, functional.avg_pool2d(a, 2)
    ),
    "constant": lambda m, a, x: a * 0 + 1,
}
NOT_AFFINE = {
    "relu": lambda m, a, x: functional.relu(a),
    "relu far from the data": lambda m, a, x: functional.relu(a + 100),
    "gelu": lambda m, a, x: functional.gelu(a),
    "tanh": lambda m, a, x: torch.tanh(a),
    "maximum": lambda m, a, x: functional.max_pool2d(a, 2),
    "layer norm": lambda m, a, x: m.norm(a.movedim(1, 3)).movedim(3, 1),
    "softmax": lambda m, a, x: a.softmax(dim=1),
    "attention": lambda m, a, x: attend(m, a),
    "squeeze and excitation": lambda m, a, x: a * torch.sigmoid(m.squeeze(a.mean(dim=(2, 3))))[:, :, None, None],
    "square": lambda m, a, x: a * a,
    "cube": lambda m, a, x: a**3,
    "saturation far from the data": lambda m, a, x: a.clamp(-1000, 1000),
    "a small branch beside a skip connection": lambda m, a, x: a + 1e-3 * functional.relu(a),
    "a small branch beside a constant": lambda m, a, x: x.repeat(1, 2, 1, 1) + 1e-5 * functional.gelu(a),
    "a gradient that is cut off": lambda m, a, x: a.detach() * 2,
    "a gradient that is cut off in part": lambda m, a, x: a + a.detach(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", AFFINE)
def test_affine(name: str, dtype: torch.dtype) -> None:
    model = Behind(AFFINE[name]).to(dtype)
    assert is_linear_suffix(model, find_layer(model, "layer", IMAGES[:1].to(dtype)), IMAGES.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NOT_AFFINE)
def test_not_affine(name: str, dtype: torch.dtype) -> None:
    model = Behind(NOT_AFFINE[name]).to(dtype)
    assert not is_linear_suffix(model, find_layer(model, "layer", IMAGES[:1].to(dtype)), IMAGES.to(dtype))


def test_half_precision_is_too_coarse_to_tell() -> None:
    model = Behind(NOT_AFFINE["a small branch beside a skip connection"]).to(torch.bfloat16)
    images = IMAGES.to(torch.bfloat16)
    assert not is_linear_suffix(model, find_layer(model, "layer", images[:1]), images)


@pytest.mark.parametrize(
    ("name", "linear"), [("layer3", True), ("layer2", False), ("layer3.bn2", False), ("penultimate", True)]
)
def test_demo_model(name: str, linear: bool) -> None:
    model = demo_model()
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert is_linear_suffix(model, find_layer(model, name, image), image) is linear


def test_cifar_model(shared: Path) -> None:
    model = load_model(
        f"{shared}/models/cifar_resnet.py:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {
        name: is_linear_suffix(model, find_layer(model, name, image), image)
        for name in ("layer1", "layer2", "layer3", "layer4", "layer4.1.bn2", "penultimate")
    }
    assert [name for name, linear in found.items() if linear] == ["layer4", "penultimate"]


def test_torchvision_models() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    resnet = torchvision.models.resnet18(weights=None, num_classes=5).eval()
    transformer = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5).eval()
    nn.init.normal_(transformer.heads.head.weight)
    for model, layers in (
        (resnet, {"avgpool": True, "layer4": True, "layer4.1.bn2": False, "layer3": False}),
        (transformer, {"encoder": True, "encoder.layers.encoder_layer_1": False}),
    ):
        for name, linear in layers.items():
            assert is_linear_suffix(model, find_layer(model, name, image), image) is linear, name


@given(seed=st.integers(0, 2**32), classes=st.integers(1, 6), channels=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_changes_are_those_of_the_jacobian(seed: int, classes: int, channels: int) -> None:
    """f(a) = Σ J a with a Jacobian of each image's own: the changes are its products, position by position."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, channels, 2, 2, generator=generator, dtype=torch.float64)

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("cnij,bnij,bnij->bc", weight, self.layer(x * 1), x.cos()) + x.flatten(1).sum(1)[:, None]

    model = Given()
    images = torch.randn(3, channels, 2, 2, generator=generator, dtype=torch.float64)
    chosen = [torch.randint(classes, (3,), generator=generator) for _ in range(2)]
    split = SplitModel(model, find_layer(model, "layer", images[:1]))
    prefix = split.prefix(images)
    assert is_affine(split, prefix)
    for indices, changes in zip(chosen, linear_changes(split, prefix, chosen), strict=True):
        expected = (weight[indices] * images.cos() * images).sum(dim=(2, 3))
        torch.testing.assert_close(changes, expected, rtol=1e-10, atol=1e-12)
