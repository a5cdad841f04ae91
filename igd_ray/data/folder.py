"""Images in folders as torchvision's ImageFolder wants them: DIR/<split>/<class>/*.png, or DIR/<class>/*.png."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from igd_ray.data.decoding import decode_image, stack_images
from igd_ray.data.images import LabeledImages, Request, content_digest
from igd_ray.errors import InputError, did_you_mean, first_line

File = TypeVar("File")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})

# A folder without split folders is one split: calling it both "train" and "test" would rank and judge on
# the same images.
SPLIT_OF_PLAIN_FOLDER = "test"


@dataclass(frozen=True)
class FileReader:
    """Decodes image files when they are asked for.

    Attributes:
        paths: one file an image.
        digests: what each file's content hashed to when it was listed.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images of the files `indices`, float32 [len(indices), C, H, W] in [0, 1].

        Raises:
            InputError: naming the file, if one does not decode, has changed since, or differs in size.
        """
        names = [str(self.paths[index]) for index in indices]
        encoded = [read_unchanged(self.paths[index], self.digests[index]) for index in indices]
        return stack_images([decode_image(*pair) for pair in zip(encoded, names, strict=True)], names)


def load_folder(request: Request) -> LabeledImages:
    """Return images of the folder `request.location`: the first of every class, the second of every class, and so on.

    If a sub-folder has sub-folders of its own, sub-folders are splits, and the classes are those of all splits
    together, so that a label means the same in each. If none has, they are the classes of one split, "test".
    Labels count the sorted class folders; or, given `request.class_names`, are the folder's position there.
    Classes take turns in the order of their names, each with its files in the order of theirs, until it has none
    left. Class by class, as torchvision lists them, the first n images would show the first few classes only, and
    with them every small evaluation and every probe set that a ranking looks at.

    Raises:
        InputError: if there is no such folder or split, or no image, or a class folder is not in `class_names`,
            or a file cannot be read.
    """
    if not request.location:
        raise InputError(f"data spec {request.spec!r} names no folder; write folder:DIR")
    root = Path(request.location).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder, but {'it is a file' if root.exists() else 'there is none'}")
    root = root.absolute()  # a copy of the images may be read in another working directory
    split_root, found = _split_and_classes(root, request)
    class_names = request.class_names or found
    for name in found:
        if name not in class_names:
            raise InputError(
                f"{root}: the class folder {name!r} is not among the {len(class_names)} class_names"
                f"{did_you_mean(name, class_names)}"
            )
    files = list(
        taking_turns(
            [
                [(path, class_names.index(folder.name)) for path in _image_files(folder)]
                for folder in _sub_folders(split_root)
            ]
        )
    )
    rows = request.window.rows(len(files), str(request))
    paths = tuple(path for path, _ in files[rows.start : rows.stop])
    digests = tuple(content_digest(read_bytes(path)) for path in paths)
    return LabeledImages(
        reader=FileReader(paths, digests),
        indices=np.arange(len(paths), dtype=np.int64),
        labels=torch.tensor([label for _, label in files[rows.start : rows.stop]], dtype=torch.int64),
        ids=tuple(f"{path.relative_to(root).as_posix()}-{digest}" for path, digest in zip(paths, digests, strict=True)),
        class_names=class_names,
        spec=request.spec,
        split=request.split,
    )


def _split_and_classes(root: Path, request: Request) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of the split, and the names of all classes, sorted."""
    children = _sub_folders(root)
    splits = {child.name: child for child in children if _sub_folders(child)}
    if not splits:
        if not children:
            raise InputError(f"{root}: expected a sub-folder for every class, with images in it, but there is none")
        if request.split != SPLIT_OF_PLAIN_FOLDER:
            raise InputError(
                f"{root} has no folders of splits, so all of it is the split {SPLIT_OF_PLAIN_FOLDER!r}: for the split "
                f"{request.split!r} put its classes in {root / request.split}, "
                f"the others in {root / SPLIT_OF_PLAIN_FOLDER}"
            )
        return root, tuple(child.name for child in children)
    if request.split not in splits:
        raise InputError(
            f"{root} has the splits {', '.join(splits)}, not {request.split!r}{did_you_mean(request.split, splits)}"
        )
    classes = {child.name for split in splits.values() for child in _sub_folders(split)}
    return splits[request.split], tuple(sorted(classes))


def taking_turns(classes: Sequence[Sequence[File]]) -> Iterator[File]:
    """Yield the first of every class, then the second of every class that has one, and so on."""
    for row in zip_longest(*classes):
        yield from (file for file in row if file is not None)


def _sub_folders(folder: Path) -> list[Path]:
    # Hidden ones (.ipynb_checkpoints and the like) are not the user's.
    return [path for path in _sorted_children(folder) if path.is_dir() and not path.name.startswith(".")]


def _image_files(folder: Path) -> list[Path]:
    files = [
        path
        for path in _sorted_children(folder)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    for path in files:
        try:
            path.name.encode()
        except UnicodeEncodeError:  # names are ids, and the catalog stores ids as UTF-8
            raise InputError(f"{folder}: the file name {path.name!r} is not valid UTF-8; rename the file") from None
    return files


def _sorted_children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({first_line(error)})") from error


def read_unchanged(path: Path, digest: str) -> bytes:
    """Return the content of `path`.

    Raises:
        InputError: if it cannot be read, or its digest is not `digest`.
    """
    content = read_bytes(path)
    if content_digest(content) != digest:
        raise InputError(f"{path}: the file has changed since its id was made; load the images again")
    return content


def read_bytes(path: Path) -> bytes:
    """Return the content of `path`.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable image file ({first_line(error)})") from error
