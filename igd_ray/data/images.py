"""Labelled images as every stage sees them: float32 in [0, 1], a label, and an id that never changes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import content_hash

# Hexadecimal digits of a digest in an image's id, behind the last dash.
DIGEST_LENGTH = 8


class ImageReader(Protocol):
    """Where pixels come from: an array in memory, rows of a Parquet file, files of a folder."""

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, at least one, as contiguous float32 [len(indices), C, H, W] in [0, 1]."""
        ...


def to_unit_range(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Return uint8 pixels in [0, 255] as contiguous float32 in [0, 1], of the same shape."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32) / 255


class ArrayReader:
    """Reads images from a NumPy array: uint8 [n, C, H, W] in [0, 255] or float32 [n, C, H, W] in [0, 1]."""

    def __init__(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> None:
        self._pixels = pixels

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, float32 [len(indices), C, H, W] in [0, 1]."""
        chosen: npt.NDArray[Any] = self._pixels[np.asarray(indices, dtype=np.int64)]
        if chosen.dtype == np.uint8:
            return to_unit_range(chosen)
        return torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32))


@dataclass(frozen=True, eq=False)  # tensors do not compare to one bool; compare fingerprints
class LabeledImages:
    """Images with labels, ids and class names, read when they are asked for.

    Attributes:
        reader: gives the pixels; `indices[i]` is where it finds image i.
        indices: int64 [n].
        labels: int64 [n], each in 0…len(class_names) − 1.
        ids: n stable strings that change when the pixels change (they contain a digest of the content).
        class_names: one name a class.
        spec, split: where the images come from, for people.

    Raises:
        InputError: if there is no image, labels are not int64 [n], or a label has no class name.
    """

    reader: ImageReader = field(repr=False)
    indices: npt.NDArray[np.int64] = field(repr=False)
    labels: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    class_names: tuple[str, ...]
    spec: str
    split: str

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            raise InputError(f"the split {self.split!r} of {self.spec!r} has no images: at least one is needed")
        if not len(self.ids) == len(self.indices) == len(self.labels):
            raise InputError(
                f"{self.spec}: {len(self.indices)} images, {len(self.labels)} labels and {len(self.ids)} ids "
                "do not match"
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise InputError(
                f"{self.spec}: expected int64 labels [n], got {self.labels.dtype} {list(self.labels.shape)}"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            wrong = low if low < 0 else high
            raise InputError(f"labels of {self.spec!r} must lie in 0…{len(self.class_names) - 1}, but one is {wrong}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: slice | Sequence[int]) -> "LabeledImages":
        """Return the images at `positions`, each in 0…n − 1, in that order, without reading any.

        Raises:
            InputError: if no position is given, or one is outside.
        """
        chosen = np.arange(len(self))[positions] if isinstance(positions, slice) else np.asarray(positions)
        if len(chosen) == 0:
            raise InputError(f"no position was given: choose at least one of the {len(self)} images of {self.spec!r}")
        # A negative position would silently count from the end, a mask would be taken for positions 0 and 1.
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= len(self):
            raise InputError(
                f"positions must be integers in 0…{len(self) - 1}, one after the other, "
                f"got {chosen.dtype} {chosen.tolist()[:8]}"
            )
        chosen = chosen.astype(np.int64)
        return LabeledImages(
            reader=self.reader,
            indices=self.indices[chosen],
            labels=self.labels[torch.from_numpy(chosen)],
            ids=tuple(self.ids[position] for position in chosen),
            class_names=self.class_names,
            spec=self.spec,
            split=self.split,
        )

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float32 [b, C, H, W] in [0, 1], labels int64 [b]) with b ≤ `size`, in order.

        Raises:
            InputError: if `size` is less than 1, a pixel is NaN or outside [0, 1], or images differ in size.
        """
        if size < 1:
            raise InputError(f"batch size must be at least 1, not {size}")
        expected = None
        for start in range(0, len(self), size):
            images = self.reader.read(self.indices[start : start + size].tolist())
            check_images(images, where=f"{self.spec} ({self.split})")
            expected = expected or images.shape[1:]
            if images.shape[1:] != expected:
                raise InputError(
                    f"{self.ids[start]}: all images of {self.spec!r} must have the same size; expected [C, H, W] = "
                    f"{list(expected)} as before, got {list(images.shape[1:])}; resize or convert the images first"
                )
            yield images, self.labels[start : start + size]

    @cached_property
    def images(self) -> Tensor:
        """All images at once, float32 [n, C, H, W] in [0, 1]; meant for sets that fit in memory."""
        return torch.cat([images for images, _ in self.batches(1024)])

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the first image."""
        channels, height, width = self.reader.read(self.indices[:1].tolist()).shape[1:]
        return int(channels), int(height), int(width)

    def __getstate__(self) -> dict[str, Any]:
        # What was computed from the fields stays here: decoded images would weigh on every copy sent to a worker.
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @cached_property
    def fingerprint(self) -> str:
        """The hash of ids and labels; as ids contain a digest of the content, of the images too."""
        return content_hash([list(self.ids), self.labels.tolist()])


def check_images(images: Tensor, *, where: str = "images") -> None:
    """Check that `images` is a float [n, C, H, W] tensor without NaN and within [0, 1].

    Raises:
        InputError: saying what came instead.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"{where}: expected float images [n, C, H, W], got {images.dtype} {list(images.shape)}")
    if images.numel() == 0:
        raise InputError(f"{where}: expected at least one image, got shape {list(images.shape)}")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):  # NaN fails every comparison
        raise InputError(
            f"{where}: pixels must lie in [0, 1] and not be NaN, but the range is [{low:g}, {high:g}]; "
            "divide by 255 and leave normalisation to the model"
        )


