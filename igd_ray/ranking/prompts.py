"""The prompts of a class for CLIP: its bare name, another prompt, or several templates, whose mean counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from igd_ray.data.class_names import read_lines
from igd_ray.errors import InputError

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip

# Where the class name goes in a template.
PLACEHOLDER = "{}"

# Two classes are the same to CLIP if the cosine of their embeddings is above 1 − this; float32 rounds at 1e-7.
COSINE_TOLERANCE = 1e-6


def read_prompts(file: str) -> tuple[str, ...]:
    """Return the prompts in `file`, one on each line that is not blank.

    Raises:
        InputError: if there is no such file, or it is not UTF-8 text.
    """
    return tuple(read_lines(file, "prompts: expected a file of prompts"))


def class_prompts(
    class_names: Sequence[str], *, prompts: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every class, [C][T]: the bare class names, as the authors of CD-IR use, by default.

    Args:
        class_names: C names.
        prompts: C prompts in place of the names, in the order of the classes.
        templates: T templates such as "a photo of a {}.", each filled in with every class name.

    Raises:
        InputError: if both are given, there are more or fewer than C prompts, a prompt is blank, a template has no {}
            or comes twice, or two classes have the same prompt.

    >>> class_prompts(["cat", "dog"], templates=["a {}", "a photo of a {}"])
    (('a cat', 'a photo of a cat'), ('a dog', 'a photo of a dog'))
    """
    if prompts is not None and templates is not None:
        raise InputError("give prompts, one for each class, or templates, not both")
    if templates is not None:
        _require_texts("templates", templates)
        plain = [template for template in templates if PLACEHOLDER not in template]
        if plain:
            raise InputError(
                f'a template must have {{}} where the class name goes, as "a photo of a {{}}.", not {plain[0]!r}'
            )
        if len(set(templates)) < len(templates):
            raise InputError(f"every template must come once, got {list(templates)}")
        filled = [tuple(template.replace(PLACEHOLDER, name) for template in templates) for name in class_names]
    else:
        texts = class_names if prompts is None else prompts
        _require_texts("prompts", texts)
        if len(texts) != len(class_names):
            raise InputError(f"expected {len(class_names)} prompts, one for each class, got {len(texts)}")
        filled = [(text,) for text in texts]
    first: dict[tuple[str, ...], int] = {}
    for label, texts_of_class in enumerate(filled):
        other = first.setdefault(texts_of_class, label)
        if other != label:
            raise InputError(
                f"classes {other} and {label} have the same prompt {texts_of_class[0]!r}, so CLIP cannot tell them "
                "apart; give prompts, one for each class, that differ"
            )
    return tuple(filled)


def embed_classes(clip: "Clip", prompts: Sequence[Sequence[str]]) -> Tensor:
    """Return the embedding of every class, float32 [C, E] of length 1, from its one or more `prompts`, [C][T].

    A class's embedding is the mean of its prompts' embeddings, each of length 1, brought to length 1 again, as in
    CLIP's zero-shot classifier (Radford et al., ICML 2021, sec. 3.1.4).

    Raises:
        InputError: if a class has no prompt, or two classes have the same embedding: their prompts differ only after
            the last token that the model reads, or in words that its vocabulary lacks.
    """
    counts = [len(texts) for texts in prompts]
    if not counts or 0 in counts:
        raise InputError(f"expected at least one prompt for each class, got {counts}")
    embeddings = torch.split(clip.embed_text([text for texts in prompts for text in texts]), counts)
    classes = functional.normalize(torch.stack([part.mean(dim=0) for part in embeddings]), dim=-1)
    same = (classes @ classes.T).triu(diagonal=1) > 1 - COSINE_TOLERANCE
    if same.any():
        one, other = same.nonzero()[0].tolist()
        raise InputError(
            f"to CLIP, {prompts[one][0]!r} and {prompts[other][0]!r} are the same; "
            "give shorter or other prompts, or another CLIP"
        )
    return classes


def _require_texts(what: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or len(texts) == 0:
        raise InputError(f"{what} must be a list of at least one text, not {texts!r}")
    blank = [text for text in texts if not isinstance(text, str) or not text.strip()]
    if blank:
        raise InputError(f"{what} must be texts that are not blank, but one is {blank[0]!r}")
