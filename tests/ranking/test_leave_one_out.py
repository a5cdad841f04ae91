"""LO-IR against ablation by brute force, against numbers worked out by hand, and its cost in passes."""

from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from igd_ray.data import LabeledImages, load_images
from igd_ray.data.images import ArrayReader
from igd_ray.errors import InputError
from igd_ray.models import find_layer, load_model
from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.models.anatomy.layers import Layer
from igd_ray.models.anatomy.linear_suffix import is_linear_suffix
from igd_ray.models.anatomy.memory import PeakMemory
from igd_ray.models.demo import demo_model
from igd_ray.ranking import leave_one_out
from igd_ray.ranking.leave_one_out import LeaveOneOut, LeaveOneOutSums, leave_one_out_sums
from tests.toys.counting import hooks_of
from tests.toys.models import LinearModel


def labelled(images: Tensor, labels: list[int], classes: int) -> LabeledImages:
    return LabeledImages(
        reader=ArrayReader(images.float().numpy()),
        indices=np.arange(len(images)),
        labels=torch.tensor(labels),
        ids=tuple(f"image-{number}" for number in range(len(images))),
        class_names=tuple(f"class-{number}" for number in range(classes)),
        spec="test",
        split="train",
    )


def scores_of(parts: list[LeaveOneOutSums], layer: Layer) -> Tensor:
    """The scores of the shards whose sums are `parts`."""
    ranking = LeaveOneOut(layer, tuple(f"class-{number}" for number in range(len(parts[0].counts))))
    return ranking.compute(ranking.merge([vars(part) for part in parts]))


def brute_force(model: nn.Module, module: str, side: str, width: int, images: Tensor, labels: Tensor, classes: int):
    """Eq. 5 word for word: one pass with all neurons, one more for each neuron with that neuron set to zero."""
    with torch.no_grad():
        full = model(images)
        scores = torch.zeros(classes, width, dtype=torch.float64)
        for neuron in range(width):

            def without(activation: Tensor, neuron: int = neuron) -> Tensor:
                activation = activation.clone()
                activation[:, neuron] = 0
                return activation

            target = model.get_submodule(module)
            if side == "input":
                handle = target.register_forward_pre_hook(lambda _module, inputs, cut=without: (cut(inputs[0]),))
            else:
                handle = target.register_forward_hook(lambda _module, _inputs, output, cut=without: cut(output))
            ablated = model(images)
            handle.remove()
            for label in range(classes):
                chosen = labels == label
                scores[label, neuron] = (full[chosen, label] - ablated[chosen, label]).abs().double().mean()
    return scores


def assert_relative(scores: Tensor, expected: Tensor, tolerance: float, *, floor: float = 1e-6) -> None:
    """Compare relative to each score, or to `floor` times the largest of its class where that is more."""
    scale = torch.maximum(expected.abs(), floor * expected.abs().amax(dim=1, keepdim=True))
    assert float(((scores - expected).abs() / scale).max()) <= tolerance


def count_images(model: nn.Module) -> Counter:
    """Count, from now on, the images that go through every module."""
    counts: Counter = Counter()
    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, inputs, _output, path=path: counts.update({path: len(inputs[0])}),
        )
    return counts


@pytest.fixture(scope="module")
def digits() -> LabeledImages:
    return load_images("digits", split="train", n=60)


def two_neurons() -> LinearModel:
    """z = W a + b, where a are two pixels."""
    return LinearModel([[2.0, -1.0], [0.5, 4.0]], [10.0, -10.0])


def test_two_neurons_by_hand() -> None:
    images = torch.tensor([[0.5, 0.25], [1.0, 0.75], [0.5, 0.5]]).view(3, 1, 1, 2)
    # class 0, images 0 and 1: |2|·(0.5 + 1.0)/2 = 1.5 and |−1|·(0.25 + 0.75)/2 = 0.5
    # class 1, image 2:        |0.5|·0.5 = 0.25         and |4|·0.5 = 2
    scores = leave_one_out(two_neurons(), labelled(images, [0, 0, 1], 2))
    assert scores.scores.tolist() == [[1.5, 0.5], [0.25, 2.0]]
    assert scores.scores.dtype == torch.float64
    assert (scores.method, scores.layer) == ("loir", "penultimate")