def content_digest(content: bytes) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of `content`: encoded bytes, or raw pixels."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def row_id(stem: str, row: int, content: bytes) -> str:
    """Return the id of the image in row `row` of `stem`.

    >>> row_id("test", 3, b"")
    'test-000003-e3b0c442'
    """
    return f"{stem}-{row:06d}-{content_digest(content)}"


def digest_of(image_id: str) -> str:
    """Return the digest in an id.

    >>> digest_of("test-000003-e3b0c442")
    'e3b0c442'
    """
    return image_id.rpartition("-")[2]


# Options behind a location, as in ``parquet:FILE?label_column=target&mode=RGB``: how labels are found, and how images
# are read; `imagenet:` has one more, which it reads itself.
LABEL_COLUMN, MODE = "label_column", "mode"


PREPROCESSING = "preprocessing"


# The settings that stand for them.
SETTINGS = {"label_column": LABEL_COLUMN, "image_mode": MODE}


@dataclass(frozen=True)
class Window:
    """The first `count` images of a split, or the last ones; all of them if `count` is None.

    Attributes:
        count: how many.
        from_end: whether the last ones.
        capped: whether fewer will do where there are fewer.

    Raises:
        InputError: if `count` is less than 1.
    """

    count: int | None = None
    from_end: bool = False
    capped: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"the number of images must be at least 1, not {self.count}")

    def rows(self, size: int, where: str) -> range:
        """Return the rows that this window takes from the `size` images of `where`.

        Raises:
            InputError: if there are none, or fewer than `count`.
        """
        if size == 0:
            raise InputError(f"{where} has no images: at least one is needed")
        if self.count is None:
            return range(size)
        if self.count > size and self.capped:
            return range(size)
        if self.count > size:
            raise InputError(f"{where} has {size} images, but {self.count} were asked for; ask for at most {size}")
        return range(size - self.count, size) if self.from_end else range(self.count)


@dataclass(frozen=True)
class Request:
    """A data spec taken apart, and what is wanted of it.

    Attributes:
        spec: as the user wrote it, for messages.
        location: what follows the colon of the spec; empty if nothing does.
        split: "train", "test", or another name where the source has it.
        window: which images of the split; a source reads and hashes no others.
        class_names: names that replace the source's own, or None; a source looks here where labels depend on them.
        label_column: the column of the labels, where a table has them; None for a usual name.
    """

    spec: str
    location: str
    split: str
    window: Window
    class_names: tuple[str, ...] | None
    label_column: str | None = None

    def __str__(self) -> str:
        return f"the split {self.split!r} of {self.spec!r}"


Source = Callable[[Request], LabeledImages]


def split_options(location: str) -> tuple[str, dict[str, str]]:
    """Return a location without its options, and the options.

    A "?" that no option follows is part of the location, as in a pattern of file names. An option that only its
    source reads stays there.

    >>> split_options("test-0000?.parquet?mode=L")
    ('test-0000?.parquet', {'mode': 'L'})

    Raises:
        InputError: if an option is unknown, or has no value.
    """
    before, mark, text = location.rpartition("?")
    if not mark or "=" not in text:
        return location, {}
    options: dict[str, str] = {}
    kept = []
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if name == PREPROCESSING:
            kept.append(part)
        elif name not in (LABEL_COLUMN, MODE) or not value or name in options:
            known = (LABEL_COLUMN, MODE, PREPROCESSING)
            raise InputError(
                f"options of data are {', '.join(f'{each}=…' for each in known)}, each once, not {part!r}"
                f"{did_you_mean(name, known)}"
            )
        else:
            options[name] = value
    return f"{before}?{'&'.join(kept)}" if kept else before, options


def with_options(spec: str, settings: Mapping[str, str]) -> str:
    """Return the data spec with options for those of SETTINGS that are given.

    >>> with_options("parquet:test.parquet", {"label_column": "target"})
    'parquet:test.parquet?label_column=target'

    Raises:
        InputError: if the spec has such an option, or a value cannot be written as one.
    """
    name, colon, location = spec.partition(":")
    _, given = split_options(location)
    parts = []
    for setting, option in SETTINGS.items():
        if setting not in settings:
            continue
        value, flag = settings[setting], "--" + setting.replace("_", "-")
        if option in given:
            raise InputError(f"{spec} has the option {option} already; leave it or {flag} out")
        if not value or set(value) & set("&?="):
            raise InputError(f"{flag} must be a name without &, ? and =, not {value!r}")
        parts.append(f"{option}={value}")
    if not parts:
        return spec
    joined = "&" if given or f"?{PREPROCESSING}=" in location else "?"
    return f"{name}{colon or ':'}{location}{joined}{'&'.join(parts)}"
