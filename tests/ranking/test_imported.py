"""Rankings in the format of the authors' scripts: complete, or an error."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igd_ray.errors import InputError
from igd_ray.ranking import import_rankings

CLASSES, WIDTH = 3, 12


def values_of(seed: int = 0) -> np.ndarray:
    """Importances [N, C] as the scripts have them, float32."""
    return np.random.default_rng(seed).random((WIDTH, CLASSES), dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `get_loir_rankings.py` leaves: np.save of float32 [C] for every neuron."""
    folder = tmp_path / "saved_loir_rankings" / "checkpoint" / "layer4"
    folder.mkdir(parents=True)
    for neuron, importance in enumerate(values_of()):
        np.save(folder / f"unit{neuron}.npy", importance)
    return folder


def read(folder: Path, **options):
    return import_rankings(folder, **{"num_classes": CLASSES, "width": WIDTH, "layer": "penultimate", **options})


def test_file_i_is_the_column_of_neuron_i(folder: Path) -> None:
    """unit10 comes after unit9, not after unit1."""
    scores = read(folder)
    assert scores.scores.dtype == torch.float64
    assert torch.equal(scores.scores, torch.from_numpy(values_of()).double().T)
    assert (scores.method, scores.layer) == ("loir", "penultimate")


def test_cdir_rankings_have_the_same_format(folder: Path) -> None:
    assert read(str(folder), method="cdir", layer="layer4").method == "cdir"
    with pytest.raises(InputError, match="one of loir, cdir, not 'lo-ir'; did you mean 'loir'"):
        read(folder, method="lo-ir")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 120), st.integers(0, 2**31))
def test_what_numpy_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, classes: int, width: int, seed: int):
    folder = tmp_path_factory.mktemp("units")
    values = np.random.default_rng(seed).normal(size=(width, classes))
    for neuron in np.random.default_rng(seed).permutation(width):
        np.save(folder / f"unit{neuron}.npy", values[neuron])
    scores = import_rankings(folder, num_classes=classes, width=width, layer="layer3")
    assert np.array_equal(scores.scores.numpy(), values.T)


def test_the_digest_is_that_of_the_values_alone(folder: Path, tmp_path: Path) -> None:
    digest = read(folder).details["imported_digest"]
    assert digest == hashlib.sha256(values_of().T.astype("<f8").tobytes()).hexdigest()
    moved = folder.rename(tmp_path / "elsewhere")
    np.save(moved / "unit3.npy", values_of()[3].astype(np.float64))
    assert read(moved).details["imported_digest"] == digest
    np.save(moved / "unit3.npy", np.nextafter(values_of()[3], np.float32(2)))
    assert read(moved).details["imported_digest"] != digest


@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.int64, np.uint8])
def test_any_real_numbers_are_read(folder: Path, dtype: str) -> None:
    np.save(folder / "unit7.npy", np.array([1, 2, 5]).astype(dtype))
    assert read(folder).scores[:, 7].tolist() == [1, 2, 5]


def test_other_files_do_not_count(folder: Path) -> None:
    (folder / "readme.txt").write_text("rankings")
    assert read(folder).scores.shape == (CLASSES, WIDTH)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ([11], r"lacks 1 of the layer's 12 neurons: 11; a ranking must be complete"),
        ([0, 4], r"lacks 2 of the layer's 12 neurons: 0, 4;"),
        (range(1, 12), r"lacks 11 of the layer's 12 neurons: 1, 2, 3, 4, 5, …;"),
        (range(12), r"has no unit<number>.npy; give the folder of one layer"),
    ],
)
def test_a_missing_neuron_is_an_error(folder: Path, removed, message: str) -> None:
    for neuron in removed:
        (folder / f"unit{neuron}.npy").unlink()
    with pytest.raises(InputError, match=message):
        read(folder)


def test_a_neuron_too_many_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has 2 neurons beyond the layer's 10: 10, 11; is it of another layer"):
        read(folder, width=10)


@pytest.mark.parametrize("name", ["unit01.npy", "unit001.npy"])
def test_a_neuron_that_is_there_twice_is_an_error(folder: Path, name: str) -> None:
    np.save(folder / name, values_of()[1])
    with pytest.raises(InputError, match=rf"has neuron 1 twice: .*{name}"):
        read(folder)


@pytest.mark.parametrize("name", ["unit.npy", "unit-1.npy", "unit1 (copy).npy", "unit1.5.npy", "unit١.npy"])
def test_a_name_without_a_number_is_an_error(folder: Path, name: str) -> None:
    np.save(folder / name, values_of()[1])
    with pytest.raises(InputError, match=r"is not named unit<number>.npy, so its neuron is unknown"):
        read(folder)


@pytest.mark.parametrize("parent", [0, 1])
def test_a_folder_further_up_is_an_error(folder: Path, parent: int) -> None:
    with pytest.raises(InputError, match=r"has no unit<number>.npy; give the folder of one layer"):
        read(folder.parents[parent])


def test_a_folder_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(folder / "layer5")


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), (3, 1), (), (0,)])
def test_a_wrong_number_of_classes_is_an_error(folder: Path, shape: tuple[int, ...]) -> None:
    np.save(folder / "unit5.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"unit5.npy (must hold one number for each of the 3|is not a complete .npy)"):
        read(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_an_error(folder: Path, value: float) -> None:
    np.save(folder / "unit5.npy", np.array([1, value, 2]))
    with pytest.raises(InputError, match=r"unit5.npy holds numbers that are NaN or infinite"):
        read(folder)


@pytest.mark.parametrize(
    "array", [np.array([True] * 3), np.array(["a", "b", "c"]), np.array([1j] * 3), np.zeros(3, dtype=[("x", "f4")])]
)
def test_what_are_no_real_numbers_is_an_error(folder: Path, array: np.ndarray) -> None:
    np.save(folder / "unit5.npy", array)
    with pytest.raises(InputError, match=r"unit5.npy must hold real numbers, not "):
        read(folder)


class RunsCode:
    """Would create the file `path` if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def bytes_of_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def damaged(kind: str, trace: Path) -> bytes:
    whole = bytes_of_npy(values_of()[5])
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (3 * 10**11,)})
    if kind == "an archive":
        buffer = io.BytesIO()
        np.savez(buffer, values_of()[5])
        return buffer.getvalue()
    return {
        "empty": b"",
        "cut": whole[:-1],
        "header only": whole[:20],
        "text": b"0.5 0.5 0.5\n",
        "a pickle": pickle.dumps(RunsCode(trace)),
        "an array of objects": bytes_of_npy(np.array([RunsCode(trace)] * 3, dtype=object)),
        "a header of a huge array": huge.getvalue() + whole[-12:],
        "a header cut short": whole.replace(b"(3,), }", b"(3,      "[:7]),
        "a header with code": whole.replace(b"'shape': (3,)", b"'shape': ex()"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "cut",
        "header only",
        "text",
        "a pickle",
        "an array of objects",
        "a header of a huge array",
        "a header cut short",
        "a header with code",
        "an archive",
    ],
)
def test_what_is_no_npy_file_of_numbers_is_an_error_in_one_line_and_runs_nothing(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    content = damaged(kind, tmp_path / "ran")
    assert content != bytes_of_npy(values_of()[5])
    (folder / "unit5.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"unit5.npy (is not a complete .npy file|must hold real numbers)") as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_in_place_of_a_file_is_an_error(folder: Path) -> None:
    (folder / "unit5.npy").unlink()
    (folder / "unit5.npy").mkdir()
    with pytest.raises(InputError, match=r"unit5.npy is not a complete .npy file"):
        read(folder)
