"""Grey images for colour models and the reverse: what is done to every image, said in the data's spec and ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from igd_ray.data.images import ImageReader, LabeledImages
from igd_ray.errors import InputError, did_you_mean

# Names as Pillow has them, and their numbers of channels.
MODES = {"RGB": 3, "L": 1}

# ITU-R 601 luma in 16-bit arithmetic, as Pillow computes it.
LUMA = (19595, 38470, 7471)


@dataclass(frozen=True)
class ConvertedReader:
    """Reads images one by one from another reader, and converts each.

    Attributes:
        reader: gives the images, with one or three channels each.
        mode: a key of MODES.
    """

    reader: ImageReader
    mode: str

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, float32 [len(indices), C, H, W] in [0, 1].

        Raises:
            InputError: if they differ in size.
        """
        images = [converted(self.reader.read([index]), self.mode) for index in indices]
        other = next((image for image in images if image.shape != images[0].shape), None)
        if other is not None:
            raise InputError(
                f"all images must have the same size, but one has {list(images[0].shape[2:])} pixels and another "
                f"{list(other.shape[2:])}; resize the images first"
            )
        return torch.cat(images)


def in_mode(images: LabeledImages, mode: str) -> LabeledImages:
    """Return `images` as they are read in `mode`, with the mode in their ids.

    Raises:
        InputError: if there is no such mode.
    """
    if mode not in MODES:
        raise InputError(f"the image mode must be one of {', '.join(MODES)}, not {mode!r}{did_you_mean(mode, MODES)}")
    ids = (image_id.rpartition("-") for image_id in images.ids)
    return replace(
        images,
        reader=ConvertedReader(images.reader, mode),
        ids=tuple(f"{where}-{mode}-{digest}" for where, _, digest in ids),
    )


def converted(images: Tensor, mode: str) -> Tensor:
    """Return `images` [n, 1 or 3, H, W] in [0, 1] with the channels of `mode`.

    Grey becomes three equal channels. Colour becomes its luma, of 256 levels, exactly as Pillow's `convert("L")`.

    >>> converted(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), "L").mul(255).round().item()
    76.0
    """
    if images.shape[1] == MODES[mode]:
        return images
    if mode == "RGB":
        return images.repeat(1, 3, 1, 1)
    levels = (images * 255).round().to(torch.int64)
    red, green, blue = levels.unbind(dim=1)
    grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 0x8000) >> 16
    return grey.unsqueeze(1).to(torch.float32) / 255
