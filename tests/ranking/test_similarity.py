"""The similarity functions of CD-IR against their formulas written out as loops over plain floats."""

import itertools
import math
import time
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igd_ray.errors import InputError
from igd_ray.ranking import SIMILARITIES, rank_reorder, soft_wpmi, wpmi
from igd_ray.ranking.clip_dissect import default_top_k, require_top_images, similarity_function

# The package has a function of the module's name.
MODULE = import_module("igd_ray.ranking.clip_dissect")

seeds = st.integers(0, 2**31)
every_similarity = pytest.mark.parametrize("compare", SIMILARITIES.values(), ids=SIMILARITIES)


def sample(seed: int, images: int = 12, classes: int = 3, neurons: int = 5, dtype=torch.float64) -> tuple[Tensor, ...]:
    """Cosine similarities [D, C], positive as CLIP's are, and activations [D, N]."""
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(images, classes, generator=generator, dtype=dtype) * 0.9 + 0.05
    return cosines, torch.randn(images, neurons, generator=generator, dtype=dtype)


def softmax_rows(cosines: Tensor, inverse_temperature: float) -> list[list[float]]:
    rows = []
    for row in cosines.tolist():
        powers = [math.exp(inverse_temperature * value) for value in row]
        rows.append([power / sum(powers) for power in powers])
    return rows


def top_images(activations: Tensor, neuron: int, top_k: int) -> list[int]:
    column = activations[:, neuron].tolist()
    return sorted(range(len(column)), key=lambda image: (-column[image], image))[:top_k]


def information(likelihood: list[list[float]], popularity_weight: float) -> Tensor:
    """I(i, c) = L(i, c) − λ·(log Σ_i' exp L(i', c) − log N), [C, N], of L [N][C]."""
    neurons, classes = len(likelihood), len(likelihood[0])
    scores = torch.zeros(classes, neurons, dtype=torch.float64)
    for label in range(classes):
        popularity = math.log(sum(math.exp(likelihood[i][label]) for i in range(neurons))) - math.log(neurons)
        for neuron in range(neurons):
            scores[label, neuron] = likelihood[neuron][label] - popularity_weight * popularity
    return scores


def soft_wpmi_by_loops(cosines: Tensor, activations: Tensor, top_k: int) -> Tensor:
    probability = softmax_rows(cosines, 10)
    likelihood = []
    for neuron in range(activations.shape[1]):
        likelihood.append([0.0] * cosines.shape[1])
        for label in range(cosines.shape[1]):
            for place, image in enumerate(top_images(activations, neuron, top_k)):
                p = 0.998 - (place / top_k) * (0.998 - 0.97)
                likelihood[-1][label] += math.log(1 + p * (probability[image][label] - 1) + 1e-7)
    return information(likelihood, 1)


def wpmi_by_loops(cosines: Tensor, activations: Tensor, top_k: int) -> Tensor:
    probability = softmax_rows(cosines, 2)
    likelihood = []
    for neuron in range(activations.shape[1]):
        top = top_images(activations, neuron, top_k)
        likelihood.append([sum(math.log(probability[x][c] + 1e-7) for x in top) for c in range(cosines.shape[1])])
    return information(likelihood, 0.6)


def rank_reorder_by_loops(cosines: Tensor, activations: Tensor, top_k: int) -> Tensor:
    scores = torch.zeros(cosines.shape[1], activations.shape[1], dtype=torch.float64)
    for neuron in range(activations.shape[1]):
        top = top_images(activations, neuron, top_k)
        target = [float(activations[image, neuron]) for image in top]
        chance = sum(abs(a - b) ** 3 for a in target for b in target) / top_k**2
        for label in range(cosines.shape[1]):
            seen = [float(cosines[image, label]) for image in top]
            by_similarity = sorted(range(top_k), key=lambda place: seen[place])
            reordered = dict(zip(by_similarity, sorted(target), strict=True))
            error = sum(abs(target[place] - reordered[place]) ** 3 for place in range(top_k)) / top_k
            scores[label, neuron] = -(error / chance) / math.sqrt(sum(seen) / top_k)
    return scores


BY_LOOPS = {"soft-wpmi": soft_wpmi_by_loops, "wpmi": wpmi_by_loops, "rank-reorder": rank_reorder_by_loops}
DEFAULT_TOP_K = {"soft-wpmi": 100, "wpmi": 28, "rank-reorder": 15}  # of 300 images: constants of the authors' code


