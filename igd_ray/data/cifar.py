"""CIFAR-10 and CIFAR-100 from their own archives, read by torchvision."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from igd_ray.data.class_names import rename_classes
from igd_ray.data.identifiers import row_id
from igd_ray.data.images import ArrayReader, LabeledImages
from igd_ray.data.request import Request
from igd_ray.errors import InputError, did_you_mean, first_line

SPLITS = ("train", "test")

FOLDER_VARIABLE = "IGD_DATA"
DEFAULT_FOLDER = "data"


def load_cifar10(request: Request) -> LabeledImages:
    """Return images of CIFAR-10; see `_load`."""
    from torchvision.datasets import CIFAR10  # here, because it takes a second and most commands need no CIFAR

    return _load(request, CIFAR10)


def load_cifar100(request: Request) -> LabeledImages:
    """Return images of CIFAR-100 with its fine labels; see `_load`."""
    from torchvision.datasets import CIFAR100

    return _load(request, CIFAR100)


# torchvision is untyped: `dataset_class` is its CIFAR10 or the subclass CIFAR100.
def _load(request: Request, dataset_class: Any) -> LabeledImages:
    """Return images float32 [n, 3, 32, 32] in [0, 1], in the archive's order.

    The archive lies in the folder `request.location`. Without one, in $IGD_DATA or ./data, and is downloaded if
    it is not there.

    Raises:
        InputError: if there is no such split; or the files are missing or damaged, or cannot be downloaded.
    """
    if request.split not in SPLITS:
        raise InputError(
            f"split of {request.spec!r} must be one of {', '.join(SPLITS)}, "
            f"not {request.split!r}{did_you_mean(request.split, SPLITS)}"
        )
    name = request.spec.partition(":")[0]
    download = not request.location
    root = Path(request.location or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser()
    if root.name == dataset_class.base_folder:
        root = root.parent
    # The archive holds pickles, which can run code when they are read. torchvision compares the MD5 digest of
    # every file with the published one, whether it downloads or not, and raises before it unpickles one that differs.
    try:
        dataset = dataset_class(root, train=request.split == "train", download=download)
    except (OSError, RuntimeError) as error:  # not there, damaged; no connection, no space
        reason = f"the download failed ({first_line(error)})" if download else "they are missing or damaged"
        others = "" if download else f"; write {name} to download them"
        raise InputError(
            f"{request.spec}: expected the published files of {dataset_class.base_folder} in {root}, "
            f"but {reason}{others}; or give the images as parquet:FILE"
        ) from error
    pixels = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
    rows = request.window.rows(len(pixels), str(request))
    images = LabeledImages(
        reader=ArrayReader(pixels),
        indices=np.arange(rows.start, rows.stop, dtype=np.int64),
        labels=torch.tensor(dataset.targets[rows.start : rows.stop], dtype=torch.int64),
        ids=tuple(row_id(f"{name}-{request.split}", row, pixels[row].tobytes()) for row in rows),
        class_names=tuple(dataset.classes),
        spec=request.spec,
        split=request.split,
    )
    return rename_classes(images, request.class_names)
