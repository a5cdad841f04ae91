"""A split model gives what the whole model gives, without running the part before the layer again."""

import copy
from collections import Counter

import pytest
import torch
import torchvision
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models.anatomy.cutting import Prefix, SplitModel
from igd_ray.models.anatomy.layers import Layer, find_layer
from igd_ray.models.demo import demo_model
from igd_ray.models.loading import load_model
from tests.toys.counting import hooks_of

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
    halved = prefix.activation / 2
    assert torch.equal(split.suffix(halved, split.trimmed(prefix)), split.suffix(halved, prefix))
    if name != "penultimate":
        shape = [1] * kept.ndim
        shape[split.layer.axis] = split.layer.width
        factors = torch.rand(3, split.layer.width, generator=torch.Generator().manual_seed(1), dtype=kept.dtype)
        variants = torch.cat([kept * factor.view(shape) for factor in factors])
        given = split.suffix(variants, prefix, copies=3)
        expected = torch.cat([masked_by_hook(model, name, images, factor.view(shape)) for factor in factors])
        torch.testing.assert_close(given, expected, **tolerance)
    assert own_forwards(model) == []
    assert hooks_of(model) == 0


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
    # One image to see what the suffix reads, two twice to try it, and the call itself; later calls are alone.
    assert set(counts.values()) == {3}
    counts.clear()
    split.suffix(prefix.activation.repeat(4, 1, 1, 1), prefix, copies=4)
    assert set(counts.values()) == {1}


def batches_given_back(split: SplitModel, prefix: Prefix, copies: int) -> dict[str, int]:
    """Return how many images each module returns while the suffix runs on `copies` variants."""
    variants = prefix.activation.repeat(copies, *[1] * (prefix.activation.ndim - 1))
    split.suffix(variants, prefix, copies=copies)
    sizes: dict[str, int] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: sizes.update({path: len(output)}))
        for path, module in split.model.named_modules()
    ]
    split.suffix(variants, prefix, copies=copies)
    for handle in handles:
        handle.remove()
    return sizes


def test_what_the_suffix_does_not_read_is_not_repeated() -> None:
    split = split_at(demo_model(), "layer2", DIGITS)
    sizes = batches_given_back(split, split.prefix(DIGITS), 4)
    assert {path: sizes[path] for path in ("conv1", "bn1", "layer1", "layer2", "layer3", "linear")} == {
        "conv1": 5,
        "bn1": 5,
        "layer1": 5,
        "layer2": 20,
        "layer3": 20,
        "linear": 20,
    }


def test_only_the_skip_connection_is_repeated_inside_a_block() -> None:
    split = split_at(demo_model(), "layer3.conv1", DIGITS)
    sizes = batches_given_back(split, split.prefix(DIGITS), 4)
    assert {path: sizes[path] for path in ("conv1", "bn1", "layer1", "layer2", "layer3.conv1", "layer3")} == {
        "conv1": 5,
        "bn1": 5,
        "layer1": 5,
        "layer2": 20,
        "layer3.conv1": 20,
        "layer3": 20,
    }


class Gated(nn.Module):
    """A gate from the image multiplies the layer; with `cut`, no gradient tells that the suffix reads it."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 8)
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        gate = self.stem(x.flatten(1))
        return self.head(torch.tanh(self.layer(gate)) * (gate.detach() if self.cut else gate))


@pytest.mark.parametrize("cut", [False, True])
def test_a_gate_that_passes_by_the_layer(cut: bool) -> None:
    torch.manual_seed(0)
    check_split(Gated(cut=cut).eval().double(), "layer", DIGITS.double(), rtol=1e-12)


class Sizes(nn.Module):
    """Reads the batch size from the images, and uses it behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x.flatten(1, 2))).view(len(x), 64))


def test_a_batch_size_that_is_read_before_the_layer() -> None:
    torch.manual_seed(0)
    check_split(Sizes().eval().double(), "layer", DIGITS.double(), rtol=1e-12)


