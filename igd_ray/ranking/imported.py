"""Rankings that the method's authors' scripts saved: a folder with one NumPy file a neuron.

`get_loir_rankings.py` writes `saved_loir_rankings/<checkpoint>/<layer>/unit<i>.npy` and `get_cdir_rankings.py`
`saved_cdir_rankings/<checkpoint>/<layer>/unit<i>.npy` (code released with Kulkarni & Weng, ECCV 2024). File i, counted
from 0, holds the importance of neuron i to every class, float32 [C]; higher is more important.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.ranking.base import Input, Ranking, State, Statistic
from igd_ray.ranking.scores import NeuronScores

# The methods whose scripts save files of this kind.
SAVED_METHODS = ("loir", "cdir")

UNIT_NAME = re.compile(r"unit([0-9]+)\.npy")


@dataclass(frozen=True)
class GivenRanking(Ranking):
    """Scores that exist already: imported from files, or read from the catalog.

    Attributes:
        given: the scores.
    """

    given: NeuronScores = field(kw_only=True)

    reads: ClassVar[frozenset[Input]] = frozenset()

    @property
    def options(self) -> dict[str, object]:
        """What is known of the scores."""
        return dict(self.given.details)

    def statistics(self) -> tuple[Statistic, ...]:
        """Return nothing."""
        return ()

    def compute(self, state: State) -> Tensor:
        """Return the scores as they are."""
        return self.given.scores


def import_rankings(
    folder: str | Path, *, num_classes: int, width: int, layer: str, method: str = "loir"
) -> NeuronScores:
    """Return the scores in `folder`: one file `unit<i>.npy` for each neuron i in 0…`width` − 1, read without pickle.

    The authors' script can lose neurons without an error: when it is resumed, and when the number of neurons is not a
    multiple of the number of its processes. A set with missing neurons is therefore an error here. The script divides
    LO-IR by |D|/C, `leave_one_out` by the class's own count; within a class this is one factor, so the order of the
    neurons is the same.

    Args:
        folder: such as saved_loir_rankings/Addepalli2022Efficient_RN18/layer4.
        num_classes, width: what the model has, C and N.
        layer: what the layer is called here. The authors' name of the last stage, such as "layer4", means the input
            of the classifier: "penultimate".
        method: "loir" or "cdir".

    Returns:
        scores float64 [C, N]; `details["imported_digest"]` is the SHA-256 of their values.

    Raises:
        InputError: if a file is missing, is one too many, or does not hold `num_classes` finite real numbers.
    """
    if method not in SAVED_METHODS:
        raise InputError(
            f"method must be one of {', '.join(SAVED_METHODS)}, not {method!r}{did_you_mean(method, SAVED_METHODS)}"
        )
    files = _unit_files(Path(folder), width)
    values = np.stack([_read_unit(files[neuron], num_classes) for neuron in range(width)], axis=1)
    return NeuronScores(
        torch.from_numpy(values),
        method=method,
        layer=layer,
        details={"imported_digest": hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()},
    )


def _unit_files(folder: Path, width: int) -> dict[int, Path]:
    """Return the file of each neuron 0…`width` − 1."""
    if not folder.is_dir():
        raise InputError(f"the folder of saved rankings {folder} does not exist")
    files: dict[int, Path] = {}
    for file in sorted(folder.glob("unit*.npy")):
        match = UNIT_NAME.fullmatch(file.name)
        if match is None:
            raise InputError(f"{file} is not named unit<number>.npy, so its neuron is unknown; rename or remove it")
        neuron = int(match.group(1))
        if neuron in files:
            raise InputError(f"{folder} has neuron {neuron} twice: {files[neuron].name} and {file.name}; remove one")
        files[neuron] = file
    if not files:
        raise InputError(
            f"{folder} has no unit<number>.npy; give the folder of one layer, as saved_loir_rankings/CHECKPOINT/layer4"
        )
    missing = sorted(set(range(width)) - set(files))
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of the layer's {width} neurons: {_some(missing)}; "
            "a ranking must be complete, so compute them or rank anew"
        )
    extra = sorted(set(files) - set(range(width)))
    if extra:
        raise InputError(
            f"{folder} has {len(extra)} neurons beyond the layer's {width}: {_some(extra)}; is it of another layer?"
        )
    return files


def _read_unit(file: Path, num_classes: int) -> npt.NDArray[np.float64]:
    try:
        # Mapped, so that a damaged header cannot ask for more memory than the file has bytes.
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers make the reader fail in too many ways to list
        raise InputError(
            f"{file} is not a complete .npy file of numbers ({first_line(error)}); copy or compute it again"
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        came = values.dtype if isinstance(values, np.ndarray) else "an archive of arrays"
        raise InputError(f"{file} must hold real numbers, not {came}")
    if values.shape != (num_classes,):
        raise InputError(
            f"{file} must hold one number for each of the {num_classes} classes, shape [{num_classes}], "
            f"not {list(values.shape)}"
        )
    numbers = np.array(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InputError(f"{file} holds numbers that are NaN or infinite; compute it again")
    return numbers


def _some(neurons: list[int]) -> str:
    return ", ".join(map(str, neurons[:5])) + (", …" if len(neurons) > 5 else "")
