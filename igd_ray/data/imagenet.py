"""ImageNet-1k from its extracted archives: RobustBench's 5000 validation images, and the training images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from igd_ray.data.decoding import decode_image, stack_images
from igd_ray.data.folder import SUFFIXES, read_bytes, read_unchanged, taking_turns
from igd_ray.data.images import LabeledImages, Request, content_digest
from igd_ray.errors import InputError, did_you_mean, first_line

TRAIN = "train"
VALIDATION = "val"
SPLITS = (TRAIN, "test", VALIDATION)

# RobustBench's names: (shorter side, or both without a crop; interpolation; side of the central crop).
PREPROCESSINGS: dict[str, tuple[int | None, str, int | None]] = {
    "Res256Crop224": (256, "bilinear", 224),
    "BicubicRes256Crop224": (256, "bicubic", 224),
    "Res224": (224, "bilinear", None),
    "Crop288": (None, "bilinear", 288),
}
DEFAULT_PREPROCESSING = "Res256Crop224"
OPTION = "?preprocessing="


@dataclass(frozen=True)
class ImageNetReader:
    """Decodes, resizes and crops image files when they are asked for.

    Attributes:
        paths: one file an image.
        digests: what each file's content hashed to when it was listed.
        preprocessing: a key of PREPROCESSINGS.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    preprocessing: str

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images of the files `indices`, float32 [len(indices), 3, S, S] in [0, 1].

        Raises:
            InputError: naming the file, if one does not decode or has changed since.
        """
        transform = _transform(self.preprocessing)
        names = [str(self.paths[index]) for index in indices]
        pixels = []
        for index, name in zip(indices, names, strict=True):
            decoded = decode_image(read_unchanged(self.paths[index], self.digests[index]), name)
            pixels.append(_preprocess(decoded, transform))
        return stack_images(pixels, names)


def load_imagenet(request: Request) -> LabeledImages:
    """Return images of ImageNet-1k, extracted to `request.location` as DIR/val/<wnid>/*.JPEG and DIR/train/<wnid>/….

    The split "test", also called "val", is the 5000 validation images that RobustBench evaluates on, in its order;
    only the files asked for must exist. In the split "train" classes take turns, as in `load_folder`. Labels count
    the sorted WordNet ids; class names are torchvision's. Images are float32 [n, 3, 224, 224] in [0, 1] after
    RobustBench's "Res256Crop224", or the preprocessing named by ``DIR?preprocessing=NAME``; the name is part of the
    ids, as it changes the pixels. Source: RobustBench (Croce et al., 2021), `robustbench.data` and `loaders`.

    Raises:
        InputError: if there is no such folder, split or preprocessing; a listed file, or a class folder of the
            training split, is missing; or a file cannot be read.
    """
    root, preprocessing = _root_and_preprocessing(request)
    if request.split not in SPLITS:
        raise InputError(
            f"split of {request.spec!r} must be one of {', '.join(SPLITS)}, "
            f"not {request.split!r}{did_you_mean(request.split, SPLITS)}"
        )
    labels_of = json.loads(_helper_file("imagenet_class_to_id_map.json"))
    folder = root / (TRAIN if request.split == TRAIN else VALIDATION)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the extracted images in a folder for every WordNet id; no folder there")
    if request.split == TRAIN:
        names = _training_files(folder, sorted(labels_of))
    else:
        names = _helper_file("imagenet_test_image_ids.txt").split()
    rows = request.window.rows(len(names), str(request))
    names = names[rows.start : rows.stop]
    paths = tuple(folder / name for name in names)
    digests = tuple(content_digest(read_bytes(path)) for path in paths)
    return LabeledImages(
        reader=ImageNetReader(paths, digests, preprocessing),
        indices=np.arange(len(paths), dtype=np.int64),
        labels=torch.tensor([labels_of[name.partition("/")[0]] for name in names], dtype=torch.int64),
        ids=tuple(
            f"{folder.name}/{name}-{preprocessing}-{digest}" for name, digest in zip(names, digests, strict=True)
        ),
        class_names=_class_names(),
        spec=request.spec,
        split=request.split,
    )


def _root_and_preprocessing(request: Request) -> tuple[Path, str]:
    location, option, preprocessing = request.location.partition(OPTION)
    preprocessing = preprocessing if option else DEFAULT_PREPROCESSING
    if preprocessing not in PREPROCESSINGS:
        raise InputError(
            f"preprocessing of {request.spec!r} must be one of {', '.join(PREPROCESSINGS)}, "
            f"not {preprocessing!r}{did_you_mean(preprocessing, PREPROCESSINGS)}"
        )
    if not location:
        raise InputError(f"data spec {request.spec!r} names no folder; write imagenet:DIR")
    root = Path(location).expanduser().absolute()  # a copy of the images may be read in another working directory
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder with train and val in it, but there is none")
    return root, preprocessing


def _training_files(folder: Path, wnids: Sequence[str]) -> list[str]:
    """Return "<wnid>/<file>" for every training image, classes taking turns."""
    classes = []
    for wnid in wnids:
        try:
            # No `is_file` for each of 1.3 million names: one that cannot be read is found when it is hashed.
            names = sorted(path.name for path in (folder / wnid).iterdir())
        except OSError as error:
            raise InputError(
                f"{folder / wnid}: expected a class folder for each of the {len(wnids)} classes ({first_line(error)})"
            ) from error
        classes.append([f"{wnid}/{name}" for name in names if Path(name).suffix.lower() in SUFFIXES and name[0] != "."])
        if not classes[-1]:
            raise InputError(f"{folder / wnid}: expected images of this class, but there is none; extract its archive")
    return list(taking_turns(classes))


def _helper_file(name: str) -> str:
    # Found without importing robustbench, which takes seconds.
    spec = find_spec("robustbench")
    if spec is None or spec.origin is None:
        raise InputError("imagenet: expected robustbench, whose list of test images is used; install it")
    return (Path(spec.origin).parent / "helper_files" / name).read_text(encoding="utf-8")


def _class_names() -> tuple[str, ...]:
    from torchvision.models import ResNet18_Weights  # here, because it takes a second and only ImageNet needs it

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _transform(preprocessing: str) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms

    side, interpolation, crop = PREPROCESSINGS[preprocessing]
    steps: list[Any] = []
    if side is not None:
        size = side if crop is not None else [side, side]
        steps.append(transforms.Resize(size, interpolation=transforms.InterpolationMode(interpolation)))
    if crop is not None:
        steps.append(transforms.CenterCrop(crop))
    composed: Callable[[Image.Image], Image.Image] = transforms.Compose(steps)
    return composed


def _preprocess(
    pixels: npt.NDArray[np.uint8], transform: Callable[[Image.Image], Image.Image]
) -> npt.NDArray[np.uint8]:
    """Return uint8 [3, S, S] of uint8 [C, H, W]; grey becomes three equal channels, as Pillow converts it to RGB."""
    colour = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    return np.ascontiguousarray(np.asarray(transform(Image.fromarray(np.ascontiguousarray(colour)))).transpose(2, 0, 1))