@pytest.mark.parametrize("name", SIMILARITIES)
@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 12), st.integers(1, 4), st.integers(1, 6))
def test_equals_the_formula_written_out(name: str, seed: int, top_k: int, classes: int, neurons: int) -> None:
    cosines, activations = sample(seed, classes=classes, neurons=neurons)
    scores = SIMILARITIES[name](cosines, activations, top_k=top_k)
    assert scores.shape == (classes, neurons)
    torch.testing.assert_close(scores, BY_LOOPS[name](cosines, activations, top_k), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_default_top_k_is_the_authors_and_float32_inputs_are_not_summed_in_float32(name: str) -> None:
    cosines, activations = sample(0, images=300, neurons=20, dtype=torch.float32)
    scores = SIMILARITIES[name](cosines, activations)
    assert scores.dtype == torch.float64
    assert default_top_k(name, 300) == DEFAULT_TOP_K[name]
    expected = BY_LOOPS[name](cosines.double(), activations.double(), DEFAULT_TOP_K[name])
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_soft_wpmi_of_one_image_by_hand() -> None:
    # Equal similarities: P = (1/2, 1/2). One top image: p_0 = 0.998, so L = log(1 − 0.499 + 1e-7) everywhere,
    # and with equal L the popularity is L: the scores are 0.
    scores = soft_wpmi(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), top_k=1)
    assert scores.flatten().tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_soft_wpmi_of_two_images_by_hand() -> None:
    # Image 0 is surely class 0, image 1 surely class 1: P is 0 or 1 up to e^(−20).
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    activations = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # neuron i prefers image i
    # For each class: L is log(1 + 1e-7) for its own neuron and log(0.002 + 1e-7) for the other, whose likelihoods
    # 1 and 0.002 have the mean 0.501.
    scores = soft_wpmi(cosines, activations, top_k=1)
    own, other = math.log(1 / 0.501), math.log(0.002 / 0.501)
    assert scores.flatten().tolist() == pytest.approx([own, other, other, own], abs=1e-4)


def test_wpmi_by_hand() -> None:
    # P = (1/2, 1/2) for both images, so L = 2·log(1/2 + 1e-7), the popularity is L, and I = 0.4·L.
    scores = wpmi(torch.ones(2, 2), torch.tensor([[1.0], [2.0]]), top_k=2)
    assert scores.flatten().tolist() == pytest.approx([0.8 * math.log(0.5 + 1e-7)] * 2, abs=1e-12)


def test_rank_reorder_by_hand() -> None:
    # Activations 3, 1, 0. Class 0 orders the images alike: no error. Class 1 swaps the last two, so that image 1
    # gets 0 and image 2 gets 1: (0 + 1 + 1)/3. By chance, over the nine pairs: 2·(2³ + 3³ + 1³)/9 = 8.
    cosines = torch.tensor([[0.9, 0.9], [0.5, 0.2], [0.1, 0.4]])
    scores = rank_reorder(cosines, torch.tensor([[3.0], [1.0], [0.0]]), top_k=3)
    assert scores.flatten().tolist() == pytest.approx([0, -(2 / 3 / 8) / math.sqrt(0.5)], abs=1e-7)


def test_the_errors_of_rank_reorder_are_relative_to_the_mean_over_all_orders() -> None:
    """The authors' code estimates this mean from five random orders."""
    values = [2.0, 1.7, 0.4, 0.1, -1.0]
    orders = list(itertools.permutations(values))
    mean = sum(sum(abs(a - b) ** 3 for a, b in zip(values, order, strict=True)) / 5 for order in orders) / len(orders)
    worst = sum(abs(a - b) ** 3 for a, b in zip(values, reversed(values), strict=True)) / 5
    rising = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)[:, None]  # mean 0.3
    scores = rank_reorder(rising, torch.tensor(values, dtype=torch.float64)[:, None], top_k=5)
    assert scores.item() == pytest.approx(-worst / mean / math.sqrt(0.3), rel=1e-12)


def test_rank_reorder_is_finite_where_the_authors_code_is_not() -> None:
    cosines, activations = sample(0)
    activations[:, 2] = 0  # all top activations equal: no order to get wrong or right, so as good as chance
    scores = rank_reorder(cosines, activations, top_k=4)
    assert scores[:, 2].tolist() == pytest.approx((-1 / cosines[:4].mean(dim=0).sqrt()).tolist())
    lower = rank_reorder(cosines - 1, activations, top_k=4)  # negative means under the square root
    assert torch.isfinite(lower).all()
    assert (lower <= scores).all()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_order_of_the_images_does_not_count(name: str) -> None:
    for seed in range(20):
        cosines, activations = sample(seed)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        expected = SIMILARITIES[name](cosines, activations, top_k=5)
        torch.testing.assert_close(SIMILARITIES[name](cosines[order], activations[order], top_k=5), expected)


