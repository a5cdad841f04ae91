"""CD-IR: a neuron matters to a class if its most activating images look like the class's name to CLIP.

CLIP-Dissect (Oikarinen & Weng, ICLR 2023, sec. 3.2 and appendix A.1) with class names as concepts, and the constants
of its authors' code; with the soft-WPMI similarity, as used by Kulkarni & Weng, ECCV 2024, sec. 4.2.

All similarities take raw cosine similarities of images and classes [D, C] and spatially averaged activations [D, N],
look at each neuron's K most activating images x_0, x_1, … in descending order (ties: lower index first), and return
float64 [C, N]; higher is more alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer
from igd_ray.ranking.base import (
    Batch,
    Input,
    Probe,
    Ranking,
    State,
    Statistic,
    concatenated,
    planned,
    pooled_activations,
    register,
)
from igd_ray.ranking.in_process import rank_neurons
from igd_ray.ranking.prompts import class_prompts, embed_classes, read_prompts
from igd_ray.ranking.scores import NeuronScores

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip

# Soft-WPMI: inverse temperature of the image-to-class softmax, the weights of the first and last of the top images,
# the weight λ of a class's popularity among all neurons, and the number K of top images.
INVERSE_TEMPERATURE = 10.0
FIRST_WEIGHT, LAST_WEIGHT = 0.998, 0.97
POPULARITY_WEIGHT = 1.0
TOP_IMAGES = 100

# WPMI: the same three, without weights.
WPMI_INVERSE_TEMPERATURE = 2.0
WPMI_POPULARITY_WEIGHT = 0.6
WPMI_TOP_IMAGES = 28

# Inside the logarithms of both.
LOG_FLOOR = 1e-7

# Rank reorder: the share of the images it looks at is one in 20, the exponent p of the errors, and that of the mean
# similarity they are divided by. The authors' code has no floor under that mean and gives NaN where it is negative.
IMAGES_PER_TOP_IMAGE = 20
ERROR_POWER = 3
MEAN_POWER = 0.5
MEAN_FLOOR = 1e-3

# Values of the largest array held at once while some of the neurons are scored; 2**22 float64 values are 32 MiB.
SCORED_VALUES = 2**22


class Similarity(Protocol):
    """A similarity function of classes and neurons."""

    def __call__(self, class_similarity: Tensor, activations: Tensor, *, top_k: int = ...) -> Tensor:
        """Return float64 [C, N] of `class_similarity` [D, C] and `activations` [D, N]."""
        ...


def soft_wpmi(class_similarity: Tensor, activations: Tensor, *, top_k: int = TOP_IMAGES) -> Tensor:
    """Return the soft weighted pointwise mutual information of classes and neurons, which CD-IR uses.

        P = softmax over classes of 10 · similarity
        L(i, c) = Σ_{r<K} log(1 + p_r · (P[x_r, c] − 1) + 1e-7),   p_r falling linearly from 0.998 towards 0.97
        I(i, c) = L(i, c) − (logsumexp_i' L(i', c) − log N)

    Args:
        class_similarity: raw cosine similarities of images and class names, [D, C].
        activations: spatially averaged activations, [D, N].
        top_k: K, the number of most activating images.

    Returns:
        float64 [C, N].

    Raises:
        InputError: if the shapes do not match, a value is not finite, or there are fewer images than `top_k`.

    Images 0 and 1 excite neuron 0 and show class 0; images 1 and 2 excite neuron 1 and show class 1.

        >>> cosines = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]])
        >>> activations = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> soft_wpmi(cosines, activations, top_k=2)
        tensor([[ 0.5645, -1.4211],
                [-1.4211,  0.5645]], dtype=torch.float64)
    """
    _check(class_similarity, activations)
    require_top_images(len(activations), top_k)
    probability = torch.softmax(INVERSE_TEMPERATURE * class_similarity.double(), dim=1)
    place = torch.arange(top_k, dtype=torch.float64, device=probability.device) / top_k
    weights = FIRST_WEIGHT - place * (FIRST_WEIGHT - LAST_WEIGHT)
    likelihood = []
    for some in _some_neurons(activations, values_a_neuron=top_k * probability.shape[1]):
        top = _top_images(some, top_k)
        likelihood.append(torch.log(1 + weights[:, None] * (probability[top] - 1) + LOG_FLOOR).sum(dim=1))
    return _without_popularity(torch.cat(likelihood), POPULARITY_WEIGHT)


def wpmi(class_similarity: Tensor, activations: Tensor, *, top_k: int = WPMI_TOP_IMAGES) -> Tensor:
    """Return the weighted pointwise mutual information of classes and neurons.

        P = softmax over classes of 2 · similarity
        L(i, c) = Σ_{r<K} log(P[x_r, c] + 1e-7)
        I(i, c) = L(i, c) − 0.6 · (logsumexp_i' L(i', c) − log N)

    Args, returns and raises as `soft_wpmi`.

        >>> cosines = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]])
        >>> activations = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> wpmi(cosines, activations, top_k=2)
        tensor([[-0.3744, -0.7744],
                [-0.7744, -0.3744]], dtype=torch.float64)
    """
    _check(class_similarity, activations)
    require_top_images(len(activations), top_k)
    probability = torch.softmax(WPMI_INVERSE_TEMPERATURE * class_similarity.double(), dim=1)
    information = torch.log(probability + LOG_FLOOR)
    likelihood = [
        information[_top_images(some, top_k)].sum(dim=1)
        for some in _some_neurons(activations, values_a_neuron=top_k * probability.shape[1])
    ]
    return _without_popularity(torch.cat(likelihood), WPMI_POPULARITY_WEIGHT)


def rank_reorder(class_similarity: Tensor, activations: Tensor, *, top_k: int | None = None) -> Tensor:
    """Return how well a class's similarities order each neuron's top images as their activations do.

        a_0 ≥ a_1 ≥ …: the activations of the neuron's top images; s_r: the class's similarity of x_r
        b_r: the same activations, handed out in the order of the similarities (the largest to the largest s)
        E(i, c) = mean_r |a_r − b_r|³ / mean_{r,r'} |a_r − a_r'|³
        I(i, c) = −E(i, c) / sqrt(mean_r s_r)

    The denominator of E is the numerator's expectation over random orders; the authors' code estimates it from five
    random orders for every neuron. Where all top activations of a neuron are equal, E is 1, as for a random order.
    A mean similarity below 1e-3, which CLIP does not give, counts as 1e-3.

    Args and raises: as `soft_wpmi`; K is by default one image in 20, but at least two.

    Returns:
        float64 [C, N], at most 0.

    Class 0 orders the top images of neuron 0 as their activations do, class 1 the other way round:

        >>> cosines = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]])
        >>> activations = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> rank_reorder(cosines, activations, top_k=2)
        tensor([[-0.0000, -5.1640],
                [-5.1640, -0.0000]], dtype=torch.float64)
    """
    _check(class_similarity, activations)
    top_k = default_top_k("rank-reorder", len(activations)) if top_k is None else top_k
    require_top_images(len(activations), top_k)
    similarity = class_similarity.double()
    scores = []
    for some in _some_neurons(activations, values_a_neuron=top_k * max(top_k, similarity.shape[1])):
        top = _top_images(some, top_k)
        falling = some.double().gather(1, top)
        rising = falling.flip(1)[:, None, :]
        seen = similarity[top].transpose(1, 2)
        order = torch.argsort(seen, dim=2, stable=True)
        places = torch.arange(top_k, device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(2, order, places)
        reordered = rising.expand_as(seen).gather(2, rank)
        error = (falling[:, None, :] - reordered).abs().pow(ERROR_POWER).mean(dim=2)
        chance = (falling[:, :, None] - falling[:, None, :]).abs().pow(ERROR_POWER).mean(dim=(1, 2))[:, None]
        relative = torch.where(chance > 0, error / chance, torch.ones_like(error))
        scores.append(-relative / seen.mean(dim=2).clamp(min=MEAN_FLOOR).pow(MEAN_POWER))
    return torch.cat(scores).T.contiguous()


SIMILARITIES: Mapping[str, Similarity] = {"soft-wpmi": soft_wpmi, "wpmi": wpmi, "rank-reorder": rank_reorder}
SOFT_WPMI = "soft-wpmi"


def similarity_function(name: str) -> Similarity:
    """Return the function called `name`.

    Raises:
        InputError: if there is no such function, naming close matches.
    """
    if name not in SIMILARITIES:
        raise InputError(
            f"similarity must be one of {', '.join(SIMILARITIES)}, not {name!r}{did_you_mean(name, SIMILARITIES)}"
        )
    return SIMILARITIES[name]


def default_top_k(similarity: str, images: int) -> int:
    """Return how many of each neuron's most activating images `similarity` looks at in a probe set of `images`.

    Raises:
        InputError: if there is no such function.
    """
    similarity_function(similarity)
    if similarity == "rank-reorder":
        return max(2, images // IMAGES_PER_TOP_IMAGE)
    return TOP_IMAGES if similarity == SOFT_WPMI else WPMI_TOP_IMAGES


def require_top_images(images: int, top_k: int = TOP_IMAGES) -> None:
    """Check that a probe set of `images` images has the `top_k` that CD-IR looks at.

    Raises:
        InputError: if it has fewer.
    """
    if not 1 <= top_k <= images:
        raise InputError(f"CD-IR looks at each neuron's top {top_k} images, but the probe set has {images}; use more")


def _check(class_similarity: Tensor, activations: Tensor) -> None:
    if class_similarity.ndim != 2 or activations.ndim != 2 or len(class_similarity) != len(activations):
        raise InputError(
            f"expected similarities [D, C] and activations [D, N], got {list(class_similarity.shape)} "
            f"and {list(activations.shape)}"
        )
    for what, values in (("similarities", class_similarity), ("activations", activations)):
        if not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise InputError(f"{what} must be finite, but {count} of {values.numel()} are NaN or infinite")


def _some_neurons(activations: Tensor, *, values_a_neuron: int) -> tuple[Tensor, ...]:
    """Cut `activations` [D, N] into parts [n, D] small enough to be scored at once."""
    return torch.split(activations.T, max(1, SCORED_VALUES // max(len(activations), values_a_neuron)))


def _top_images(activations: Tensor, top_k: int) -> Tensor:
    """Return the indices, int64 [n, K], of the largest `activations` [n, D] in descending order."""
    # Not topk, which leaves it open which of equal values it takes.
    return torch.argsort(activations.contiguous(), dim=1, descending=True, stable=True)[:, :top_k]


def _without_popularity(likelihood: Tensor, weight: float) -> Tensor:
    """Return [C, N] of L [N, C]: L less `weight` times the logarithm of the mean of exp L over the neurons."""
    popularity = torch.logsumexp(likelihood, dim=0) - math.log(len(likelihood))
    return (likelihood - weight * popularity).T.contiguous()


@dataclass(frozen=True)
class PooledActivations(Statistic):
    """Spatially averaged activations of a layer, [D, N]."""

    layer: Layer
    kind: ClassVar[str] = "pooled-activations"

    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return what tells it from other statistics of the model."""
        return {"cache": self.kind}

    def update(self, batch: Batch) -> State:
        """Run one pass."""
        return {"activations": pooled_activations(batch.model, self.layer, batch.images)}

    def merge(self, states: Sequence[State]) -> State:
        """Return the activations of all images."""
        return concatenated(states)


