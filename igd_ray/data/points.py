"""Files of adversarial points that others computed: arrays without code, nothing is unpickled."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from igd_ray.errors import InputError, first_line

SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")


def load_points(path: str | Path) -> npt.NDArray[np.float32]:
    """Return the points in a file, float32 [n, C, H, W]; uint8 pixels are divided by 255.

    The file holds one array of four dimensions, such as AutoAttack's `torch.save({"adv_complete": x})`.
    Whether points lie in [0, 1] and within a threat model is for the caller to check.

    Raises:
        InputError: if the file cannot be read without unpickling, or holds no such array or several.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file of points at {path}")
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path.name}: points come as {', '.join(SUFFIXES)}, not {path.suffix or 'without a suffix'!r}"
        )
    try:
        found = dict(_arrays(_content(path)))
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError, RuntimeError, EOFError) as error:
        raise InputError(f"{path.name}: cannot be read as {path.suffix}: {first_line(error)}") from error
    except Exception as error:  # weights_only refuses with UnpicklingError, and damaged files fail in many ways
        raise InputError(f"{path.name}: holds more than arrays, or is damaged: {first_line(error)}") from error
    points = {name: array for name, array in found.items() if array.ndim == 4}
    if len(points) != 1:
        has = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items()) or "no array"
        raise InputError(f"{path.name}: expected one array [n, C, H, W] of points, found {has}")
    (array,) = points.values()
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path.name}: expected float or uint8 points, not {array.dtype}")
    return array.astype(np.float32)


def _content(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _arrays(content: Any, name: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the arrays in `content`, nested in dictionaries and lists or not, each with where it was."""
    if isinstance(content, torch.Tensor):
        yield name or "tensor", content.detach().float().numpy() if content.is_floating_point() else content.numpy()
    elif isinstance(content, np.ndarray):
        yield name or "array", content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _arrays(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from _arrays(value, f"{name}[{place}]")
