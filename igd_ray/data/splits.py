"""Sets of images that share none: one to rank neurons on, one to choose k, σ and τ on, one to judge on."""

from collections.abc import Sequence

import torch

from igd_ray.data.images import LabeledImages, Window, digest_of
from igd_ray.data.loading import load_window
from igd_ray.errors import InputError


def probe_and_search(
    spec: str,
    *,
    probe_n: int,
    search_n: int,
    search_split: str = "train",
    class_names: str | Sequence[str] | None = None,
) -> tuple[LabeledImages, LabeledImages]:
    """Return the probe images and the search images of `spec`, which share no row.

    The probe images are the first `probe_n` of the training split, the search images the last `search_n` of theirs,
    so that neither size moves the other's images where both come from one split.

    Args:
        spec: where the images come from.
        probe_n, search_n: how many.
        search_split: where the search images come from.
        class_names: names that replace the source's own.

    Raises:
        InputError: if they would overlap, a split has too few images, or the two splits name different classes.
    """
    shared_split = search_split == "train"
    probe = load_window(spec, split="train", window=Window(probe_n), class_names=class_names)
    search = load_window(spec, split=search_split, window=Window(search_n, from_end=True), class_names=class_names)
    overlap = len(set(probe.ids) & set(search.ids)) if shared_split else 0
    if overlap:
        available = probe_n + search_n - overlap
        raise InputError(
            f"{probe_n} probe and {search_n} search images share {overlap}, as the split 'train' of {spec!r} has only "
            f"{available}; take fewer, together at most {available}"
        )
    if probe.class_names != search.class_names:
        raise InputError(
            f"the splits 'train' and {search_split!r} of {spec!r} must have the same classes, but they have "
            f"{len(probe.class_names)} and {len(search.class_names)}, or other names; give class_names"
        )
    return probe, search


def require_disjoint(first: LabeledImages, second: LabeledImages, what: str) -> None:
    """Check that no image of `second` has the content of one in `first`.

    Digests in the ids find the candidates, and their pixels are then compared: eight digits are few enough that
    two different images among 50 000 × 10 000 share a digest one time in nine. The digests are of encoded bytes,
    so the same pixels stored as PNG and as JPEG are not found.

    Args:
        what: names the two sets in the message, such as "probe and evaluation images".

    Raises:
        InputError: saying how many images of `second` are shared.
    """
    positions = {digest_of(image_id): position for position, image_id in enumerate(first.ids)}
    candidates: dict[str, list[int]] = {}
    for position, image_id in enumerate(second.ids):
        if digest_of(image_id) in positions:
            candidates.setdefault(digest_of(image_id), []).append(position)
    shared = [
        position
        for digest, found in candidates.items()
        if _same_pixels(first, positions[digest], second, found[0])
        for position in found
    ]
    if shared:
        raise InputError(
            f"{what} must not share images, but {len(shared)} of {len(second)} have the content of one of the other "
            f"{len(first)}, the first being {second.ids[min(shared)]}; choose other splits or numbers"
        )


def _same_pixels(first: LabeledImages, position: int, second: LabeledImages, other: int) -> bool:
    (pixels, _), (others, _) = (
        next(images.select([at]).batches(1)) for images, at in ((first, position), (second, other))
    )
    return torch.equal(pixels, others)
