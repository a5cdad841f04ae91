"""From untrusted encoded bytes to pixels."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from igd_ray.data.images import to_unit_range
from igd_ray.errors import InputError, first_line

# Pillow reads many more, some with parsers that nobody has fuzzed, or by starting other programs (EPS).
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")

# What each mode of Pillow becomes: grey or colour, without transparency. The others (16 or 32 bits a
# pixel) would lose their range silently.
TARGET_MODES = {
    "1": "L", "L": "L", "LA": "L",
    "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB",
}  # fmt: skip


def decode_image(encoded: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a BMP, JPEG, PNG or WebP file, uint8 [C, H, W] contiguous; C is 1 for grey, else 3.

    Raises:
        InputError: naming `where`, if the bytes are not such an image, are cut off, hold more pixels than Pillow's
            limit against decompression bombs, or have more than 8 bits per channel.
    """
    # Pillow's decoders meet hostile bytes with errors of many types (OSError, SyntaxError, struct.error,
    # DecompressionBombError, …), and a new release may add some: whichever it is, the image is unreadable.
    try:
        image = Image.open(BytesIO(encoded), formats=FORMATS)
    except Exception as error:
        raise _unreadable(where, encoded, error) from error
    with image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:  # Pillow itself only warns up to twice the limit
            raise InputError(
                f"{where}: {image.width}×{image.height} pixels exceed the limit of {limit}; make it smaller"
            )
        target = TARGET_MODES.get(image.mode)
        if target is None:
            raise InputError(
                f"{where}: expected 8 bits per channel, got an image of mode {image.mode!r}; convert it to RGB"
            )
        try:
            pixels = np.asarray(image if image.mode == target else image.convert(target))
        except Exception as error:
            raise _unreadable(where, encoded, error) from error
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels[np.newaxis])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def stack_images(pixels: Sequence[npt.NDArray[np.uint8]], names: Sequence[str]) -> Tensor:
    """Return the images, uint8 [C, H, W] each, as one contiguous float32 [n, C, H, W] in [0, 1].

    Raises:
        InputError: with the name of the first image whose shape differs from the first one's.
    """
    for position in range(1, len(pixels)):
        if pixels[position].shape != pixels[0].shape:
            raise InputError(
                f"{names[position]}: all images must have the same size; expected [C, H, W] = {list(pixels[0].shape)} "
                f"as before, got {list(pixels[position].shape)}; resize or convert the images first"
            )
    return to_unit_range(np.stack(pixels))


def _unreadable(where: str, encoded: bytes, error: Exception) -> InputError:
    return InputError(
        f"{where}: expected a BMP, JPEG, PNG or WebP image, got {len(encoded)} bytes that do not decode as one "
        f"({type(error).__name__}: {first_line(error)})"
    )
