"""Handwritten digits, 8×8 grey levels: small enough for a demo, bundled with scikit-learn, so never downloaded."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

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
    # Read as scikit-learn's load_digits does, which takes a second to import.
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a requirement"
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels = (table[:, :-1].reshape(-1, 1, 8, 8) / GREY_LEVELS).astype(np.float32)
    indices = np.arange(len(pixels), dtype=np.int64)[SPLITS[split]]
    return LabeledImages(
        reader=ArrayReader(pixels),
        indices=indices,
        labels=torch.from_numpy(table[:, -1].astype(np.int64)[indices]),
        ids=tuple(f"digits-{index:05d}-{hashlib.sha256(pixels[index].tobytes()).hexdigest()[:8]}" for index in indices),
        class_names=CLASS_NAMES,
        spec="digits",
        split=split,
    )
