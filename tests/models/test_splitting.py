"""A split model gives what the whole model gives, without running the part before the layer again."""

import copy
from collections import Counter

import pytest
import torch
import torchvision
from torch import Tensor, nn

from igd_ray.models.demo import demo_model
from igd_ray.models.layers import find_layer
from igd_ray.models.loading import load_model
from igd_ray.models.splitting import SplitModel

DIGITS = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COLOURS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def split_at(model: nn.Module, name: str, images: Tensor) -> SplitModel:
    return SplitModel(model, find_layer(model, name, images[:1]))


def own_forwards(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if "forward" in vars(module)]


def masked_by_hook(model: nn.Module, name: str, images: Tensor, factor: Tensor) -> Tensor:
    """The whole model with the output of module `name` multiplied: the answer the suffix must give."""
    handle = model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: output * factor)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def check_split(model: nn.Module, name: str, images: Tensor, *, rtol: float = 1e-5) -> None:
    """Check one copy, twice, and three differently masked copies at once."""
    split = split_at(model, name, images)
    tolerance = {"rtol": rtol, "atol": rtol}
    with torch.no_grad():
        whole = model(images)
    prefix = split.prefix(images)
    kept = prefix.activation.clone()
    for _ in range(2):
        torch.testing.assert_close(split.suffix(prefix.activation, prefix), whole, **tolerance)
        assert torch.equal(prefix.activation, kept)
    if name != "penultimate":
        shape = [1] * kept.ndim
        shape[split.layer.axis] = split.layer.width
        factors = torch.rand(3, split.layer.width, generator=torch.Generator().manual_seed(1), dtype=kept.dtype)
        variants = torch.cat([kept * factor.view(shape) for factor in factors])
        given = split.suffix(variants, prefix, copies=3)
        expected = torch.cat([masked_by_hook(model, name, images, factor.view(shape)) for factor in factors])
        torch.testing.assert_close(given, expected, **tolerance)
    assert own_forwards(model) == []
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


STAGES = ["conv1", "bn1", "layer1", "layer2", "layer3", "penultimate"]
INSIDE = ["layer2.conv1", "layer2.bn1", "layer2.conv2", "layer2.bn2", "layer2.shortcut", "layer2.shortcut.0"]


@pytest.mark.parametrize("name", STAGES + INSIDE)
def test_demo_model(name: str) -> None:
    check_split(demo_model().double(), name, DIGITS.double(), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["layer1", "layer2", "layer3", "layer4", "layer2.0.conv1", "layer2.1.conv2", "layer3.0.shortcut"]
)
def test_cifar_model(shared, name: str) -> None:
    model = load_model(
        f"{shared}/models/cifar_resnet.py:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    check_split(model, name, COLOURS)


@pytest.mark.parametrize(
    "name",
    ["layer1", "layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample", "layer2.1"],
)
def test_torchvision_model_which_calls_one_relu_twice_and_adds_in_place(name: str) -> None:
    torch.manual_seed(0)
    check_split(torchvision.models.resnet18(weights=None).eval().double(), name, COLOURS.double(), rtol=1e-10)


def test_vision_transformer() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(16, 4, 3, 2, 24, 48, num_classes=5).eval().double()
    nn.init.normal_(model.heads.head.weight)
    images = COLOURS[:, :, :16, :16].double()
    for name in ("encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_1.mlp", "penultimate"):
        check_split(model, name, images, rtol=1e-10)


class Reusing(nn.Module):
    """Calls one module before, around and after the layer, also nested in another, and has a functional skip path."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softplus()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), self.act)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.layer = nn.Sequential(nn.Conv2d(4, 4, 1), self.act)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        before = self.twice(self.act(self.twice(x)))
        after = self.twice(self.act(self.layer(before)) + x)
        return self.head((after + before).mean(dim=(2, 3)))


def test_modules_that_run_more_than_once() -> None:
    torch.manual_seed(0)
    check_split(Reusing().eval().double(), "layer", DIGITS.double(), rtol=1e-12)


class Nested(nn.Module):
    """Its first module gives a tuple, one of whose parts passes by the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Both()
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        low, by = self.first(x.flatten(1))
        return self.head(torch.tanh(self.layer(low)) + by["other"])


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        low, other = self.inner(x).chunk(2, dim=1)
        return low, {"other": other}


def test_modules_that_return_more_than_a_tensor() -> None:
    torch.manual_seed(0)
    check_split(Nested().eval().double(), "layer", DIGITS.double(), rtol=1e-12)


def computed(model: nn.Module) -> Counter:
    """Count by path, from now on, the modules that really compute, below the hooks and `forward` attributes."""
    counts: Counter = Counter()
    for path, module in model.named_modules():
        if not list(module.children()):
            original = type(module).forward

            def counting(self, *args, original=original, path=path, **kwargs):
                counts[path] += 1
                return original(self, *args, **kwargs)

            module.__class__ = type(type(module).__name__, (type(module),), {"forward": counting})
    return counts


def test_the_suffix_does_not_compute_what_comes_before_the_layer() -> None:
    model = demo_model()
    split = split_at(model, "layer2", DIGITS)
    counts = computed(model)
    prefix = split.prefix(DIGITS)
    assert counts["conv1"] == counts["layer1.conv1"] == counts["layer2.conv1"] == 1
    counts.clear()
    split.suffix(prefix.activation.repeat(4, 1, 1, 1), prefix, copies=4)
    assert {path.split(".")[0] for path in counts} == {"layer3", "linear"}
    assert set(counts.values()) == {1}


def test_the_suffix_of_the_penultimate_layer_is_the_classifier_alone() -> None:
    model = demo_model()
    split = split_at(model, "penultimate", DIGITS)
    prefix = split.prefix(DIGITS)
    counts = computed(model)
    split.suffix(prefix.activation, prefix)
    assert counts == {"linear": 1}


def test_forward_attributes_are_as_before_also_after_an_exception() -> None:
    model = demo_model()
    own = model.bn1.forward
    model.bn1.forward = lambda x: own(x)  # somebody else's replacement, which must come back
    kept = model.bn1.forward
    split = split_at(model, "layer1", DIGITS)
    prefix = split.prefix(DIGITS)
    with pytest.raises(RuntimeError):
        split.suffix(prefix.activation[:, :3], prefix)  # three channels of sixteen
    assert own_forwards(model) == ["bn1"]
    assert model.bn1.forward is kept
    torch.testing.assert_close(split.suffix(prefix.activation, prefix), model(DIGITS))


def test_no_hook_survives_a_prefix_that_raises() -> None:
    model = demo_model()
    split = split_at(model, "layer1", DIGITS)
    with pytest.raises(ValueError, match="8, 8"):
        split.prefix(COLOURS)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_the_model_is_not_changed() -> None:
    model = demo_model()
    before = copy.deepcopy(model.state_dict())
    split = split_at(model, "layer2", DIGITS)
    prefix = split.prefix(DIGITS)
    split.suffix(prefix.activation, prefix)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