class ThreeNeurons(nn.Module):
    """z = (relu(a0 − a1), a1·a2) after a layer a of three neurons: nothing behind it is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a = self.hidden(self.flatten(x))
        return torch.stack([torch.relu(a[:, 0] - a[:, 1]), a[:, 1] * a[:, 2]], dim=1)


def test_three_neurons_before_a_nonlinear_part_by_hand() -> None:
    images = torch.tensor([[0.75, 0.25, 0.5], [0.25, 0.5, 0.5], [1.0, 0.5, 0.25]]).view(3, 1, 1, 3)
    # class 0, images 0 and 1: f_0 = 0.5 and 0
    #   without a0: 0 and 0 → changes 0.5, 0 · without a1: 0.75 and 0.25 → 0.25, 0.25 · without a2: none
    # class 1, image 2: f_1 = 0.125; without a1 or a2: 0
    scores = leave_one_out(ThreeNeurons(), labelled(images, [0, 0, 1], 2), layer="hidden")
    assert scores.scores.tolist() == [[0.25, 0.25, 0.0], [0.0, 0.125, 0.125]]


def test_changes_of_opposite_sign_do_not_cancel() -> None:
    """The absolute value is taken image by image, not of the mean."""

    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1, bias=False)
            self.linear.weight.data = torch.tensor([[2.0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1) - 0.5)

    probe = labelled(torch.tensor([0.25, 0.75]).view(2, 1, 1, 1), [0, 0], 1)
    assert leave_one_out(Signed(), probe).scores.tolist() == [[0.5]]


def test_fast_path_equals_brute_force_on_the_demo_model(digits) -> None:
    model = demo_model().double()
    expected = brute_force(model, "linear", "input", 64, digits.images.double(), digits.labels, 10)
    assert_relative(leave_one_out(model, digits).scores, expected, 1e-9)


def test_fast_path_equals_brute_force_on_the_cifar_model(cifar) -> None:
    model, probe = cifar
    scores = leave_one_out(model, probe).scores
    assert scores.shape == (10, 128)
    expected = brute_force(model, "linear", "input", 128, probe.images, probe.labels, 10)
    # In float32 the difference of two logits is rounded to their last digit, whatever the neuron's own effect.
    assert_relative(scores, expected, 1e-5, floor=1.0)


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3", "layer2.conv1", "layer2.bn1"])
def test_other_layers_by_suffix_equal_brute_force(digits, layer: str) -> None:
    model = demo_model().double()
    width = find_layer(model, layer, digits.images[:1].double()).width
    expected = brute_force(model, layer, "output", width, digits.images.double(), digits.labels, 10)
    scores = leave_one_out(model, digits, layer=layer)
    torch.testing.assert_close(scores.scores, expected, rtol=1e-9, atol=1e-12)
    assert scores.layer == layer


# The package's function hides its module of the same name from a dotted path.
MODULE = import_module("igd_ray.ranking.leave_one_out")


@pytest.mark.parametrize("name", ["layer2", "layer2.conv1"])
@pytest.mark.parametrize(
    ("dtype", "rtol", "floor"), [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1.0)], ids=["float64", "float32"]
)
def test_the_memory_for_neurons_does_not_change_the_scores(
    digits, monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, rtol: float, floor: float
) -> None:
    model = demo_model().to(dtype)
    images = digits.images.to(dtype)
    layer = find_layer(model, name, images[:1])
    whole = leave_one_out_sums(model, layer, images, digits.labels, 10).totals
    for size in (0, 2**21, 2**23):
        monkeypatch.setattr(MODULE, "ABLATION_BYTES", size)
        assert_relative(leave_one_out_sums(model, layer, images, digits.labels, 10).totals, whole, rtol, floor=floor)


def neurons_per_call(model: nn.Module, behind: str, images: int) -> list[int]:
    """List, from now on, for how many neurons at once the module `behind` runs."""
    calls: list[int] = []
    model.get_submodule(behind).register_forward_hook(
        lambda _module, inputs, _output: calls.append(len(inputs[0]) // images)
    )
    return calls


class Widening(nn.Module):
    """Between a layer of 4 channels and the logits stands an activation of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 1)
        self.wide = nn.Conv2d(4, 64, 1)
        self.square = Square()
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.square(self.wide(self.layer(x))).mean(dim=(2, 3)))


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


