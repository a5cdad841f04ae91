"""Clean accuracy from caches is the accuracy of the defense itself, prediction by prediction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from igd_ray.data import load_images
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import InputError
from igd_ray.models.demo import demo_model
from igd_ray.search import CachedObjective, CleanAccuracy, Noise, Setting

DIGITS = load_images("digits", n=80)
SCORES = torch.rand(10, 64, generator=torch.Generator().manual_seed(0))
SIGMA, DRAWS = 0.15, 2
FIRST = Noise(SIGMA, DRAWS)
NOISE = torch.randn(DRAWS, *DIGITS.images.shape, generator=torch.Generator().manual_seed(1))


def classifier_input(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    taken: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    return taken[0]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return demo_model()


@pytest.fixture(scope="module")
def objective(model: nn.Module) -> CachedObjective:
    with torch.no_grad():
        noisy = torch.stack([model(DIGITS.images + SIGMA * noise) for noise in NOISE]).mean(dim=0)
        base = model(DIGITS.images)
    activations = classifier_input(model, model.linear, DIGITS.images)
    return CachedObjective(activations, {FIRST: noisy}, base, DIGITS.labels, model.linear)


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, 64), tau=st.sampled_from([1e-3, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0]))
def test_predictions_are_the_defense_s_own_on_the_same_noise(model, objective, k: int, tau: float) -> None:
    masks = class_masks(SCORES, k)
    defense = InterpretabilityGuidedDefense(
        model, masks, sigma=SIGMA, tau=tau, draws=DRAWS, generator=torch.Generator()
    )
    with torch.no_grad():
        logits = defense(DIGITS.images, noise=NOISE)
    predictions = objective.predictions(masks, FIRST, tau)
    # Two classes that tie to the last digit may be told apart by rounding; nothing else may differ.
    best, second = logits.topk(2, dim=1).values.unbind(dim=1)
    decided = best - second > 1e-4
    assert decided.float().mean() > 0.9
    assert torch.equal(predictions[decided], logits.argmax(dim=1)[decided])


def test_the_settings_matter(objective) -> None:
    """So that the comparison above compares something."""
    search = CleanAccuracy([objective], SCORES)
    settings = [Setting(k, SIGMA, tau, DRAWS) for k in (1, 8, 64) for tau in (0.01, 10.0)]
    assert len({search.measure(setting).accuracy for setting in settings}) > 3


def test_measured_beside_the_base_model_class_by_class(model, objective) -> None:
    half = slice(0, 37), slice(37, 80)
    parts = [
        CachedObjective(
            objective.activations[part],
            {FIRST: objective.first_logits[FIRST][part]},
            model(DIGITS.images[part]).detach(),
            DIGITS.labels[part],
            model.linear,
        )
        for part in half
    ]
    measured = CleanAccuracy(parts, SCORES).measure(Setting(3, SIGMA, 0.5, DRAWS))
    base = model(DIGITS.images).argmax(dim=1) == DIGITS.labels
    right = objective.predictions(class_masks(SCORES, 3), FIRST, 0.5) == DIGITS.labels
    for label in range(10):
        own = DIGITS.labels == label
        counts = [own, own & base, own & right & ~base, own & base & ~right]
        found = (measured.images, measured.base_correct, measured.gained, measured.lost)
        assert [each[label] for each in found] == [int(count.sum()) for count in counts]
    assert measured.accuracy == int(right.sum()) / 80
    assert measured.base_accuracy == int(base.sum()) / 80


def test_a_k_for_each_class(objective) -> None:
    search = CleanAccuracy([objective], SCORES)
    same = search.measure(Setting((8,) * 10, SIGMA, 0.01, DRAWS))
    assert same == search.measure(Setting(8, SIGMA, 0.01, DRAWS))
    assert same != search.measure(Setting((1, *[8] * 9), SIGMA, 0.01, DRAWS))


def test_without_masking_it_is_the_base_model(model, objective) -> None:
    base = model(DIGITS.images).argmax(dim=1)
    assert torch.equal(objective.base_predictions, base)
    assert torch.equal(objective.predictions(torch.ones(10, 64), FIRST, 0.01), base)


def test_by_hand() -> None:
    # Two neurons, two classes, head = identity; the first pass decides for class 0, 0 and 1.
    activations = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 1.0]])
    first = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    objective = CachedObjective(activations, {FIRST: first}, activations, torch.tensor([0, 0, 1]), nn.Identity())
    # With M = I each keeps its own class's neuron: 0, 0, 1; exchanged masks keep the other's: 1, 1, 0.
    assert objective.base_predictions.tolist() == [1, 0, 0]
    assert objective.predictions(torch.eye(2), FIRST, 0.01).tolist() == [0, 0, 1]
    assert objective.predictions(torch.eye(2).flip(0), FIRST, 0.01).tolist() == [1, 1, 0]
    # k = 1 with scores I is M = I: of labels 0, 0, 1 the base model has one right, the defense all.
    measured = CleanAccuracy([objective], torch.eye(2)).measure(Setting(1, SIGMA, 0.01, DRAWS))
    assert measured.images == (2, 1)
    assert measured.base_correct == (1, 0)
    assert (measured.gained, measured.lost) == ((1, 1), (0, 0))
    assert (measured.base_accuracy, measured.accuracy) == (pytest.approx(1 / 3), 1.0)


def test_neurons_on_another_axis() -> None:
    # Two positions of three neurons each, as in a transformer: [n, positions, neurons].
    activations = torch.arange(12.0).reshape(2, 2, 3)
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    masks = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    seen: list[Tensor] = []

    def suffix(masked: Tensor) -> Tensor:
        seen.append(masked)
        return logits

    objective = CachedObjective(activations, {FIRST: logits}, logits, torch.tensor([0, 1]), suffix, axis=2)
    objective.predictions(masks, FIRST, 0.01)
    assert seen[0].tolist() == [[[0, 0, 0], [3, 0, 0]], [[0, 0, 8], [0, 0, 11]]]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_convolution_as_classifier(k: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten()
    ).eval()
    labels = torch.zeros(80, dtype=torch.int64)
    masks = class_masks(SCORES[:3, :6], k)
    with torch.no_grad():
        logits = model(DIGITS.images)
        expected = InterpretabilityGuidedDefense(model, masks, sigma=0, tau=0.1)(DIGITS.images).argmax(dim=1)
    activations = classifier_input(model, model[3], DIGITS.images)
    assert activations.shape == (80, 6, 1, 1)
    objective = CachedObjective(activations, {FIRST: logits}, logits, labels, model[3])
    assert torch.equal(objective.predictions(masks, FIRST, 0.1), expected)


@pytest.mark.parametrize("wrong", range(4))
def test_caches_of_different_images_are_refused(wrong: int) -> None:
    caches = [torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)]
    caches[wrong] = caches[wrong][:4]
    with pytest.raises(InputError, match=r"lengths are \[4, 5\]"):
        CachedObjective(caches[0], {FIRST: caches[1]}, caches[2], caches[3], nn.Identity())
