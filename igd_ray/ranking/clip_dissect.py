"""CD-IR: a neuron matters to a class if its most activating images look like the class's name to CLIP.

CLIP-Dissect (Oikarinen & Weng, ICLR 2023) with class names as concepts and the soft-WPMI similarity, as used by
Kulkarni & Weng, ECCV 2024, sec. 4.2.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError
from igd_ray.models.layers import PENULTIMATE, Layer, find_layer, recorded
from igd_ray.ranking.scores import NeuronScores

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip

# The values of the authors' code: inverse temperature of the image-to-class softmax, the weights of the first and
# last of the top images, the weight λ of a class's popularity among all neurons, and the floor inside the logarithm.
INVERSE_TEMPERATURE = 10.0
FIRST_WEIGHT, LAST_WEIGHT = 0.998, 0.97
POPULARITY_WEIGHT = 1.0
LOG_FLOOR = 1e-7
TOP_IMAGES = 100

# Values held at once while neurons are scored, [neurons, top images, classes]; 2**24 float32 values are 64 MiB.
SCORED_VALUES = 2**24


def soft_wpmi(class_similarity: Tensor, activations: Tensor, *, top_k: int = TOP_IMAGES) -> Tensor:
    """Return the soft weighted pointwise mutual information of classes and neurons.

        P = softmax over classes of 10 · similarity
        L(i, c) = Σ_{r<K} log(1 + p_r · (P[x_r, c] − 1) + 1e-7),   p_r falling linearly from 0.998 towards 0.97
        I(i, c) = L(i, c) − (logsumexp_i' L(i', c) − log N)

    with x_0, x_1, … the neuron's most activating images in descending order (ties: lower index first).

    Args:
        class_similarity: raw cosine similarities of images and class names, [D, C].
        activations: spatially averaged activations, [D, N].
        top_k: K, the number of most activating images.

    Returns:
        float64 [C, N].

    Raises:
        InputError: if the shapes do not match, or there are fewer images than `top_k`.
    """
    if class_similarity.ndim != 2 or activations.ndim != 2 or len(class_similarity) != len(activations):
        raise InputError(
            f"expected similarities [D, C] and activations [D, N], got {list(class_similarity.shape)} "
            f"and {list(activations.shape)}"
        )
    images, neurons = activations.shape
    require_top_images(images, top_k)
    probability = torch.softmax(INVERSE_TEMPERATURE * class_similarity.double(), dim=1)
    top_images = torch.argsort(activations, dim=0, descending=True, stable=True)[:top_k].T
    place = torch.arange(top_k, dtype=torch.float64, device=probability.device) / top_k
    weights = FIRST_WEIGHT - place * (FIRST_WEIGHT - LAST_WEIGHT)
    at_once = max(1, SCORED_VALUES // (top_k * probability.shape[1]))
    likelihood = torch.cat(
        [
            torch.log(1 + weights[:, None] * (probability[top_images[start : start + at_once]] - 1) + LOG_FLOOR).sum(
                dim=1
            )
            for start in range(0, neurons, at_once)
        ]
    )
    popularity = torch.logsumexp(likelihood, dim=0) - math.log(neurons)
    return (likelihood - POPULARITY_WEIGHT * popularity).T.contiguous()


def require_top_images(images: int, top_k: int = TOP_IMAGES) -> None:
    """Check that a probe set of `images` images has the `top_k` that CD-IR looks at.

    Raises:
        InputError: if it has fewer.
    """
    if not 1 <= top_k <= images:
        raise InputError(f"CD-IR looks at each neuron's top {top_k} images, but the probe set has {images}; use more")


@torch.no_grad()
def pooled_activations(model: nn.Module, layer: Layer, images: Tensor) -> Tensor:
    """Return the spatially averaged activations of `layer`, [B, N], for `images` [B, C, H, W]."""
    with recorded(model, layer) as activations:
        model(images)
    return layer.pool(activations[0])


def class_prompts(class_names: Sequence[str], prompts: Sequence[str] | None) -> tuple[str, ...]:
    """Return one prompt a class: `prompts` if given, else the bare class names, as the authors use.

    Raises:
        InputError: if there are more or fewer prompts than classes.
    """
    if prompts is None:
        return tuple(class_names)
    if len(prompts) != len(class_names):
        raise InputError(f"expected {len(class_names)} prompts, one a class, got {len(prompts)}")
    return tuple(prompts)


def clip_dissect(
    model: nn.Module,
    probe: LabeledImages,
    clip: "Clip",
    *,
    layer: str = PENULTIMATE,
    prompts: Sequence[str] | None = None,
    batch_size: int = 256,
) -> NeuronScores:
    """Rank the neurons of `layer` by CD-IR in this process.

    Args:
        model: takes images in [0, 1] and returns logits; in eval mode.
        probe: at least 100 images, best from the training set.
        clip: embeds images and prompts.
        layer: "penultimate" or a module's path.
        prompts: one a class; the bare class names by default.
        batch_size: images a forward pass.

    Raises:
        InputError: for a layer that cannot be masked, too few probe images, or a wrong number of prompts.
    """
    prompts = class_prompts(probe.class_names, prompts)
    parameter = next(model.parameters(), torch.zeros(()))
    text = clip.embed_text(prompts)
    found: Layer | None = None
    similarities, activations = [], []
    for images, _ in probe.batches(batch_size):
        similarities.append(clip.embed_images(images) @ text.T)
        images = images.to(device=parameter.device, dtype=parameter.dtype)
        if found is None:
            found = find_layer(model, layer, images[:1])
        activations.append(pooled_activations(model, found, images).cpu())
    return NeuronScores(
        soft_wpmi(torch.cat(similarities).cpu(), torch.cat(activations)),
        method="cdir",
        layer=layer,
        details={
            "probe": probe.fingerprint,
            "probe_images": len(probe),
            "clip": clip.identity,
            "prompts": list(prompts),
        },
    )
