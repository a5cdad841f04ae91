"""Handwritten digits, 8×8 grey levels: small enough for a demo, bundled with scikit-learn, so never downloaded."""

import hashlib

import numpy as np
import torch

from igd_ray.data.images import ArrayReader, LabeledImages
from igd_ray.errors import InputError, did_you_mean

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# In file order, as samples of one writer follow each other: shuffling would put most writers into both splits.
SPLITS = {"train": slice(0, 1257), "test": slice(1257, 1797)}

GREY_LEVELS = 16


def digits_images(split: str) -> LabeledImages:
    """Return the 1257 "train" or the 540 "test" images of scikit-learn's digits, in file order.

    Images are float32 [n, 1, 8, 8] in [0, 1] (17 grey levels); class names are the English words, which
    serve as CLIP prompts; ids are "digits-<index in the file>-<digest of the pixels>". Source: the test
    part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

    Raises:
        InputError: if there is no such split.
    """
    if split not in SPLITS:
        raise InputError(
            f"split of 'digits' must be one of {', '.join(SPLITS)}, not {split!r}{did_you_mean(split, SPLITS)}"
        )
    # Imported here because scikit-learn takes a second to import, and only the demo's data come from it.
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = (bundle.images / GREY_LEVELS).astype(np.float32)[:, np.newaxis]
    indices = np.arange(len(pixels), dtype=np.int64)[SPLITS[split]]
    return LabeledImages(
        reader=ArrayReader(pixels),
        indices=indices,
        labels=torch.from_numpy(bundle.target.astype(np.int64)[indices]),
        ids=tuple(f"digits-{index:05d}-{hashlib.sha256(pixels[index].tobytes()).hexdigest()[:8]}" for index in indices),
        class_names=CLASS_NAMES,
        spec="digits",
        split=split,
    )