@dataclass(frozen=True)
class ImageEmbeddings(Statistic):
    """CLIP's embeddings of the probe images, [D, E]: the same whatever model or layer is ranked."""

    kind: ClassVar[str] = "image-embeddings"
    stage: ClassVar[str] = "embedding"
    reads: ClassVar[frozenset[Input]] = frozenset({"clip", "images"})

    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return nothing beside CLIP and images."""
        return {}

    def update(self, batch: Batch) -> State:
        """Embed the images."""
        return {"embeddings": batch.clip.embed_images(batch.images)}

    def merge(self, states: Sequence[State]) -> State:
        """Return the embeddings of all images."""
        return concatenated(states)


@dataclass(frozen=True)
class ClassEmbeddings(Statistic):
    """CLIP's embeddings of the classes, [C, E], from their prompts [C][T]."""

    texts: tuple[tuple[str, ...], ...]
    kind: ClassVar[str] = "class-embeddings"
    stage: ClassVar[str] = "embedding"
    reads: ClassVar[frozenset[Input]] = frozenset({"clip"})

    def depends_on(self, neurons: range) -> Mapping[str, object]:
        """Return the prompts."""
        return {"prompts": [list(texts) for texts in self.texts]}

    def update(self, batch: Batch) -> State:
        """Embed the prompts."""
        return {"embeddings": embed_classes(batch.clip, self.texts)}


