"""Files of adversarial points that others computed: arrays without code, nothing is unpickled."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.values.file_parts import PART, file_and_part

SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")

# What `igd export` calls the ids of the images that its points belong to.
IDS = "ids"


class PointsFile(NamedTuple):
    """What a file of points holds.

    Attributes:
        sets: by name, float32 [n, C, H, W]: one for each attack, or one alone. uint8 pixels are divided by 255.
        ids: the image of each point; None where points stand in the order of the images.
    """

    sets: dict[str, npt.NDArray[np.float32]]
    ids: tuple[str, ...] | None


def load_points(file: str | Path) -> npt.NDArray[np.float32]:
    """Return the points in a file, float32 [n, C, H, W]; uint8 pixels are divided by 255.

    The file holds one array of four dimensions, such as AutoAttack's `torch.save({"adv_complete": x})`; one of several,
    as AutoAttack saves them attack by attack, is `FILE#apgd-ce`.
    Whether points lie in [0, 1] and within a threat model is for the caller to check.

    Raises:
        InputError: as `read_points_file` does, and if the file holds several such arrays and none is named.
    """
    sets = read_points_file(file).sets
    if len(sets) != 1:
        name = file_and_part(file)[0].name
        raise InputError(
            f"{name}: expected one array [n, C, H, W] of points, found {', '.join(sets)}; name one, such as "
            f"{name}{PART}{next(iter(sets))}"
        )
    (points,) = sets.values()
    return points


def read_points_file(file: str | Path) -> PointsFile:
    """Return every set of points in a file, or the one that `FILE#NAME` names.

    Raises:
        InputError: if the file cannot be read without unpickling, or holds no array of points of that name.
    """
    path, part = file_and_part(file)
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
    sets = {name: array for name, array in found.items() if array.ndim == 4}
    if part is not None:
        if part not in sets:
            known = ", ".join(sets) or "none"
            raise InputError(f"{path.name} has no points {part!r}{did_you_mean(part, list(sets))}; it has: {known}")
        sets = {part: sets[part]}
    if not sets:
        has = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items()) or "no array"
        raise InputError(f"{path.name}: expected one array [n, C, H, W] of points, found {has}")
    ids = found.get(IDS)
    named = ids is not None and ids.dtype.kind == "U" and ids.shape == next(iter(sets.values())).shape[:1]
    return PointsFile(
        {name: _pixels(array, path) for name, array in sets.items()},
        tuple(ids.tolist()) if named and ids is not None else None,
    )


def _pixels(array: npt.NDArray[Any], path: Path) -> npt.NDArray[np.float32]:
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
