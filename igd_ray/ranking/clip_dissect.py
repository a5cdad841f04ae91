"""CD-IR: a neuron matters to a class if its most activating images look like the class's name to CLIP.

CLIP-Dissect (Oikarinen & Weng, ICLR 2023) with class names as concepts and the soft-WPMI similarity, as used by
Kulkarni & Weng, ECCV 2024, sec. 4.2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from igd_ray.data.images import LabeledImages
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer, find_layer, recorded
from igd_ray.ranking.prompts import class_prompts, embed_classes
from igd_ray.ranking.scores import NeuronScores
from igd_ray.ranking.similarity import SOFT_WPMI, default_top_k, require_top_images, similarity_function

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip


@torch.no_grad()
def pooled_activations(model: nn.Module, layer: Layer, images: Tensor) -> Tensor:
    """Return the spatially averaged activations of `layer`, [B, N], for `images` [B, C, H, W]."""
    with recorded(model, layer) as activations:
        model(images)
    return layer.pool(activations[0])


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
        prompts: one a class; the bare class names by default.
        templates: one or more, such as "a photo of a {}.", instead; a class's embedding is their mean.
        similarity: one of `SIMILARITIES`; the authors use soft-WPMI.
        batch_size: images a forward pass.

    Raises:
        InputError: for a layer that cannot be masked, too few probe images, prompts or templates that do not fit, or
            an unknown similarity.
    """
    compare = similarity_function(similarity)
    top_k = default_top_k(similarity, len(probe))
    require_top_images(len(probe), top_k)
    texts = class_prompts(probe.class_names, prompts=prompts, templates=templates)
    classes = embed_classes(clip, texts)
    parameter = next(model.parameters(), torch.zeros(()))
    found: Layer | None = None
    similarities, activations = [], []
    for images, _ in probe.batches(batch_size):
        similarities.append((clip.embed_images(images) @ classes.T).cpu())
        images = images.to(device=parameter.device, dtype=parameter.dtype)
        if found is None:
            found = find_layer(model, layer, images[:1])
        activations.append(pooled_activations(model, found, images).cpu())
    return NeuronScores(
        compare(torch.cat(similarities), torch.cat(activations), top_k=top_k),
        method="cdir",
        layer=layer,
        details={
            "probe": probe.fingerprint,
            "probe_images": len(probe),
            "clip": clip.identity,
            "prompts": [list(texts_of_class) for texts_of_class in texts],
            "similarity": similarity,
            "top_k": top_k,
        },
    )