def test_as_many_neurons_share_a_call_as_the_suffix_s_largest_activations_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = Widening().requires_grad_(False)
    images, labels = torch.rand(6, 1, 16, 16), torch.tensor([0, 1] * 3)
    layer = find_layer(model, "layer", images[:1])
    # For one neuron and its six images, in float32 on 16×16 positions: the wide activation and its square, 64
    # channels each, the activation itself, its copy for the layer, and half of that for what is small.
    one = 6 * 4 * 16 * 16 * (64 + 64 + 4 + 4 + 2)
    for at_once, expected in ((0, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (2, [1, 2, 1]), (3, [1, 3]), (9, [1, 3])):
        monkeypatch.setattr(MODULE, "ABLATION_BYTES", at_once * one)
        model = Widening().requires_grad_(False)
        calls = neurons_per_call(model, "wide", 6)
        leave_one_out_sums(model, layer, images, labels, 2)
        # Before come the model's own pass and less than a batch of images to see what the suffix is like.
        assert [count for count in calls if count > 0][1:] == expected


def test_memory_stays_within_its_bounds(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    model = demo_model()
    layer = find_layer(model, "layer1.conv1", digits.images[:1])
    prefix = SplitModel(model, layer).prefix(digits.images)
    for size in (2**23, 2**24):
        monkeypatch.setattr(MODULE, "ABLATION_BYTES", size)
        with PeakMemory() as memory:
            for _ in MODULE.ablated_logits(SplitModel(model, layer), prefix, range(16)):
                pass
        assert size / 2 < memory.peak <= size * 1.05


class NormalisingLinear(nn.Linear):
    """A classifier of the cosine: not linear in its input, whatever it inherits from."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(input, dim=1), self.weight)


def test_a_classifier_that_is_not_linear_is_ablated_and_not_solved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), NormalisingLinear(6, 2)).double()
    images, labels = torch.rand(8, 1, 2, 2).double(), torch.tensor([0, 1] * 4)
    expected = brute_force(model, "3", "input", 6, images, labels, 2)
    layer = find_layer(model, "penultimate", images[:1])
    scores = scores_of([leave_one_out_sums(model, layer, images, labels, 2)], layer)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)


def test_a_convolution_as_classifier() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten()
    ).double()
    images, labels = torch.rand(9, 1, 8, 8).double(), torch.tensor([0, 1, 2] * 3)
    layer = find_layer(model, "penultimate", images[:1])
    sums = leave_one_out_sums(model, layer, images, labels, 3)
    expected = brute_force(model, "3", "input", 6, images, labels, 3)
    torch.testing.assert_close(scores_of([sums], layer), expected, rtol=1e-9, atol=1e-12)


def test_neurons_of_tokens_are_ablated_in_every_token() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(x.reshape(len(x), 16, 4))).mean(dim=1))

    torch.manual_seed(0)
    model = Tokens().double()
    images, labels = torch.rand(6, 1, 8, 8).double(), torch.tensor([0, 1, 2] * 2)
    layer = find_layer(model, "embed", images[:1])
    totals = leave_one_out_sums(model, layer, images, labels, 3).totals
    with torch.no_grad():
        embedded = model.embed(images.reshape(6, 16, 4))
        for neuron in range(6):
            cut = embedded.clone()
            cut[:, :, neuron] = 0
            change = (model(images) - model.head(torch.tanh(cut).mean(dim=1))).abs()
            expected = [float(change[labels == label, label].sum()) for label in range(3)]
            assert totals[:, neuron].tolist() == pytest.approx(expected, rel=1e-9)


def test_fast_path_costs_one_pass_over_the_probe_set(digits) -> None:
    model = demo_model()
    layer = find_layer(model, "penultimate", digits.images[:1])
    counts = count_images(model)
    for images, labels in digits.batches(25):
        leave_one_out_sums(model, layer, images, labels, 10)
    assert set(counts.values()) == {60}


def test_ranking_costs_two_images_more_to_find_the_layer(digits) -> None:
    model = demo_model()
    counts = count_images(model)
    leave_one_out(model, digits, batch_size=25)
    assert set(counts.values()) == {60 + 2}


def test_ablation_runs_only_the_part_behind_the_layer_for_each_neuron(digits) -> None:
    model = demo_model()
    layer = find_layer(model, "layer2", digits.images[:1])
    # Leaves whose own forward runs; a module that gives back its recorded output does not call it.
    computed: Counter = Counter()
    for path, module in model.named_modules():
        if not list(module.children()):
            original = type(module).forward

            def counting(self, x, original=original, path=path):
                computed[path] += len(x)
                return original(self, x)

            module.__class__ = type(type(module).__name__, (type(module),), {"forward": counting})
    leave_one_out_sums(model, layer, digits.images, digits.labels, 10)
    before = {count for path, count in computed.items() if path.startswith(("conv1", "bn1", "layer1", "layer2"))}
    behind = {count for path, count in computed.items() if path.startswith(("layer3", "linear"))}
    assert before == {60}
    # The prefix's pass, which gives the unmasked logits, too, once for each of 32 neurons, and eight images to see
    # what the suffix is like.
    assert behind == {60 * (1 + 32) + 8}


@pytest.fixture(scope="module")
def cifar(shared: Path) -> tuple[nn.Module, LabeledImages]:
    """The model of width 16, and two training images of each class."""
    model = load_model(
        f"{shared}/models/cifar_resnet.py:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    probe = load_images(f"parquet:{shared}/data/cifar10/train.parquet", split="train", n=40)
    return model, probe.select(
        [int((probe.labels == label).nonzero()[place]) for label in range(10) for place in (0, -1)]
    )


def operations(call) -> int:
    """Count the floating-point operations of convolutions and matrix products in `call`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(("stage", "width"), [(1, 16), (2, 32), (3, 64), (4, 128)])
def test_stages_of_the_cifar_model_equal_brute_force_and_cost_their_suffix_for_each_neuron(
    cifar, stage: int, width: int
) -> None:
    model, probe = cifar
    name = f"layer{stage}"
    layer = find_layer(model, name, probe.images[:1])
    parts: list[LeaveOneOutSums] = []
    cost = operations(lambda: parts.append(leave_one_out_sums(model, layer, probe.images, probe.labels, 10)))
    expected = brute_force(model, name, "output", width, probe.images, probe.labels, 10)
    assert_relative(scores_of(parts, layer), expected, 1e-5, floor=1.0)

    def suffix() -> None:
        out = torch.zeros(20, *layer.shape)
        for later in range(stage + 1, 5):
            out = model.get_submodule(f"layer{later}")(out)
        model.linear(out.mean(dim=(2, 3)))

    whole, behind = operations(lambda: model(probe.images)), operations(suffix)
    assert behind < whole
    # One pass of the whole model, the suffix for each neuron, and for eight of the twenty images to see what it is.
    assert cost <= whole + width * behind + behind * 8 / 20


def test_layer4_of_the_cifar_model_costs_one_pass_as_its_suffix_is_linear(cifar) -> None:
    model, probe = cifar
    layer = find_layer(model, "layer4", probe.images[:1])
    cost = operations(lambda: leave_one_out_sums(model, layer, probe.images, probe.labels, 10))
    assert cost <= 1.001 * operations(lambda: model(probe.images))


class GatedByImage(nn.Module):
    """Behind `layer` all is linear, with a matrix that depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(1, 6, 3, padding=1)
        self.layer = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(4 * self.gate(x))
        return self.head((self.layer(x) * gate + gate).mean(dim=(2, 3)))


@pytest.mark.parametrize("every_class", [False, True])
def test_a_linear_suffix_of_each_image_s_own_equals_brute_force(every_class: bool) -> None:
    torch.manual_seed(0)
    model = GatedByImage().double().requires_grad_(False)
    images, labels = torch.rand(9, 1, 8, 8).double(), torch.tensor([0, 1, 2] * 3)
    layer = find_layer(model, "layer", images[:1])
    assert is_linear_suffix(model, layer, images)
    sums = leave_one_out_sums(model, layer, images, labels, 3, every_class=every_class)
    changes = ablated(model, layer, images)
    expected = changes.abs().sum(dim=1) if every_class else own_class(changes, labels).abs().sum(dim=1)
    torch.testing.assert_close(sums.totals, expected.T, rtol=1e-9, atol=1e-12)


def ablated(model: nn.Module, layer: Layer, images: Tensor) -> Tensor:
    """Return f_c − f_c^(−i), [neurons, images, classes], with one full pass for each neuron."""
    side = (
        (lambda module, hook: module.register_forward_pre_hook(lambda _module, inputs: (hook(inputs[0]),)))
        if (layer.side == "input")
        else (lambda module, hook: module.register_forward_hook(lambda _module, _inputs, output: hook(output)))
    )
    changes = []
    with torch.no_grad():
        full = model(images)
        for neuron in range(layer.width):
            keep = (torch.arange(layer.width) != neuron).to(images.dtype)
            shape = [1] * (len(layer.shape) + 1)
            shape[layer.axis] = layer.width
            handle = side(model.get_submodule(layer.module), lambda a, keep=keep, shape=shape: a * keep.view(shape))
            changes.append(full - model(images))
            handle.remove()
    return torch.stack(changes)


def own_class(changes: Tensor, labels: Tensor) -> Tensor:
    """Return the changes with zero for the classes that are not an image's own."""
    return changes * nn.functional.one_hot(labels, changes.shape[2])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("every_class", [False, True])
@pytest.mark.parametrize("name", ["penultimate", "layer3", "layer2", "layer3.bn1"])
def test_options_equal_brute_force(digits, name: str, every_class: bool, signed: bool) -> None:
    model, images = demo_model().double(), digits.images.double()
    changes = ablated(model, find_layer(model, name, images[:1]), images)
    changes = changes if signed else changes.abs()
    if every_class:
        expected = changes.mean(dim=1).T
    else:
        expected = (own_class(changes, digits.labels).sum(dim=1) / torch.bincount(digits.labels)).T
    scores = leave_one_out(model, digits, layer=name, every_class=every_class, signed=signed, batch_size=37)
    torch.testing.assert_close(scores.scores, expected, rtol=1e-9, atol=1e-12)
    assert (scores.details["every_class"], scores.details["signed"]) == (every_class, signed)


def test_options_by_hand() -> None:
    images = torch.tensor([[0.5, 0.25], [1.0, 0.75], [0.5, 0.5]]).view(3, 1, 1, 2)
    probe = labelled(images, [0, 0, 1], 2)
    # W = [[2, −1], [0.5, 4]]; the mean of a_0 is 0.75 on class 0, 0.5 on class 1 and 2/3 on all; of a_1 it is 0.5
    # on each.
    assert leave_one_out(two_neurons(), probe, signed=True).scores.tolist() == [[1.5, -0.5], [0.25, 2.0]]
    every = leave_one_out(two_neurons(), probe, every_class=True).scores
    assert every.flatten().tolist() == pytest.approx([4 / 3, 0.5, 1 / 3, 2.0])
    both = leave_one_out(two_neurons(), probe, every_class=True, signed=True).scores
    assert both.flatten().tolist() == pytest.approx([4 / 3, -0.5, 1 / 3, 2.0])


def test_with_every_class_each_mean_is_over_all_images_also_of_absent_classes() -> None:
    images = torch.rand(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    layer = find_layer(two_neurons(), "penultimate", images[:1])
    own = leave_one_out_sums(two_neurons(), layer, images, torch.tensor([1] * 5), 2)
    every = leave_one_out_sums(two_neurons(), layer, images, torch.tensor([1] * 5), 2, every_class=True)
    assert (own.counts.tolist(), every.counts.tolist()) == ([0, 5], [5, 5])
    assert torch.equal(every.totals[1], own.totals[1])
    assert leave_one_out(two_neurons(), labelled(images, [1] * 5, 2), every_class=True).scores[0].min() > 0


@pytest.mark.parametrize("name", ["layers.0", "layers.0.blocks.0.mlp.fc1", "layers.1", "norm"])
def test_a_transformer_with_channels_last_equals_brute_force(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 1)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **sizes).eval().double()
    images, labels = torch.rand(6, 3, 32, 32).double(), torch.tensor([0, 1, 2] * 2)
    layer = find_layer(model, name, images[:1])
    totals = leave_one_out_sums(model, layer, images, labels, 3).totals
    expected = own_class(ablated(model, layer, images), labels).abs().sum(dim=1).T
    torch.testing.assert_close(totals, expected, rtol=1e-9, atol=1e-12)
    assert float(totals.min(dim=0).values.max()) > 0


@pytest.mark.parametrize("name", ["penultimate", "layer3", "layer2"])
def test_autocast_outside_changes_nothing(digits, name: str) -> None:
    model = demo_model()
    expected = leave_one_out(model, digits, layer=name).scores
    with torch.autocast("cpu", torch.bfloat16):
        assert model(digits.images[:1]).dtype == torch.bfloat16
        assert torch.equal(leave_one_out(model, digits, layer=name).scores, expected)


@pytest.mark.parametrize("name", ["penultimate", "layer3", "layer2"])
def test_the_model_keeps_neither_hooks_nor_gradients(digits, name: str) -> None:
    model = demo_model().requires_grad_(True)
    with torch.enable_grad():
        scores = leave_one_out(model, digits, layer=name).scores
    assert not scores.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks_of(model) == 0
    assert not [path for path, module in model.named_modules() if "forward" in vars(module)]


def test_a_neuron_that_is_silent_on_every_image_scores_exactly_zero(digits) -> None:
    model = demo_model()
    model.layer2.bn2.weight.data[5] = 0
    model.layer2.bn2.bias.data[5] = -100
    scores = leave_one_out(model, digits, layer="layer2").scores
    assert (scores[:, 5] == 0).all()
    assert (scores[:, 4] > 0).all()


def test_a_model_with_another_number_of_classes_is_an_error(digits) -> None:
    layer = find_layer(demo_model(), "penultimate", digits.images[:1])
    with pytest.raises(InputError, match="the model has 10 classes, the probe set 7"):
        leave_one_out_sums(demo_model(), layer, digits.images, digits.labels.clamp(max=6), 7)


@pytest.mark.parametrize("name", ["penultimate", "layer2"])
def test_neuron_ranges_are_parts_of_the_whole(digits, name: str) -> None:
    model = demo_model().double()
    images = digits.images.double()
    layer = find_layer(model, name, images[:1])
    whole = leave_one_out_sums(model, layer, images, digits.labels, 10)
    bounds = [0, 5, 6, 31, layer.width]
    parts = [
        leave_one_out_sums(model, layer, images, digits.labels, 10, neurons=range(*pair)) for pair in pairwise(bounds)
    ]
    assert [part.totals.shape[1] for part in parts] == [5, 1, 25, layer.width - 31]
    torch.testing.assert_close(torch.cat([part.totals for part in parts], dim=1), whole.totals, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(part.counts, whole.counts) for part in parts)


@pytest.mark.parametrize("name", ["penultimate", "layer3"])
def test_image_shards_merge_to_the_whole(digits, name: str) -> None:
    model = demo_model().double()
    images = digits.images.double()
    layer = find_layer(model, name, images[:1])
    parts = [
        leave_one_out_sums(model, layer, images[start:stop], digits.labels[start:stop], 10)
        for start, stop in ((0, 1), (1, 7), (7, 60))  # the first shards lack classes
    ]
    expected = leave_one_out(model, digits, layer=name).scores
    torch.testing.assert_close(scores_of(parts, layer), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(sum(part.counts for part in parts), torch.bincount(digits.labels, minlength=10))


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_the_batch_size_does_not_count(digits, batch_size: int) -> None:
    model = demo_model().double()
    expected = leave_one_out(model, digits).scores
    torch.testing.assert_close(leave_one_out(model, digits, batch_size=batch_size).scores, expected)


def test_every_class_is_divided_by_its_own_number_of_images() -> None:
    images = torch.full((4, 1, 1, 2), 0.5)
    # Three images of class 0, one of class 1, all alike: the means are those of one image.
    scores = leave_one_out(two_neurons(), labelled(images, [0, 0, 0, 1], 2)).scores
    assert scores.tolist() == [[1.0, 0.5], [0.25, 2.0]]


def test_a_class_without_probe_images_is_an_error(digits) -> None:
    probe = digits.select([index for index, label in enumerate(digits.labels.tolist()) if label not in (3, 7)])
    with pytest.raises(InputError, match=r"no image of 2 of 10 classes \(three, seven\)"):
        leave_one_out(demo_model(), probe)


def test_a_layer_without_neurons_is_an_error(digits) -> None:
    class WithCount(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = demo_model()
            self.odd = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(self.odd(x)[0])

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(
        InputError, match=r"'odd' cannot be masked.*layers that can be masked: penultimate, model, model"
    ):
        leave_one_out(WithCount(), digits, layer="odd")


def test_an_unknown_layer_names_close_matches_and_the_layers(digits) -> None:
    with pytest.raises(InputError, match=r"no layer 'layer4'.*penultimate, conv1.*did you mean 'layer3'"):
        leave_one_out(demo_model(), digits, layer="layer4")
