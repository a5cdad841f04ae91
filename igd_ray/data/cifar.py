"""CIFAR-10 and CIFAR-100 from their own archives, in the binary version: pixels and labels, no pickles."""

import hashlib
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from igd_ray.data import class_names
from igd_ray.data.images import ArrayReader, LabeledImages, Request, row_id
from igd_ray.downloads import download_to, note_download, transfer
from igd_ray.errors import IgdError, InputError, did_you_mean, first_line

FOLDER_VARIABLE = "IGD_DATA"
DEFAULT_FOLDER = "data"

ORIGIN = "https://www.cs.toronto.edu/~kriz/"
SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Archive:
    """A published archive: its files are records of one or more labels, a byte each, and the pixels of an image.

    Attributes:
        file, md5: name and digest.
        members: the files of each split, in order.
        labels: how many labels an image has; the last one counts.
        class_names: in the order of the labels.
    """

    file: str
    md5: str
    members: Mapping[str, Sequence[str]]
    labels: int
    class_names: tuple[str, ...]


CIFAR10 = Archive(
    file="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    members={
        "train": [f"cifar-10-batches-bin/data_batch_{batch}.bin" for batch in range(1, 6)],
        "test": ["cifar-10-batches-bin/test_batch.bin"],
    },
    labels=1,
    class_names=class_names.CIFAR10,
)
CIFAR100 = Archive(
    file="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    members={"train": ["cifar-100-binary/train.bin"], "test": ["cifar-100-binary/test.bin"]},
    labels=2,
    class_names=class_names.CIFAR100,
)


def load_cifar10(request: Request) -> LabeledImages:
    """Return images of CIFAR-10, float32 [n, 3, 32, 32] in [0, 1], in the archive's order.

    The archive lies in the folder `request.location`. Without one, in $IGD_DATA or ./data, and is downloaded if
    it is not there.

    Raises:
        InputError: if there is no such split; or the archive is missing or damaged, or cannot be downloaded.
    """
    return _load(request, CIFAR10)


def load_cifar100(request: Request) -> LabeledImages:
    """Return images of CIFAR-100 with its fine labels; see `load_cifar10`."""
    return _load(request, CIFAR100)


def _load(request: Request, archive: Archive) -> LabeledImages:
    if request.split not in archive.members:
        raise InputError(
            f"split of {request.spec!r} must be one of {', '.join(archive.members)}, "
            f"not {request.split!r}{did_you_mean(request.split, archive.members)}"
        )
    name = request.spec.partition(":")[0]
    folder = Path(request.location or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser()
    if not request.location:
        _download(archive, folder)
    try:
        with (folder / archive.file).open("rb") as file:
            records = _read(file, archive, request.split)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{request.spec}: expected the published {archive.file} in {folder}, but {first_line(error)}; "
            f"write {name} to download it, or give the images as parquet:FILE (the Python version, which is of "
            "pickles, is never read)"
        ) from error
    if not request.location:
        note_download(f"{archive.file}, MD5 {archive.md5}")
    labels = records[:, archive.labels - 1].astype(np.int64)
    pixels = np.ascontiguousarray(records[:, archive.labels :]).reshape(-1, *SHAPE)
    rows = request.window.rows(len(pixels), str(request))
    return LabeledImages(
        reader=ArrayReader(pixels),
        indices=np.arange(rows.start, rows.stop, dtype=np.int64),
        labels=torch.from_numpy(labels[rows.start : rows.stop].copy()),
        ids=tuple(row_id(f"{name}-{request.split}", row, pixels[row].tobytes()) for row in rows),
        class_names=archive.class_names,
        spec=request.spec,
        split=request.split,
    )


def _download(archive: Archive, folder: Path) -> None:
    """Download `archive` into `folder`, unless it is there already.

    Raises:
        InputError: if that fails.
    """
    if (folder / archive.file).is_file():
        return
    try:
        download_to(folder / archive.file, partial(transfer, ORIGIN + archive.file), digest=f"md5:{archive.md5}")
    except (OSError, IgdError) as error:
        raise InputError(
            f"{archive.file}: the download to {folder} failed ({first_line(error)}); try again, put the file there, "
            "or give the images as parquet:FILE"
        ) from error


def _read(file: BufferedReader, archive: Archive, split: str) -> npt.NDArray[np.uint8]:
    """Return the records of a split, uint8 [n, labels + pixels].

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not the published archive.
    """
    digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != archive.md5:
        raise ValueError(f"its MD5 digest is {digest}, not {archive.md5}: delete it")
    file.seek(0)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r:gz") as packed:
        for member in packed:  # in one pass: going back would decompress again
            content = packed.extractfile(member) if member.name in archive.members[split] else None
            if content is not None:
                found[member.name] = content.read()
    whole = b"".join(found[name] for name in archive.members[split])
    return np.frombuffer(whole, np.uint8).reshape(-1, archive.labels + int(np.prod(SHAPE)))
