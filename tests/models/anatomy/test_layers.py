"""Layers are found by running a model, recorded and scaled through hooks, and the model stays as it was."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.errors import InputError
from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.models.anatomy.layers import Layer, classifier, find_layer, maskable_layers, recorded, scaled
from igd_ray.models.demo import demo_model
from igd_ray.models.loading import load_model
from igd_ray.models.normalization import Normalize
from tests.toys.counting import hooks_of

DIGIT = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class ConvolutionalClassifier(nn.Module):
    """Its classifier is a 1×1 convolution on the pooled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 6, 3)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.features(x)).mean(dim=(2, 3), keepdim=True)).flatten(1)


class Ensemble(nn.Module):
    """The average of the logits of two models."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x) + self.second(x)) / 2


class Then(nn.Module):
    """A model whose logits come from `last` applied to what `model` gives."""

    def __init__(self, model: nn.Module, last) -> None:
        super().__init__()
        self.model = model
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.model(x))


class Tokens(nn.Module):
    """Patches as tokens [B, T, N], averaged before the classifier; three other outputs cannot be masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.counts = Counts()
        self.pair = Pair()
        self.table = Table()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.reshape(len(x), 16, 4))
        self.counts(tokens)
        self.pair(tokens)
        self.table(tokens)
        return self.head(tokens.mean(dim=1))


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).long()


