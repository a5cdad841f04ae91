"""Random numbers that belong to an image: the same whatever else is attacked, in whatever order, on whatever device.

The generator is Philox (Salmon et al., SC 2011), which counts: its key says whose numbers they are, its counter which.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

# Bytes of a Philox key.
KEY_BYTES = 16


def image_keys(images: Tensor) -> list[bytes]:
    """Return what tells each image from others: a digest of its shape and pixels.

    Equal images have equal keys, so that their outcomes are equal, too.

    Args:
        images: float32 [N, C, H, W].

    >>> first, second, again = image_keys(torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1))
    >>> first == again, first == second
    (True, False)
    """
    shape = repr(tuple(images.shape[1:])).encode()
    pixels = images.detach().cpu().contiguous()
    return [blake2b(shape + image.numpy().tobytes(), digest_size=KEY_BYTES).digest() for image in pixels]


def stream(seed: int, image: bytes, *row: str | int) -> np.random.Generator:
    """Return the random numbers of one `row` of an image, such as ("apgd-ce", 0).

    Args:
        seed: of the attack.
        image: its key, see `image_keys`.

    >>> bool(stream(0, b"image", "start", 0).random() == stream(0, b"image", "start", 0).random())
    True
    >>> bool(stream(0, b"image", "start", 0).random() == stream(0, b"image", "start", 1).random())
    False
    """
    digest = blake2b(repr((seed, image, row)).encode(), digest_size=KEY_BYTES).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def uniform(streams: Sequence[np.random.Generator], shape: Sequence[int]) -> Tensor:
    """Return the next numbers of each stream, uniform in [0, 1): float32 [streams, *shape] on the CPU."""
    drawn = np.empty((len(streams), *shape), dtype=np.float32)
    for row, each in zip(drawn, streams, strict=True):
        each.random(out=row, dtype=np.float32)
    return torch.from_numpy(drawn)


def normal(streams: Sequence[np.random.Generator], shape: Sequence[int]) -> Tensor:
    """Return the next numbers of each stream, standard normal: float32 [streams, *shape] on the CPU."""
    drawn = np.empty((len(streams), *shape), dtype=np.float32)
    for row, each in zip(drawn, streams, strict=True):
        each.standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(drawn)
