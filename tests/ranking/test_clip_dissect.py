"""CD-IR of a model: pooled activations against CLIP's similarities of images and class names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from igd_ray.data import load_images
from igd_ray.errors import InputError
from igd_ray.models import load_model
from igd_ray.models.clip import load_clip
from igd_ray.models.demo import demo_model
from igd_ray.ranking import SIMILARITIES, clip_dissect, soft_wpmi


class FixedClip:
    """Embeds an image as two of its pixels, and prompts as given vectors."""

    identity = {"spec": "fixed"}  # noqa: RUF012

    def __init__(self) -> None:
        self.prompts: tuple[str, ...] = ()
        self.images = 0

    def embed_text(self, prompts) -> Tensor:
        self.prompts = tuple(prompts)
        return torch.nn.functional.normalize(torch.randn(len(prompts), 2, generator=torch.Generator().manual_seed(0)))

    def embed_images(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return torch.nn.functional.normalize(images.flatten(1)[:, 2:4] + 0.1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
def test_ranking_a_model_is_scoring_its_pooled_activations(layer: str, similarity: str) -> None:
    model, probe, clip = demo_model(), load_images("digits", split="train", n=120), FixedClip()
    scores = clip_dissect(model, probe, clip, layer=layer, similarity=similarity, batch_size=50)
    taken = []
    handle = model.layer2.register_forward_hook(lambda _module, _inputs, output: taken.append(output.mean(dim=(2, 3))))
    if layer == "penultimate":
        handle.remove()
        handle = model.linear.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    model(probe.images)
    handle.remove()
    cosines = clip.embed_images(probe.images) @ clip.embed_text(probe.class_names).T
    expected = SIMILARITIES[similarity](cosines, taken[0])
    torch.testing.assert_close(scores.scores, expected, rtol=1e-4, atol=1e-5)
    assert clip.prompts == probe.class_names
    assert (scores.method, scores.layer, scores.details["similarity"]) == ("cdir", layer, similarity)
    assert scores.details["prompts"] == [[name] for name in probe.class_names]


def test_soft_wpmi_is_the_default() -> None:
    model, probe, clip = demo_model(), load_images("digits", split="train", n=120), FixedClip()
    scores = clip_dissect(model, probe, clip)
    assert torch.equal(scores.scores, clip_dissect(model, probe, clip, similarity="soft-wpmi").scores)
    assert not torch.equal(scores.scores, clip_dissect(model, probe, clip, similarity="wpmi").scores)


def test_prompts_are_one_a_class() -> None:
    probe, clip = load_images("digits", split="train", n=120), FixedClip()
    prompts = [f"a scan of a {name}" for name in probe.class_names]
    assert clip_dissect(demo_model(), probe, clip, prompts=prompts).details["prompts"] == [[text] for text in prompts]
    assert clip.prompts == tuple(prompts)
    with pytest.raises(InputError, match="expected 10 prompts, one for each class, got 9"):
        clip_dissect(demo_model(), probe, clip, prompts=prompts[:-1])


def test_one_template_is_as_good_as_its_prompts() -> None:
    model, probe, clip = demo_model(), load_images("digits", split="train", n=120), load_clip("demo")
    by_template = clip_dissect(model, probe, clip, templates=["a photo of a {}."])
    by_prompts = clip_dissect(model, probe, clip, prompts=[f"a photo of a {name}." for name in probe.class_names])
    assert torch.equal(by_template.scores, by_prompts.scores)
    bare = clip_dissect(model, probe, clip, templates=["a photo of a {}.", "{}"])
    assert not torch.equal(by_template.scores, bare.scores)


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({}, 99, "top 100 images, but the probe set has 99"),
        ({"similarity": "wpmi"}, 27, "top 28 images, but the probe set has 27"),
        ({"similarity": "soft_wpmi"}, 120, "did you mean 'soft-wpmi'"),
        ({"templates": ["a photo"]}, 120, "have {} where the class name goes"),
        ({"templates": ["{}"], "prompts": ["zero"]}, 120, "not both"),
    ],
)
def test_bad_input_is_told_before_anything_is_embedded(options: dict, images: int, message: str) -> None:
    clip = FixedClip()
    with pytest.raises(InputError, match=message):
        clip_dissect(demo_model(), load_images("digits", split="train", n=images), clip, **options)
    assert (clip.images, clip.prompts) == (0, ())


@pytest.mark.slow
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_cdir_finds_the_neurons_that_speak_for_a_class_of_the_cifar_model(shared: Path, similarity: str) -> None:
    """CD-IR sees no weight of the classifier, and still nearly all of a class's ten best neurons raise its logit."""
    model = load_model(
        f"{shared}/models/cifar_resnet.py:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    data = shared / "data" / "cifar10" / "train.parquet"
    probe = load_images(f"parquet:{data}", split="train", n=1000, class_names="cifar10")
    clip = load_clip(str(shared / "models" / "cifar10_tiny_clip.json"))
    scores = clip_dissect(model, probe, clip, similarity=similarity)
    assert scores.scores.shape == (10, 128)
    # Of all 1280 weights 53 % are positive: of 100 chosen at random 53 ± 5.
    assert float((model.linear.weight > 0).double().mean()) == pytest.approx(0.53, abs=0.005)
    assert int((model.linear.weight.gather(1, scores.order()[:, :10]) > 0).sum()) >= 90


def test_soft_wpmi_is_what_the_package_offers() -> None:
    assert SIMILARITIES["soft-wpmi"] is soft_wpmi