class Table(nn.Module):
    """Gives the same values, on a first axis of length 1, whatever the images are."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(1, *x.shape[1:])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.mark.parametrize(
    ("model", "example", "module", "shape"),
    [
        (demo_model(), DIGIT, "linear", (64,)),
        (resnet18(), COLOUR, "fc", (512,)),
        (Normalize(resnet18(), [0.5] * 3, [0.2] * 3), COLOUR, "model.fc", (512,)),
        (ConvolutionalClassifier(), DIGIT, "head", (6, 1, 1)),
        (Tokens(), DIGIT, "head", (6,)),
        (Then(demo_model(), nn.Identity()), DIGIT, "model.linear", (64,)),
    ],
    ids=["demo", "torchvision", "normalised", "1x1 convolution", "tokens", "identity behind"],
)
def test_penultimate_is_the_input_of_the_module_that_gives_the_logits(model, example, module, shape) -> None:
    layer = find_layer(model, "penultimate", example)
    assert (layer.name, layer.module, layer.side, layer.shape) == ("penultimate", module, "input", shape)
    assert layer.width == shape[0]
    assert classifier(model, layer) is model.get_submodule(module)
    with recorded(model, layer) as activations:
        logits = model(example)
    assert torch.equal(model.get_submodule(module)(activations[0]).flatten(1), logits)
    assert hooks_of(model) == 0


def test_penultimate_of_the_cifar_model(shared) -> None:
    model = load_model(
        f"{shared}/models/cifar_resnet.py:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    layer = find_layer(model, "penultimate", COLOUR)
    assert (layer.module, layer.shape) == ("linear", (128,))
    assert find_layer(model, "layer4", COLOUR).shape == (128, 4, 4)


@pytest.mark.parametrize(
    "model",
    [
        Ensemble(demo_model(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
        Ensemble(demo_model(), demo_model()),
        Then(demo_model(), lambda logits: logits - logits.roll(1, dims=1)),
        Then(demo_model(), lambda logits: logits.cumsum(dim=1)),
        Then(demo_model(), lambda logits: logits @ torch.linspace(0, 1, 100).view(10, 10)),
        Then(demo_model(), lambda logits: logits * 0),
        Then(demo_model(), lambda logits: logits.masked_fill(logits < logits.mean(), -torch.inf)),
    ],
    ids=["ensemble", "ensemble of equals", "differences", "sums", "another matrix", "nothing", "infinite"],
)
def test_without_a_linear_classifier_there_is_no_penultimate_layer(model) -> None:
    with pytest.raises(InputError, match=r"no penultimate layer.*can be masked: ") as raised:
        find_layer(model, "penultimate", DIGIT)
    assert ".conv1" in str(raised.value)
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    "last",
    [
        lambda logits: logits / 1.7,
        lambda logits: logits.mul_(2),
        torch.tanh,
        lambda logits: logits.clamp(-100, 100),
        lambda logits: logits.softmax(dim=1),
        lambda logits: (logits / 3).softmax(dim=1),
        lambda logits: logits.log_softmax(dim=1),
        lambda logits: logits * torch.linspace(1, 2, 10) - 3,
        lambda logits: logits.double(),
    ],
    ids=[
        *("temperature", "in place", "tanh", "clamp", "softmax", "softmax with temperature", "log-softmax"),
        *("one temperature a class", "cast"),
    ],
)
def test_what_maps_each_logit_alone_may_stand_behind_the_classifier(last) -> None:
    model = Then(demo_model(), last)
    layer = find_layer(model, "penultimate", DIGIT)
    assert (layer.module, layer.side, layer.shape, layer.mapped) == ("model.linear", "input", (64,), True)
    assert layer.identity == Layer("penultimate", "model.linear", "input", (64,), axis=1).identity
    assert classifier(model, layer) is None
    images = torch.rand(3, 1, 8, 8)
    split = SplitModel(model, layer)
    prefix = split.prefix(images)
    torch.testing.assert_close(
        prefix.activation,
        SplitModel(demo_model(), Layer("penultimate", "linear", "input", (64,), axis=1)).prefix(images).activation,
    )
    assert torch.equal(split.suffix(prefix.activation, prefix), model(images))
    factors = torch.rand(3, 64)
    expected = last(demo_model().linear(factors * prefix.activation))
    assert torch.equal(split.suffix(factors * prefix.activation, prefix), expected)
    with scaled(model, layer, factors):
        assert torch.equal(model(images), expected)
    assert hooks_of(model) == 0


def test_a_classifier_that_runs_twice_is_not_taken() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(functional.relu(self.linear(x.flatten(1))))

    with pytest.raises(InputError, match="called once, gives its logits"):
        find_layer(Twice(), "penultimate", DIGIT)


def test_a_model_that_returns_more_than_logits_is_refused() -> None:
    with pytest.raises(InputError, match=r"must return logits \[B, C\], not tuple"):
        find_layer(Pair(), "penultimate", DIGIT)


@pytest.mark.parametrize(
    ("name", "shape", "axis", "width"),
    [("layer1", (16, 8, 8), 1, 16), ("layer2.conv2", (32, 4, 4), 1, 32), ("linear", (10,), 1, 10)],
)
def test_other_layers_are_module_outputs_with_channels_as_neurons(name, shape, axis, width) -> None:
    layer = find_layer(demo_model(), name, DIGIT)
    assert layer == Layer(name=name, module=name, side="output", shape=shape)
    assert (layer.axis, layer.width) == (axis, width)
    assert classifier(demo_model(), layer) is None


def test_neurons_of_tokens_are_on_the_last_axis() -> None:
    layer = find_layer(Tokens(), "embed", DIGIT)
    assert (layer.shape, layer.axis, layer.width) == ((16, 6), 2, 6)
    activation = torch.arange(2 * 16 * 6.0).view(2, 16, 6)
    assert torch.allclose(layer.pool(activation), activation.mean(dim=1))
    assert layer.broadcast(torch.ones(2, 6)).shape == (2, 1, 6)


def test_pooling_by_hand() -> None:
    layer = Layer(name="c", module="c", side="output", shape=(2, 1, 2))
    assert layer.pool(torch.tensor([[[[1.0, 3.0]], [[5.0, 6.0]]]])).tolist() == [[2.0, 5.5]]
    flat = Layer(name="f", module="f", side="output", shape=(2,))
    assert flat.pool(torch.tensor([[1.0, 3.0]])).tolist() == [[1.0, 3.0]]


def test_unknown_layer_names_close_matches_and_lists_the_layers() -> None:
    with pytest.raises(InputError) as raised:
        find_layer(demo_model(), "layer4", DIGIT)
    message = str(raised.value)
    assert "no layer 'layer4'" in message
    assert "did you mean 'layer3'" in message
    for name in ("penultimate", "conv1", "layer1", "layer2.conv1", "linear"):
        assert name in message
    assert "\n" not in message


def test_the_model_itself_is_no_layer() -> None:
    with pytest.raises(InputError, match="no layer ''"):
        find_layer(demo_model(), "", DIGIT)


def test_a_misspelt_penultimate_is_recognised() -> None:
    with pytest.raises(InputError, match="did you mean 'penultimate'"):
        find_layer(demo_model(), "penultimat", DIGIT)


@pytest.mark.parametrize(
    ("name", "came"),
    [("pair", "tuple"), ("counts", r"int64 \[2, 16, 6\] for B = 2"), ("table", r"float32 \[1, 16, 6\]")],
)
def test_outputs_that_cannot_be_scaled_are_refused(name: str, came: str) -> None:
    with pytest.raises(
        InputError, match=f"'{name}' cannot be masked.*got {came}.*can be masked: penultimate, embed, head$"
    ):
        find_layer(Tokens(), name, DIGIT)
    assert name not in maskable_layers(Tokens(), DIGIT)


def test_layers_that_run_twice_are_refused() -> None:
    model = resnet18()
    with pytest.raises(InputError, match=r"'layer1.0.relu' is called 2 times.*can be masked: penultimate, conv1"):
        find_layer(model, "layer1.0.relu", COLOUR)
    assert hooks_of(model) == 0


def test_a_layer_that_is_not_part_of_the_pass_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model.unused = nn.ModuleList([nn.Linear(2, 2)])
    model.forward = lambda x: model[1](model[0](x))
    with pytest.raises(InputError, match=r"called 0 times"):
        find_layer(model, "unused.0", DIGIT)


def test_scaling_by_hand() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model[2].weight.data = torch.tensor([[10.0, 100.0]])
    x = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])
    factors = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    for layer in (find_layer(model, "penultimate", x[:1]), find_layer(model, "1", x[:1])):
        with scaled(model, layer, factors):
            assert model(x).flatten().tolist() == [10 * 1 + 100 * 1, 100 * 8]
        assert model(x).flatten().tolist() == [210, 430]


class ByKeyword(nn.Module):
    """Calls its modules with keywords only."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        self.hidden.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        self.head.weight.data = torch.tensor([[10.0, 100.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.hidden(input=x.flatten(1)))


