"""The two-pass defense against the two passes written out, by hand and with hooks of the test's own."""

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.data import load_images
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import InputError
from igd_ray.models import find_layer
from igd_ray.models.demo import demo_model
from tests.toys.counting import hooks_of
from tests.toys.models import LinearModel

DIGITS = load_images("digits", n=12).images


def random_masks(classes: int, neurons: int, k: int) -> Tensor:
    return class_masks(torch.rand(classes, neurons, generator=torch.Generator().manual_seed(2)), k)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given_noise(draws: int, x: Tensor) -> Tensor:
    return torch.randn(draws, *x.shape, generator=seeded(7), dtype=x.dtype)


def demo_trunk(model: nn.Module, x: Tensor, weights: Tensor | None = None, at: str = "penultimate") -> Tensor:
    """The demo network written as one expression, with the neurons at `at` multiplied by `weights` [B, N]."""

    def mask(activation: Tensor, name: str) -> Tensor:
        if weights is None or name != at:
            return activation
        return activation * (weights[:, :, None, None] if activation.ndim == 4 else weights)

    out = functional.relu(model.bn1(model.conv1((x - 0.3058) / 0.3755)))
    for name in ("layer1", "layer2", "layer3"):
        out = mask(getattr(model, name)(out), name)
    return model.linear(mask(out.mean(dim=(2, 3)), "penultimate"))


def transcription(model, masks, x, *, sigma, tau=0.01, noise=None, layer="penultimate") -> Tensor:
    """Eq. 6 and eq. 4: ỹ = softmax(mean_j f(x + σ n_j) / τ), then h((ỹ M) ⊙ a(x)) with the clean x."""
    if sigma == 0:
        first = demo_trunk(model, x)
    else:
        first = sum(demo_trunk(model, x + sigma * one) for one in noise) / len(noise)
    soft_labels = torch.softmax(first / tau, dim=1)
    return demo_trunk(model, x, soft_labels @ masks.to(x.dtype), layer)


TWO_NEURONS = [[2.0, 1.0], [1.0, 3.0]]
X = torch.tensor([[[[0.5, 0.25]]]])


def test_two_neurons_by_hand() -> None:
    # First pass: z = (2·0.5 + 0.25, 0.5 + 3·0.25) = (1.25, 1.25): ỹ = (1/2, 1/2) whatever τ.
    # M = [[1, 0], [0, 1]]: ỹ M = (1/2, 1/2); masked a = (0.25, 0.125)
    # Second pass: (2·0.25 + 0.125, 0.25 + 3·0.125) = (0.625, 0.625)
    defense = InterpretabilityGuidedDefense(LinearModel(TWO_NEURONS), torch.eye(2), sigma=0)
    assert defense(X).tolist() == [[0.625, 0.625]]
    # M = [[1, 1], [0, 1]] keeps neuron 1 for both: ỹ M = (1/2, 1); a = (0.25, 0.25): (0.75, 1)
    defense = InterpretabilityGuidedDefense(LinearModel(TWO_NEURONS), torch.tensor([[1.0, 1.0], [0.0, 1.0]]), sigma=0)
    assert defense(X).tolist() == [[0.75, 1.0]]


def test_noise_by_hand() -> None:
    # σ = 0.5 and n = (1, 0): x + σn = (1, 0.25), z = (2.25, 1.75). τ = 0.5 / log 3 makes ỹ = (3/4, 1/4).
    # M = I: the clean a = (0.5, 0.25) becomes (0.375, 0.0625): (0.8125, 0.5625)
    tau = 0.5 / float(torch.log(torch.tensor(3.0)))
    defense = InterpretabilityGuidedDefense(
        LinearModel(TWO_NEURONS), torch.eye(2), sigma=0.5, tau=tau, generator=seeded()
    )
    noise = torch.tensor([[[[1.0, 0.0]]]])
    assert defense(X, noise=noise).flatten().tolist() == pytest.approx([0.8125, 0.5625])
    # Two draws, the second n = (−3, 0): z = (−1.75, −0.25); the mean of the logits is (0.25, 0.75).
    # The mean is taken before the softmax: ỹ = (1/4, 3/4), a = (0.125, 0.1875): (0.4375, 0.6875)
    defense = InterpretabilityGuidedDefense(
        LinearModel(TWO_NEURONS), torch.eye(2), sigma=0.5, tau=tau, draws=2, generator=seeded()
    )
    noise = torch.stack([noise, torch.tensor([[[[-3.0, 0.0]]]])])
    assert defense(X, noise=noise).flatten().tolist() == pytest.approx([0.4375, 0.6875])