class OneBatchSize(nn.Module):
    """Takes no other number of images than five behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x.flatten(1))).view(5, 8))


def test_a_model_that_takes_one_variant_at_a_time() -> None:
    torch.manual_seed(0)
    model = OneBatchSize().eval().double()
    split = SplitModel(model, Layer("layer", "layer", "output", (8,)))
    prefix = split.prefix(DIGITS.double())
    factors = torch.rand(3, 1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = split.suffix((prefix.activation * factors).flatten(0, 1), prefix, copies=3)
    expected = torch.cat([masked_by_hook(model, "layer", DIGITS.double(), factor) for factor in factors])
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)


def test_transformer_layers_that_skip_their_modules_unless_they_have_hooks() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x.flatten(1).view(len(x), 8, 8)).mean(dim=1))

    torch.manual_seed(0)
    for name in ("encoder", "encoder.linear1", "encoder.norm1"):
        check_split(Encoder().eval().requires_grad_(False), name, DIGITS, rtol=1e-5)


def test_a_model_that_does_not_come_to_the_layer_again_is_an_error() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 8)
            self.head = nn.Linear(8, 3)
            self.seen: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.seen is None:
                self.seen = self.layer(x.flatten(1))
            return self.head(self.seen)

    model = Once()
    split = SplitModel(model, Layer("layer", "layer", "output", (8,)))
    prefix = split.prefix(DIGITS)
    for copies in (1, 2):
        with pytest.raises(InputError, match="'layer' is called 0 times when the model runs again"):
            split.suffix(prefix.activation.repeat(copies, 1), prefix, copies=copies)
    assert own_forwards(model) == []


def test_gradients_flow_to_the_activation() -> None:
    model = demo_model().double()
    split = split_at(model, "layer3", DIGITS.double())
    prefix = split.prefix(DIGITS.double())
    activation = prefix.activation.requires_grad_()
    (gradient,) = torch.autograd.grad(split.suffix(activation, prefix)[:, 3].sum(), activation)
    # The mean over 2×2 positions, then the weights of class 3.
    expected = (model.linear.weight[3] / 4)[None, :, None, None].expand_as(gradient)
    torch.testing.assert_close(gradient, expected)


def test_the_logits_of_the_prefix_are_the_model_s() -> None:
    model = demo_model()
    for name in ("layer1", "penultimate"):
        assert torch.equal(split_at(model, name, DIGITS).prefix(DIGITS).logits, model(DIGITS))


def test_some_images_of_a_prefix() -> None:
    split = split_at(demo_model(), "layer2.conv1", DIGITS)
    some, alone = split.prefix(DIGITS).select([3, 0]), split.prefix(DIGITS[[3, 0]])
    torch.testing.assert_close(some.activation, alone.activation)
    torch.testing.assert_close(some.logits, alone.logits)
    assert torch.equal(some.images, alone.images)
    assert some.outputs.keys() == alone.outputs.keys()
    for path, outputs in some.outputs.items():
        torch.testing.assert_close(outputs, alone.outputs[path])


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
    assert hooks_of(model) == 0


def test_the_model_is_not_changed() -> None:
    model = demo_model()
    before = copy.deepcopy(model.state_dict())
    split = split_at(model, "layer2", DIGITS)
    prefix = split.prefix(DIGITS)
    split.suffix(prefix.activation, prefix)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_trimmed_it_keeps_of_every_image_only_what_the_suffix_reads() -> None:
    class Skipping(nn.Module):
        """Its first layer is read by the second alone, its second also behind the third."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(channels, 4, 3, padding=1) for channels in (1, 4, 4))
            self.last = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            read = self.second(self.first(images).relu())
            return self.last((read + self.third(read)).mean(dim=(2, 3)))

    torch.manual_seed(0)
    split = split_at(Skipping().eval(), "third", DIGITS)
    prefix = split.prefix(DIGITS)
    trimmed = split.trimmed(prefix)
    assert {path: len(calls[0]) for path, calls in trimmed.outputs.items()} == {"first": 1, "second": 5}
    assert len(trimmed.images) == 1
    masked = prefix.activation * torch.rand(5, 4, 1, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(split.suffix(masked, trimmed), split.suffix(masked, prefix))