@pytest.mark.parametrize("name", ["penultimate", "hidden"])
def test_modules_that_are_called_with_keywords(name: str) -> None:
    model, x = ByKeyword(), torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])
    layer = find_layer(model, name, x[:1])
    with recorded(model, layer) as activations:
        assert model(x).flatten().tolist() == [210, 430]
    assert activations[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with scaled(model, layer, torch.tensor([[1.0, 0.5], [0.0, 2.0]])):
        assert model(x).flatten().tolist() == [10 * 1 + 100 * 1, 100 * 8]
    assert hooks_of(model) == 0


@pytest.mark.parametrize("name", ["penultimate", "layer1"])
def test_no_hook_survives_an_exception(name: str) -> None:
    model = demo_model()
    layer = find_layer(model, name, DIGIT)
    for opened in (recorded(model, layer), scaled(model, layer, torch.ones(1, layer.width))):
        with pytest.raises(ValueError, match=r"\[n, 1, 8, 8\]"), opened:
            model(COLOUR)
        assert hooks_of(model) == 0


def test_no_hook_survives_a_model_that_raises() -> None:
    model = demo_model()
    with pytest.raises(InputError):
        find_layer(model, "penultimate", COLOUR)
    with pytest.raises(InputError):
        maskable_layers(model, COLOUR)
    assert hooks_of(model) == 0


@pytest.mark.parametrize("name", ["layer1.0.bn2", "layer1.0.bn1"])
def test_what_is_recorded_is_not_overwritten_by_operations_in_place(name: str) -> None:
    # In torchvision's ResNet, `out += identity` and ReLU write into what these batch norms returned.
    model = resnet18()
    layer = find_layer(model, name, COLOUR)
    block = model.layer1[0]
    with torch.no_grad(), recorded(model, layer) as activations:
        model(COLOUR)
        stem = model.maxpool(torch.relu(model.bn1(model.conv1(COLOUR))))
        expected = block.bn1(block.conv1(stem))
        if name.endswith("bn2"):
            expected = block.bn2(block.conv2(torch.relu(expected)))
    assert torch.allclose(activations[0], expected, atol=1e-6)
    assert (expected < 0).any()