@register("cdir")
@dataclass(frozen=True)
class ClipDissect(Ranking):
    """CD-IR. Its statistics are kept apart, so that another layer, similarity or prompt computes only what it changes.

    Attributes:
        prompts: one for each class, in a file with one on each line or as texts; by default the class names.
        prompt_template: one or more, such as "a photo of a {}.", instead; a class's embedding is their mean.
        similarity: one of `SIMILARITIES`; the authors use soft-WPMI.
        texts: every class's prompts.
        clip: the identity of the CLIP model.
    """

    prompts: str | tuple[str, ...] | None = None
    prompt_template: tuple[str, ...] = ()
    similarity: str = SOFT_WPMI
    texts: tuple[tuple[str, ...], ...] = planned(())
    clip: Mapping[str, Any] | None = planned(None)

    reads: ClassVar[frozenset[Input]] = frozenset({"model", "images", "clip"})

    def prepared(self, probe: Probe) -> Self:
        """Check the similarity, the number of images, the prompts, and that images and prompts fit the CLIP model."""
        require_top_images(len(probe.labels), default_top_k(self.similarity, len(probe.labels)))
        prompts = read_prompts(self.prompts) if isinstance(self.prompts, str) else self.prompts
        texts = class_prompts(self.class_names, prompts=prompts, templates=self.prompt_template or None)
        clip = probe.load_clip()
        clip.embed_images(probe.example)
        embed_classes(clip, texts)
        return replace(self, texts=texts, clip=clip.identity)

    @property
    def options(self) -> dict[str, object]:
        """The CLIP model, every class's prompts, and the similarity."""
        return {"clip": self.clip, "prompts": [list(texts) for texts in self.texts], "similarity": self.similarity}

    def statistics(self) -> tuple[Statistic, ...]:
        """Return the embeddings of classes and images, and the activations."""
        return ClassEmbeddings(self.texts), ImageEmbeddings(), PooledActivations(self.layer)

    def compute(self, state: State) -> Tensor:
        """Compare activations with the similarities of images and classes."""
        similarities = state["image-embeddings.embeddings"] @ state["class-embeddings.embeddings"].T
        activations = state["pooled-activations.activations"]
        top_k = default_top_k(self.similarity, len(activations))
        return similarity_function(self.similarity)(similarities, activations, top_k=top_k)


def clip_dissect(
    model: nn.Module,
    probe: LabeledImages,
    clip: "Clip",
    *,
    layer: str = PENULTIMATE,
    prompts: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    similarity: str = SOFT_WPMI,
    batch_size: int = 256,
) -> NeuronScores:
    """Rank the neurons of `layer` by CD-IR in this process.

    Args:
        model: takes images in [0, 1] and returns logits; in eval mode.
        probe: at least 100 images, best from the training set.
        clip: embeds images and prompts.
        layer: "penultimate" or a module's path.
        prompts: one for each class; the bare class names by default.
        templates: one or more, such as "a photo of a {}.", instead; a class's embedding is their mean.
        similarity: one of `SIMILARITIES`; the authors use soft-WPMI.
        batch_size: images a forward pass.

    Returns:
        scores float64 [C, N].

    Raises:
        InputError: for a layer that cannot be masked, too few probe images, prompts or templates that do not fit, or
            an unknown similarity.
    """
    return rank_neurons(
        "cdir",
        model,
        probe,
        layer=layer,
        clip=clip,
        batch_size=batch_size,
        prompts=None if prompts is None else tuple(prompts),
        prompt_template=() if templates is None else tuple(templates),
        similarity=similarity,
    )
