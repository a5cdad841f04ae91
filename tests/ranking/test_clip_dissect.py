"""CD-IR against METHOD.md written out as loops over plain floats."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igd_ray.data import load_images
from igd_ray.errors import InputError
from igd_ray.models.demo import demo_model
from igd_ray.ranking import clip_dissect, soft_wpmi

seeds = st.integers(0, 2**31)


def by_loops(similarity: Tensor, activations: Tensor, top_k: int) -> Tensor:
    """CD-IR as METHOD.md states it, one number after another."""
    images, classes = similarity.shape
    neurons = activations.shape[1]
    probability = []
    for row in similarity.tolist():
        powers = [math.exp(10 * value) for value in row]
        probability.append([power / sum(powers) for power in powers])
    likelihood = [[0.0] * classes for _ in range(neurons)]
    for neuron in range(neurons):
        column = activations[:, neuron].tolist()
        top = sorted(range(images), key=lambda image: (-column[image], image))[:top_k]
        for label in range(classes):
            for place, image in enumerate(top):
                p = 0.998 - (place / top_k) * (0.998 - 0.97)
                likelihood[neuron][label] += math.log(1 + p * (probability[image][label] - 1) + 1e-7)
    scores = torch.zeros(classes, neurons, dtype=torch.float64)
    for label in range(classes):
        popularity = math.log(sum(math.exp(likelihood[neuron][label]) for neuron in range(neurons))) - math.log(neurons)
        for neuron in range(neurons):
            scores[label, neuron] = likelihood[neuron][label] - popularity
    return scores


def sample(seed: int, images: int = 12, classes: int = 3, neurons: int = 5, dtype=torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(images, classes, generator=generator, dtype=dtype) * 2 - 1
    return similarity, torch.randn(images, neurons, generator=generator, dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))
def test_equals_the_formula_written_out(seed: int, top_k: int, classes: int, neurons: int) -> None:
    similarity, activations = sample(seed, classes=classes, neurons=neurons)
    scores = soft_wpmi(similarity, activations, top_k=top_k)
    torch.testing.assert_close(scores, by_loops(similarity, activations, top_k), rtol=1e-9, atol=1e-9)


def test_float32_inputs_are_not_summed_in_float32() -> None:
    similarity, activations = sample(0, images=150, neurons=20, dtype=torch.float32)
    scores = soft_wpmi(similarity, activations)  # the default top_k of 100
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, by_loops(similarity.double(), activations, 100), rtol=1e-9, atol=1e-9)


def test_one_image_by_hand() -> None:
    # Equal similarities: P = (1/2, 1/2). One top image: p_0 = 0.998, so L = log(1 − 0.499 + 1e-7) everywhere,
    # and with equal L the popularity is L: the scores are 0.
    scores = soft_wpmi(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), top_k=1)
    assert scores.flatten().tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_two_images_by_hand() -> None:
    # Image 0 is surely class 0, image 1 surely class 1: P is 0 or 1 up to e^(−20).
    similarity = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    activations = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # neuron i prefers image i
    # For each class: L is log(1 + 1e-7) for its own neuron and log(0.002 + 1e-7) for the other, whose likelihoods
    # 1 and 0.002 have the mean 0.501.
    scores = soft_wpmi(similarity, activations, top_k=1)
    own, other = math.log(1 / 0.501), math.log(0.002 / 0.501)
    assert scores.flatten().tolist() == pytest.approx([own, other, other, own], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 12))
def test_the_order_of_the_images_does_not_count(seed: int, top_k: int) -> None:
    similarity, activations = sample(seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    expected = soft_wpmi(similarity, activations, top_k=top_k)
    torch.testing.assert_close(soft_wpmi(similarity[order], activations[order], top_k=top_k), expected)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_neurons_and_classes_keep_their_scores_in_another_order(seed: int) -> None:
    similarity, activations = sample(seed)
    neurons, classes = torch.randperm(5), torch.randperm(3)
    expected = soft_wpmi(similarity, activations, top_k=4)[classes][:, neurons]
    torch.testing.assert_close(soft_wpmi(similarity[:, classes], activations[:, neurons], top_k=4), expected)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 100), st.floats(-5, 5))
def test_only_the_order_of_activations_counts(seed: int, scale: float, shift: float) -> None:
    similarity, activations = sample(seed)
    expected = soft_wpmi(similarity, activations, top_k=4)
    assert torch.equal(soft_wpmi(similarity, activations * scale + shift, top_k=4), expected)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_mean_likelihood_ratio_of_every_class_is_one(seed: int) -> None:
    """What the popularity term is for: Σ_i exp I(i, c) / N = 1."""
    similarity, activations = sample(seed)
    scores = soft_wpmi(similarity, activations, top_k=4)
    torch.testing.assert_close(scores.exp().mean(dim=1), torch.ones(3, dtype=torch.float64))


def test_of_equally_active_images_the_first_ones_count() -> None:
    # Three hundred images, because a sort that is not stable keeps the order of a few.
    similarity, activations = sample(0, images=300)
    activations[:, 2] = 0  # a dead neuron: all images tie
    activations[:, 3] = torch.tensor([1.0, 2.0] * 150)
    scores = soft_wpmi(similarity, activations, top_k=3)
    strict = activations.clone()
    strict[:, 2] = -torch.arange(300.0)
    strict[:, 3] -= torch.arange(300.0) * 1e-6
    assert torch.equal(scores, soft_wpmi(similarity, strict, top_k=3))


def test_scoring_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, activations = sample(0)
    expected = soft_wpmi(similarity, activations, top_k=4)
    monkeypatch.setattr(importlib.import_module("igd_ray.ranking.clip_dissect"), "SCORED_VALUES", 2 * 4 * 3)
    assert torch.equal(soft_wpmi(similarity, activations, top_k=4), expected)


@pytest.mark.parametrize("top_k", [0, 13])
def test_too_few_images_are_an_error(top_k: int) -> None:
    with pytest.raises(InputError, match=f"top {top_k} images, but the probe set has 12"):
        soft_wpmi(*sample(0), top_k=top_k)


def test_shapes_must_match() -> None:
    similarity, activations = sample(0)
    with pytest.raises(InputError, match=r"got \[12, 3\] and \[11, 5\]"):
        soft_wpmi(similarity, activations[:-1], top_k=3)
    with pytest.raises(InputError, match=r"expected similarities \[D, C\]"):
        soft_wpmi(similarity, activations[:, :, None], top_k=3)


class FixedClip:
    """Embeds an image as its first two pixels, and prompts as given vectors."""

    identity = {"spec": "fixed"}  # noqa: RUF012

    def __init__(self) -> None:
        self.prompts: tuple[str, ...] = ()

    def embed_text(self, prompts) -> Tensor:
        self.prompts = tuple(prompts)
        return torch.nn.functional.normalize(torch.randn(len(prompts), 2, generator=torch.Generator().manual_seed(0)))

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1)[:, 2:4] + 0.1)


@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
def test_ranking_a_model_is_scoring_its_pooled_activations(layer: str) -> None:
    model, probe, clip = demo_model(), load_images("digits", split="train", n=120), FixedClip()
    scores = clip_dissect(model, probe, clip, layer=layer, batch_size=50)
    taken = []
    handle = model.layer2.register_forward_hook(lambda _module, _inputs, output: taken.append(output.mean(dim=(2, 3))))
    if layer == "penultimate":
        handle.remove()
        handle = model.linear.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    model(probe.images)
    handle.remove()
    similarity = clip.embed_images(probe.images) @ clip.embed_text(probe.class_names).T
    torch.testing.assert_close(scores.scores, soft_wpmi(similarity, taken[0]), rtol=1e-5, atol=1e-5)
    assert clip.prompts == probe.class_names
    assert (scores.method, scores.layer) == ("cdir", layer)
    assert scores.details["prompts"] == list(probe.class_names)


def test_prompts_are_one_a_class() -> None:
    probe, clip = load_images("digits", split="train", n=120), FixedClip()
    prompts = [f"a scan of a {name}" for name in probe.class_names]
    assert clip_dissect(demo_model(), probe, clip, prompts=prompts).details["prompts"] == prompts
    assert clip.prompts == tuple(prompts)
    with pytest.raises(InputError, match="expected 10 prompts, one a class, got 9"):
        clip_dissect(demo_model(), probe, clip, prompts=prompts[:-1])


def test_a_small_probe_set_is_an_error() -> None:
    with pytest.raises(InputError, match="top 100 images, but the probe set has 99"):
        clip_dissect(demo_model(), load_images("digits", split="train", n=99), FixedClip())