@pytest.mark.parametrize("layer", ["penultimate", "layer1", "layer2", "layer3"])
@pytest.mark.parametrize(("sigma", "draws"), [(0, 1), (0.1, 1), (0.1, 4)])
@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_equals_the_two_passes_written_out(layer: str, sigma: float, draws: int, tau: float) -> None:
    model, x = demo_model().double(), DIGITS.double()
    masks = random_masks(10, {"penultimate": 64, "layer1": 16, "layer2": 32, "layer3": 64}[layer], 12)
    noise = given_noise(draws, x)
    defense = InterpretabilityGuidedDefense(
        model, masks, layer=layer, sigma=sigma, tau=tau, draws=draws, generator=seeded()
    )
    expected = transcription(model, masks, x, sigma=sigma, tau=tau, noise=noise, layer=layer)
    torch.testing.assert_close(defense(x, noise=noise), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(expected, model(x), atol=1e-3)  # the masks do something


@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
@pytest.mark.parametrize(("sigma", "draws"), [(0, 1), (0.1, 1), (0.1, 4)])
def test_gradients_flow_through_both_passes(layer: str, sigma: float, draws: int) -> None:
    model = demo_model().double()
    masks = random_masks(10, 64 if layer == "penultimate" else 32, 12)
    x, labels = DIGITS.double(), torch.arange(12) % 10
    noise = given_noise(draws, x)
    defense = InterpretabilityGuidedDefense(
        model, masks, layer=layer, sigma=sigma, tau=1.0, draws=draws, generator=seeded()
    )

    def gradient(function) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(function(leaf), labels), leaf)[0]

    expected = gradient(lambda leaf: transcription(model, masks, leaf, sigma=sigma, tau=1.0, noise=noise, layer=layer))
    given = gradient(lambda leaf: defense(leaf, noise=noise))
    torch.testing.assert_close(given, expected, rtol=1e-8, atol=1e-10)

    def first_pass_detached(leaf: Tensor) -> Tensor:
        weights = defense.neuron_weights(defense.first_logits(leaf, noise=noise)).detach()
        return demo_trunk(model, leaf, weights, layer)

    assert not torch.allclose(gradient(first_pass_detached), expected, rtol=1e-2)


@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
@pytest.mark.parametrize("sigma", [0, 0.1])
def test_keeping_every_neuron_is_the_base_model(layer: str, sigma: float) -> None:
    model = demo_model()
    masks = torch.ones(10, 64 if layer == "penultimate" else 32)
    defense = InterpretabilityGuidedDefense(model, masks, layer=layer, sigma=sigma, generator=seeded())
    torch.testing.assert_close(defense(DIGITS), model(DIGITS), rtol=1e-5, atol=1e-5)


def test_a_convolution_as_classifier() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten()
    ).eval()
    masks, noise = random_masks(3, 6, 2), given_noise(1, DIGITS)
    activation = torch.relu(model[0](DIGITS)).mean(dim=(2, 3))
    weight, bias = model[3].weight.flatten(1), model[3].bias
    for sigma in (0, 0.1):
        defense = InterpretabilityGuidedDefense(model, masks, sigma=sigma, tau=0.05, generator=seeded())
        soft_labels = torch.softmax(model(DIGITS + sigma * noise[0]) / 0.05, dim=1)
        expected = (soft_labels @ masks * activation) @ weight.T + bias
        torch.testing.assert_close(defense(DIGITS, noise=noise), expected)


def test_first_logits_and_masked_logits_are_the_two_halves() -> None:
    model, masks = demo_model(), random_masks(10, 64, 12)
    noise = given_noise(2, DIGITS)
    defense = InterpretabilityGuidedDefense(model, masks, sigma=0.1, draws=2, generator=seeded())
    first = defense.first_logits(DIGITS, noise=noise)
    torch.testing.assert_close(first, (model(DIGITS + 0.1 * noise[0]) + model(DIGITS + 0.1 * noise[1])) / 2)
    halves = defense.masked_logits(DIGITS, defense.pseudo_labels(first))
    torch.testing.assert_close(halves, defense(DIGITS, noise=noise))
    # Given labels one-hot, the second pass keeps the neurons of that class alone.
    one_hot = functional.one_hot(torch.full((12,), 3), 10).float()
    expected = demo_trunk(model, DIGITS, masks[3].expand(12, -1))
    torch.testing.assert_close(defense.masked_logits(DIGITS, one_hot), expected)


