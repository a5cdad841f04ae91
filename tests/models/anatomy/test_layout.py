"""The neurons' axis of [B, N, H, W] and [B, H, W, N], also where N, H and W are equal."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.models.anatomy.layers import Layer, find_layer, recorded, scaled

IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = IMAGE[:, :, :16, :16]


def torchvision_swin() -> nn.Module:
    """Its first stage gives [B, 8, 8, 8], its second [B, 4, 4, 16]."""
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=5).eval()


def timm_swin() -> nn.Module:
    """Its first stage gives [B, 8, 8, 8], its second [B, 4, 4, 16]."""
    name = "swin_tiny_patch4_window7_224"
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 1)}
    return timm.create_model(name, num_classes=5, **sizes).eval()


def timm_convnext() -> nn.Module:
    """Its stages give [B, 8, 8, 8], [B, 4, 4, 4], [B, 6, 2, 2] and [B, 8, 1, 1], through Linear on [B, H, W, N]."""
    return timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 4, 6, 8), num_classes=5).eval()


@pytest.mark.parametrize(
    ("build", "image", "name", "shape", "axis"),
    [
        (torchvision_swin, SMALL, "features.0", (8, 8, 8), 3),
        (torchvision_swin, SMALL, "features.0.0", (8, 8, 8), 1),
        (torchvision_swin, SMALL, "features.1", (8, 8, 8), 3),
        (torchvision_swin, SMALL, "features.1.0", (8, 8, 8), 3),
        (torchvision_swin, SMALL, "features.1.0.mlp.1", (8, 8, 32), 3),
        (torchvision_swin, SMALL, "features.3", (4, 4, 16), 3),
        (torchvision_swin, SMALL, "norm", (4, 4, 16), 3),
        (torchvision_swin, SMALL, "permute", (16, 4, 4), 1),
        (torchvision_swin, SMALL, "flatten", (16,), 1),
        (timm_swin, IMAGE, "layers.0", (8, 8, 8), 3),
        (timm_swin, IMAGE, "layers.0.blocks.1", (8, 8, 8), 3),
        (timm_swin, IMAGE, "layers.1", (4, 4, 16), 3),
        (timm_swin, IMAGE, "layers.0.blocks.0.mlp.fc1", (64, 32), 2),
        (timm_convnext, IMAGE, "stem", (8, 8, 8), 1),
        (timm_convnext, IMAGE, "stages.0", (8, 8, 8), 1),
        (timm_convnext, IMAGE, "stages.0.blocks.0", (8, 8, 8), 1),
        (timm_convnext, IMAGE, "stages.0.blocks.0.conv_dw", (8, 8, 8), 1),
        (timm_convnext, IMAGE, "stages.0.blocks.0.norm", (8, 8, 8), 3),
        (timm_convnext, IMAGE, "stages.0.blocks.0.mlp.fc1", (8, 8, 32), 3),
        (timm_convnext, IMAGE, "stages.1", (4, 4, 4), 1),
        (timm_convnext, IMAGE, "stages.2", (6, 2, 2), 1),
    ],
)
def test_the_axis_of_the_neurons(build, image: Tensor, name: str, shape: tuple[int, ...], axis: int) -> None:
    layer = find_layer(build(), name, image)
    assert (layer.shape, layer.axis, layer.width) == (shape, axis, shape[axis - 1])


class Functional(nn.Module):
    """Functions alone, so that the shape must tell: `inner` gives [B, H, W, N], `outer` [B, N, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 3))
        self.inner = Apply(lambda x: torch.relu(x.movedim(1, 3) @ self.weight.T))
        self.outer = Apply(lambda x: x.movedim(3, 1) * 2)
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.outer(self.inner(x)) + 1).mean(dim=(2, 3)))


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_without_modules_that_tell_two_equal_axes_are_the_image() -> None:
    model = Functional(5)
    assert find_layer(model, "inner", SMALL).axis == 3
    assert find_layer(model, "outer", SMALL).axis == 1


def test_where_nothing_tells_channels_come_first() -> None:
    assert find_layer(Functional(16), "outer", SMALL).axis == 1
    assert find_layer(Functional(5), "outer", IMAGE[:, :, :16, :24]).axis == 1


def test_layouts_that_were_not_given_are_the_usual_ones_and_do_not_change_the_identity() -> None:
    for shape, axis in (((5,), 1), ((7, 5), 2), ((5, 7, 7), 1)):
        layer = Layer("stage", "model.stage", "output", shape)
        assert (layer.axis, layer.width) == (axis, 5)
        assert layer.identity == ["model.stage", "output"]
        assert layer == Layer("stage", "model.stage", "output", shape, axis)
    last = Layer("stage", "model.stage", "output", (7, 7, 5), 3)
    assert last.width == 5
    assert last.identity == ["model.stage", "output", 3]
    assert last != Layer("stage", "model.stage", "output", (7, 7, 5))


def test_channels_last_by_hand() -> None:
    layer = Layer("c", "c", "output", (1, 2, 3), 3)
    activation = torch.tensor([[[[1.0, 2.0, 3.0], [5.0, 4.0, 5.0]]]])
    assert layer.pool(activation).tolist() == [[3.0, 3.0, 4.0]]
    assert layer.by_position(activation).tolist() == [[[1.0, 5.0], [2.0, 4.0], [3.0, 5.0]]]
    weighted = activation * layer.broadcast(torch.tensor([[1.0, 0.0, 10.0]]))
    assert weighted.tolist() == [[[[1.0, 0.0, 30.0], [5.0, 0.0, 50.0]]]]


def test_a_swin_stage_is_scaled_channel_by_channel() -> None:
    torch.manual_seed(0)
    model = timm_swin()
    layer = find_layer(model, "layers.1", IMAGE)
    factors = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    images = IMAGE.repeat(2, 1, 1, 1)
    with torch.no_grad(), recorded(model, layer) as activations:
        model(images)
    with torch.no_grad(), scaled(model, layer, factors):
        given = model(images)
    expected = model.forward_head(functional.layer_norm(activations[0] * factors[:, None, None, :], (16,)))
    torch.testing.assert_close(given, expected)
