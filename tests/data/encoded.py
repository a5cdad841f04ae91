"""Encoded images for tests."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def encoded(pixels: npt.NDArray[np.uint8], kind: str = "PNG", mode: str | None = None) -> bytes:
    """The bytes of an image file with `pixels` [H, W] or [H, W, 3], converted to `mode`."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file."""
    return encoded(pixels)