def test_noise_has_the_given_deviation_and_is_not_clipped() -> None:
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return self.linear(x.flatten(1))

    x = torch.zeros(400, 1, 8, 8)
    defense = InterpretabilityGuidedDefense(Watched(), torch.ones(10, 64), sigma=0.3, draws=2, generator=seeded())
    defense(x[:1])
    seen.clear()
    defense(x)
    noisy, clean = seen
    assert len(noisy) == 800
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)  # 51 200 values: ten standard errors are 3 %
    assert float(noisy.mean()) == pytest.approx(0, abs=0.01)
    assert noisy.min() < -0.6
    assert not torch.equal(noisy[:400], noisy[400:])  # every draw has its own
    assert torch.equal(clean, x)


def test_noise_comes_from_the_given_generator_and_never_from_the_global_one() -> None:
    model, masks = demo_model(), random_masks(10, 64, 5)
    state = torch.get_rng_state()

    def defended(seed: int) -> InterpretabilityGuidedDefense:
        return InterpretabilityGuidedDefense(model, masks, sigma=0.2, tau=1.0, generator=seeded(seed))

    defense = defended(0)
    first, second = defense(DIGITS), defense(DIGITS)
    assert not torch.equal(first, second)  # fresh noise at every call
    again = defended(0)
    assert torch.equal(again(DIGITS), first)
    assert torch.equal(again(DIGITS), second)
    assert not torch.equal(defended(1)(DIGITS), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_given_noise_leaves_the_generator_alone() -> None:
    generator = seeded()
    defense = InterpretabilityGuidedDefense(demo_model(), random_masks(10, 64, 5), sigma=0.2, generator=generator)
    state = generator.get_state()
    one = given_noise(1, DIGITS)
    assert torch.equal(defense(DIGITS, noise=one), defense(DIGITS, noise=one[0]))  # with one draw, either shape
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("shape", [(12, 2, 1, 8, 8), (12, 1, 8, 8), (1, 12, 1, 8, 8), (2, 1, 1, 8, 8)])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    defense = InterpretabilityGuidedDefense(
        demo_model(), random_masks(10, 64, 5), sigma=0.2, draws=2, generator=seeded()
    )
    with pytest.raises(InputError, match=r"noise must be \[draws, \*x.shape\] = \[2, 12, 1, 8, 8\]"):
        defense(DIGITS, noise=torch.zeros(shape))


def test_without_noise_two_calls_are_equal_and_no_generator_is_needed() -> None:
    defense = InterpretabilityGuidedDefense(demo_model(), random_masks(10, 64, 5), sigma=0)
    assert torch.equal(defense(DIGITS), defense(DIGITS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.1}, "needs generator"),
        ({"sigma": -0.1}, "sigma must be at least 0"),
        ({"sigma": float("nan")}, "sigma must be at least 0"),
        ({"sigma": 0, "tau": 0}, "tau must be positive, not 0"),
        ({"sigma": 0, "tau": -1}, "tau must be positive"),
        ({"sigma": 0, "tau": float("nan")}, "tau must be positive"),
        ({"sigma": 0, "draws": 0}, "draws must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InterpretabilityGuidedDefense(demo_model(), torch.ones(10, 64), **settings)


def test_masks_must_be_a_matrix() -> None:
    with pytest.raises(InputError, match=r"masks must be \[classes, neurons\], not \[64\]"):
        InterpretabilityGuidedDefense(demo_model(), torch.ones(64), sigma=0)


@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("width", [1, 63, 128])
def test_masks_of_another_width_are_refused(width: int, found: bool) -> None:
    model = demo_model()
    layer = find_layer(model, "penultimate", DIGITS[:1]) if found else "penultimate"
    with pytest.raises(InputError, match=f"masks have {width} neurons, layer 'penultimate' has 64"):
        InterpretabilityGuidedDefense(model, torch.ones(10, width), layer=layer, sigma=0)(DIGITS)


@pytest.mark.parametrize(("layer", "neurons"), [("penultimate", 64), ("layer2", 32)])
def test_masks_of_another_number_of_classes_are_refused(layer: str, neurons: int) -> None:
    defense = InterpretabilityGuidedDefense(demo_model(), torch.ones(9, neurons), layer=layer, sigma=0)
    with pytest.raises(InputError, match="masks have 9 classes, the model has 10"):
        defense(DIGITS)


@pytest.mark.parametrize(("layer", "sigma", "draws"), [("penultimate", 0, 1), ("layer2", 0, 1), ("layer2", 0.1, 3)])
def test_the_base_model_stays_as_it_was(layer: str, sigma: float, draws: int) -> None:
    model = demo_model()
    weights, logits = copy.deepcopy(model.state_dict()), model(DIGITS)
    own = [sorted(vars(module)) for module in model.modules()]
    masks = random_masks(10, 64 if layer == "penultimate" else 32, 5)
    defense = InterpretabilityGuidedDefense(model, masks, layer=layer, sigma=sigma, draws=draws, generator=seeded())
    defense(DIGITS)
    assert hooks_of(model) == 0
    assert [sorted(vars(module)) for module in model.modules()] == own
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model(DIGITS), logits)


@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
@pytest.mark.parametrize("sigma", [0, 0.1])
def test_no_hook_survives_an_exception(layer: str, sigma: float) -> None:
    model = demo_model()
    masks = random_masks(10, 64 if layer == "penultimate" else 32, 5)
    defense = InterpretabilityGuidedDefense(model, masks, layer=layer, sigma=sigma, generator=seeded())
    expected = defense(DIGITS, noise=given_noise(1, DIGITS))

    def fail(_module: nn.Module, _inputs: object) -> None:
        raise RuntimeError("on purpose")

    handle = model.layer3.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        defense(DIGITS)
    with pytest.raises(RuntimeError, match="on purpose"):
        defense.masked_logits(DIGITS, torch.ones(12, 10) / 10)
    handle.remove()
    assert hooks_of(model) == 0
    assert torch.equal(defense(DIGITS, noise=given_noise(1, DIGITS)), expected)


@pytest.mark.parametrize(
    ("layer", "sigma", "draws", "passes"),
    [
        ("penultimate", 0, 1, 1),  # the first pass's activation serves the second
        ("penultimate", 0, 4, 1),
        ("layer2", 0, 1, 2),
        ("penultimate", 0.1, 1, 2),
        ("penultimate", 0.1, 4, 5),
        ("layer2", 0.1, 4, 5),
    ],
)
def test_passes_are_as_many_as_stated(layer: str, sigma: float, draws: int, passes: int) -> None:
    model = demo_model()
    found = find_layer(model, layer, DIGITS[:1])
    masks = random_masks(10, found.width, 5)
    defense = InterpretabilityGuidedDefense(model, masks, layer=found, sigma=sigma, draws=draws, generator=seeded())
    images: Counter = Counter()
    model.conv1.register_forward_hook(lambda _module, inputs, _output: images.update(conv1=len(inputs[0])))
    defense(DIGITS)
    assert images["conv1"] == passes * 12
    assert defense.forward_passes == passes


def test_a_layer_given_by_name_costs_a_look_at_the_first_call() -> None:
    model = demo_model()
    defense = InterpretabilityGuidedDefense(model, random_masks(10, 64, 5), sigma=0)
    images: list[int] = []
    model.conv1.register_forward_hook(lambda _module, inputs, _output: images.append(len(inputs[0])))
    defense(DIGITS)
    assert 12 < sum(images) < 24
    images.clear()
    defense(DIGITS)
    assert images == [12]


def test_no_images_give_no_logits() -> None:
    for sigma in (0, 0.1):
        defense = InterpretabilityGuidedDefense(
            demo_model(), random_masks(10, 64, 5), sigma=sigma, draws=2, generator=seeded()
        )
        defense(DIGITS)
        assert defense(DIGITS[:0]).shape == (0, 10)


def test_shown_settings() -> None:
    defense = InterpretabilityGuidedDefense(
        demo_model(), random_masks(10, 64, 5), sigma=0.05, draws=2, generator=seeded()
    )
    assert "k=5, layer=penultimate, sigma=0.05, tau=0.01, draws=2" in repr(defense)