@every_similarity
@settings(max_examples=25, deadline=None)
@given(seeds)
def test_neurons_and_classes_keep_their_scores_in_another_order(compare: Callable[..., Tensor], seed: int) -> None:
    cosines, activations = sample(seed)
    generator = torch.Generator().manual_seed(seed)
    neurons, classes = torch.randperm(5, generator=generator), torch.randperm(3, generator=generator)
    expected = compare(cosines, activations, top_k=4)[classes][:, neurons]
    torch.testing.assert_close(compare(cosines[:, classes], activations[:, neurons], top_k=4), expected)


@every_similarity
@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 100), st.floats(-5, 5))
def test_scale_and_origin_of_activations_do_not_count(
    compare: Callable[..., Tensor], seed: int, scale: float, shift: float
) -> None:
    cosines, activations = sample(seed)
    expected = compare(cosines, activations, top_k=4)
    torch.testing.assert_close(compare(cosines, activations * scale + shift, top_k=4), expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_mean_likelihood_ratio_of_every_class_is_one(seed: int) -> None:
    """What the popularity term of soft-WPMI is for: Σ_i exp I(i, c) / N = 1."""
    cosines, activations = sample(seed)
    scores = soft_wpmi(cosines, activations, top_k=4)
    torch.testing.assert_close(scores.exp().mean(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("compare", [soft_wpmi, wpmi])
def test_of_equally_active_images_the_first_ones_count(compare: Callable[..., Tensor]) -> None:
    # Three hundred images, because a sort that is not stable keeps the order of a few.
    cosines, activations = sample(0, images=300)
    activations[:, 2] = 0  # a dead neuron: all images tie
    activations[:, 3] = torch.tensor([1.0, 2.0] * 150)
    scores = compare(cosines, activations, top_k=3)
    strict = activations.clone()
    strict[:, 2] = -torch.arange(300.0)
    strict[:, 3] -= torch.arange(300.0) * 1e-6
    assert torch.equal(scores, compare(cosines, strict, top_k=3))


@every_similarity
def test_scoring_in_parts_changes_nothing(compare: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    cosines, activations = sample(0)
    expected = compare(cosines, activations, top_k=4)
    for values in (1, 2 * 4 * 4, 3 * 4 * 4):  # one, two and three neurons at once
        monkeypatch.setattr(MODULE, "SCORED_VALUES", values)
        assert torch.equal(compare(cosines, activations, top_k=4), expected)


def test_soft_wpmi_ranks_512_neurons_by_10_000_images_in_five_seconds_of_one_core() -> None:
    cosines, activations = sample(0, images=10_000, classes=100, neurons=512, dtype=torch.float32)
    start = time.process_time()
    soft_wpmi(cosines, activations)
    assert time.process_time() - start <= 5


@every_similarity
@pytest.mark.parametrize("top_k", [0, 13])
def test_too_few_images_are_an_error(compare: Callable[..., Tensor], top_k: int) -> None:
    with pytest.raises(InputError, match=f"top {top_k} images, but the probe set has 12"):
        compare(*sample(0), top_k=top_k)


@pytest.mark.parametrize(("name", "fewest"), [("soft-wpmi", 100), ("wpmi", 28), ("rank-reorder", 2)])
def test_the_fewest_images_of_a_probe_set(name: str, fewest: int) -> None:
    require_top_images(fewest, default_top_k(name, fewest))
    with pytest.raises(InputError, match=f"top {fewest} images, but the probe set has {fewest - 1}"):
        require_top_images(fewest - 1, default_top_k(name, fewest - 1))


@every_similarity
def test_shapes_must_match(compare: Callable[..., Tensor]) -> None:
    cosines, activations = sample(0)
    with pytest.raises(InputError, match=r"got \[12, 3\] and \[11, 5\]"):
        compare(cosines, activations[:-1], top_k=3)
    with pytest.raises(InputError, match=r"expected similarities \[D, C\]"):
        compare(cosines, activations[:, :, None], top_k=3)


@every_similarity
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(compare: Callable[..., Tensor], value: float) -> None:
    cosines, activations = sample(0)
    activations[3, 1] = value
    with pytest.raises(InputError, match="activations must be finite, but 1 of 60"):
        compare(cosines, activations, top_k=3)
    cosines[0, :2] = value
    with pytest.raises(InputError, match="similarities must be finite, but 2 of 36"):
        compare(cosines, activations, top_k=3)


def test_an_unknown_similarity_is_an_error_with_a_suggestion() -> None:
    assert similarity_function("soft-wpmi") is soft_wpmi
    with pytest.raises(InputError, match="one of soft-wpmi, wpmi, rank-reorder, not 'soft_wpmi'; did you mean 'soft-w"):
        similarity_function("soft_wpmi")
