"""Prompts of classes, and the embedding of a class that has several."""

import re

import pytest
import torch
from torch import Tensor

from igd_ray.errors import InputError
from igd_ray.models.clip import Clip, load_clip
from igd_ray.ranking import class_prompts, embed_classes

NAMES = ("cat", "sea lion", "oak {tree}")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip("demo")


class WordClip:
    """Embeds a prompt as the vector that is listed for it, brought to length 1."""

    def __init__(self, **vectors: list[float]) -> None:
        self.vectors = vectors

    def embed_text(self, prompts: list[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor([self.vectors[prompt] for prompt in prompts]))


def test_the_prompt_is_the_bare_class_name() -> None:
    assert class_prompts(NAMES) == (("cat",), ("sea lion",), ("oak {tree}",))


def test_prompts_replace_the_names() -> None:
    assert class_prompts(NAMES, prompts=["a", "b", "c"]) == (("a",), ("b",), ("c",))


def test_templates_are_filled_in_class_by_class() -> None:
    assert class_prompts(NAMES, templates=["a photo of a {}.", "{}, or {1}"]) == (
        ("a photo of a cat.", "cat, or {1}"),
        ("a photo of a sea lion.", "sea lion, or {1}"),
        ("a photo of a oak {tree}.", "oak {tree}, or {1}"),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": ["a", "b"]}, "expected 3 prompts, one for each class, got 2"),
        ({"prompts": ["a", "b", "c", "d"]}, "expected 3 prompts, one for each class, got 4"),
        ({"prompts": ["a", "b", "a"]}, "classes 0 and 2 have the same prompt 'a'"),
        ({"prompts": ["a", " ", "c"]}, "prompts must be texts that are not blank, but one is ' '"),
        ({"prompts": ["a", 2, "c"]}, "prompts must be texts that are not blank, but one is 2"),
        ({"prompts": "cat"}, "prompts must be a list of at least one text, not 'cat'"),
        ({"prompts": []}, r"prompts must be a list of at least one text, not \[\]"),
        ({"templates": ["a photo of a {}.", "a photo"]}, "have {} where the class name goes, .*not 'a photo'"),
        ({"templates": ["{}", "a {}", "{}"]}, "every template must come once"),
        ({"templates": []}, r"templates must be a list of at least one text, not \[\]"),
        ({"templates": "a photo of a {}."}, "templates must be a list of at least one text"),
        ({"templates": ["{}"], "prompts": ["a", "b", "c"]}, "prompts, one for each class, or templates, not both"),
    ],
)
def test_unfit_prompts_are_told_in_one_line(given: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        class_prompts(NAMES, **given)
    assert "\n" not in str(caught.value)


def test_classes_of_the_same_name_need_prompts() -> None:
    with pytest.raises(InputError, match=r"classes 0 and 1 have the same prompt 'crane', so .*give prompts"):
        class_prompts(["crane", "crane"])
    assert class_prompts(["crane", "crane"], prompts=["crane bird", "crane machine"])


def test_a_class_of_one_prompt_has_its_embedding(clip: Clip) -> None:
    torch.testing.assert_close(embed_classes(clip, [["zero"], ["one"]]), clip.embed_text(["zero", "one"]))


def test_the_embedding_of_several_prompts_by_hand() -> None:
    # (1, 0) and (0, 1), both of length 1 however long before, have the mean (1/2, 1/2): at 45 degrees.
    clip = WordClip(a=[1.0, 0.0], b=[0.0, 100.0], c=[-1.0, 0.0])
    embeddings = embed_classes(clip, [["a", "b"], ["c"]])
    torch.testing.assert_close(embeddings, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))


def test_templates_give_clips_zero_shot_classifier(clip: Clip) -> None:
    names, templates = ["zero", "seven"], ["a photo of a {}.", "the digit {}", "{}"]
    expected = []
    for name in names:
        each = [clip.embed_text([template.format(name)])[0].double() for template in templates]
        mean = sum(vector / vector.norm() for vector in each) / len(each)
        expected.append(mean / mean.norm())
    embeddings = embed_classes(clip, class_prompts(names, templates=templates))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_classes_that_a_clip_cannot_tell_apart_are_an_error(clip: Clip) -> None:
    # The demo has learnt the digits' names only: all other words are the same to it.
    with pytest.raises(InputError, match=r"to CLIP, 'cat' and 'dog' are the same; .*another CLIP"):
        embed_classes(clip, [["zero"], ["cat"], ["dog"]])
    # It reads 16 tokens: what follows is cut off.
    long = "one two three four five six seven eight nine zero one two three four five"
    with pytest.raises(InputError, match="are the same; give shorter"):
        embed_classes(clip, class_prompts(["six", "nine"], templates=[f"{long} {{}}"]))


@pytest.mark.parametrize("prompts", [[], [["zero"], []]])
def test_every_class_needs_a_prompt(clip: Clip, prompts: list[list[str]]) -> None:
    with pytest.raises(InputError, match=re.escape("expected at least one prompt for each class")):
        embed_classes(clip, prompts)
