"""Parquet files in Hugging Face's image layout: pixels, ids, splits, class names, and what damaged files give."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from igd_ray.data import load_images
from igd_ray.data.class_names import CIFAR10, CIFAR100
from igd_ray.data.decoding import decode_image
from igd_ray.errors import InputError
from tests.toys.places import SHARED

CIFAR_FOLDER = SHARED / "data" / "cifar10"

Result = TypeVar("Result")

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})

# The images are not part of the repository: a checkout alone has none.
needs_cifar = pytest.mark.skipif(
    not (CIFAR_FOLDER / "test.parquet").is_file(), reason="shared/data/cifar10 is not beside this checkout"
)


def some_pixels(count: int, *, seed: int = 0, size: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def write(
    path: Path,
    encoded: list[bytes | None],
    labels: pa.Array | list[int | None] | None = None,
    *,
    image_column: str = "img",
    label_column: str = "label",
    rows_in_group: int = 3,
    huggingface: str | None = None,
) -> Path:
    images = pa.array([{"bytes": content, "path": None} for content in encoded], IMAGE_TYPE)
    given_labels = labels if labels is not None else [row % 2 for row in range(len(encoded))]
    table = pa.table({image_column: images, label_column: given_labels})
    if huggingface is not None:
        table = table.replace_schema_metadata({"huggingface": huggingface})
    pq.write_table(table, path, row_group_size=rows_in_group)
    return path


def huggingface_names(names: object, column: str = "label") -> str:
    return json.dumps({"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}})


def result_or_input_error(function: Callable[[], Result]) -> Result | InputError:
    try:
        return function()
    except InputError as error:
        return error


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    return write(tmp_path / "test.parquet", [encode(pixels) for pixels in some_pixels(8)])


def test_images_are_the_stored_pixels_contiguous_in_the_unit_range(eight: Path) -> None:
    images = load_images(f"parquet:{eight}").images
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert images.shape == (8, 3, 6, 5)
    levels = (images * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(levels, some_pixels(8).transpose(0, 3, 1, 2))
    assert images[2, 1, 3, 4].item() == np.float32(some_pixels(8)[2, 3, 4, 1]) / np.float32(255)


def test_one_image_alone_is_contiguous_too(eight: Path) -> None:
    assert next(load_images(f"parquet:{eight}").batches(1))[0].is_contiguous()


def test_ids_hold_the_file_s_stem_the_row_and_the_digest_of_the_bytes(eight: Path) -> None:
    encoded = encode(some_pixels(8)[5])
    assert load_images(f"parquet:{eight}").ids[5] == f"test-000005-{hashlib.sha256(encoded).hexdigest()[:8]}"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_the_first_n_are_the_beginning_of_all(eight: Path, n: int) -> None:
    everything, first = load_images(f"parquet:{eight}"), load_images(f"parquet:{eight}", n=n)
    assert first.ids == everything.ids[:n]
    assert torch.equal(first.labels, everything.labels[:n])
    assert torch.equal(first.images, everything.images[:n])


def test_more_than_the_split_has_is_refused(eight: Path) -> None:
    with pytest.raises(InputError, match="has 8 images, but 9 were asked for"):
        load_images(f"parquet:{eight}", n=9)


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_is_refused(eight: Path, n: int) -> None:
    with pytest.raises(InputError, match=f"at least 1, not {n}"):
        load_images(f"parquet:{eight}", n=n)


def test_a_copy_reads_the_same_pixels_after_the_file_is_gone_and_weighs_what_its_images_weigh(tmp_path: Path) -> None:
    pixels = some_pixels(40, size=(16, 16, 3))
    path = write(tmp_path / "test.parquet", [encode(image) for image in pixels], rows_in_group=40)
    everything, few = (pickle.dumps(load_images(f"parquet:{path}", n=n)) for n in (40, 2))
    path.unlink()
    assert len(few) < len(everything) / 8
    assert np.array_equal(
        (pickle.loads(few).images * 255).round().to(torch.uint8).numpy(), pixels[:2].transpose(0, 3, 1, 2)
    )


@pytest.mark.parametrize(
    ("image_column", "label_column"), [("img", "label"), ("image", "label"), ("img", "fine_label")]
)
def test_the_usual_column_names_are_known(tmp_path: Path, image_column: str, label_column: str) -> None:
    path = write(
        tmp_path / "test.parquet",
        [encode(pixels) for pixels in some_pixels(3)],
        [4, 0, 2],
        image_column=image_column,
        label_column=label_column,
    )
    data = load_images(f"parquet:{path}")
    assert data.labels.tolist() == [4, 0, 2]
    assert data.class_names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "test.parquet", [encode(some_pixels(1)[0])] * 2, pa.array([100, 3], kind))
    labels = load_images(f"parquet:{path}").labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [100, 3]


def test_class_names_come_from_the_argument_then_the_metadata_then_the_largest_label_of_the_file(
    tmp_path: Path,
) -> None:
    encoded = [encode(pixels) for pixels in some_pixels(3)]
    named = write(tmp_path / "test.parquet", encoded, [0, 1, 2], huggingface=huggingface_names(["a", "b", "c", "d"]))
    assert load_images(f"parquet:{named}").class_names == ("a", "b", "c", "d")
    assert load_images(f"parquet:{named}", class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    assert load_images(f"parquet:{named}", class_names="cifar10").class_names == CIFAR10
    plain = write(tmp_path / "train.parquet", encoded, [0, 1, 2])
    assert load_images(f"parquet:{plain}", split="train", n=1).class_names == ("0", "1", "2")


def test_labels_declared_as_plain_integers_get_numbers(tmp_path: Path) -> None:
    metadata = json.dumps({"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}})
    path = write(tmp_path / "test.parquet", [encode(some_pixels(1)[0])], [1], huggingface=metadata)
    assert load_images(f"parquet:{path}").class_names == ("0", "1")


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", '{"info": {}}', "[" * 100_000, huggingface_names("abc"), huggingface_names([1]), huggingface_names([])],
)
def test_broken_metadata_is_refused_unless_names_are_given(tmp_path: Path, metadata: str) -> None:
    path = write(tmp_path / "test.parquet", [encode(some_pixels(1)[0])], [0], huggingface=metadata)
    with pytest.raises(InputError, match="Hugging Face metadata"):
        load_images(f"parquet:{path}")
    assert load_images(f"parquet:{path}", class_names=["only"]).class_names == ("only",)


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ([], "non-empty"),
        (["a", ""], "non-empty"),
        (["a"], "0…0, .* row 1 has 1"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(eight: Path, class_names: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(f"parquet:{eight}", class_names=class_names)


def test_the_well_known_names_are_complete_and_in_order() -> None:
    assert [len(set(names)) for names in (CIFAR10, CIFAR100)] == [10, 100]
    assert list(CIFAR100) == sorted(CIFAR100)


# Which file holds the split


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for split, seed in (("train", 1), ("test", 2)):
        write(tmp_path / f"{split}.parquet", [encode(some_pixels(1, seed=seed)[0])])
    return tmp_path


@pytest.mark.parametrize("name", ["{split}.parquet", "train.parquet", "test.parquet"])
@pytest.mark.parametrize(("split", "seed"), [("train", 1), ("test", 2)])
def test_the_split_s_file_is_found(pair: Path, name: str, split: str, seed: int) -> None:
    data = load_images(f"parquet:{pair / name}", split=split)
    levels = (data.images * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(levels, some_pixels(1, seed=seed).transpose(0, 3, 1, 2))
    assert data.ids[0].startswith(f"{split}-000000-")
    assert data.split == split


def test_the_split_in_a_folder_s_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    write(tmp_path / "val" / "part.parquet", [encode(some_pixels(1)[0])])
    assert len(load_images(f"parquet:{tmp_path}/{{split}}/part.parquet", split="val")) == 1


def test_numbered_files_of_hugging_face_have_siblings_too(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}-00000-of-00001.parquet", [encode(some_pixels(1)[0])])
    data = load_images(f"parquet:{tmp_path / 'test-00000-of-00001.parquet'}", split="train")
    assert data.ids[0].startswith("train-00000-of-00001-000000-")


def test_a_file_alone_is_refused_for_another_split(eight: Path) -> None:
    with pytest.raises(InputError, match=r"holds the split 'test', and there is no train\.parquet beside it"):
        load_images(f"parquet:{eight}", split="train")


def test_a_file_whose_name_says_no_split_is_the_test_split(tmp_path: Path) -> None:
    path = write(tmp_path / "testimony.parquet", [encode(some_pixels(1)[0])])
    write(tmp_path / "trainimony.parquet", [encode(some_pixels(1)[0])])
    assert load_images(f"parquet:{path}").ids[0].startswith("testimony-")
    with pytest.raises(InputError, match=r"holds the split 'test': the split 'train' was asked for"):
        load_images(f"parquet:{path}", split="train")


@pytest.mark.parametrize("split", ["", "../test", "a\\b", ".hidden"])
def test_a_split_is_a_plain_name(pair: Path, split: str) -> None:
    with pytest.raises(InputError, match="plain name"):
        load_images(f"parquet:{pair}/{{split}}.parquet", split=split)


@pytest.mark.parametrize(
    ("location", "message"),
    [("", "names no file"), ("/no/such/test.parquet", "there is none")],
)
def test_no_file_is_one_clear_line(location: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_images(f"parquet:{location}")
    assert "\n" not in str(caught.value)


# Damaged and hostile files


def test_every_beginning_of_a_file_is_refused(eight: Path, tmp_path: Path) -> None:
    content = eight.read_bytes()
    cut = tmp_path / "cut.parquet"
    for length in range(0, len(content), 97):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be read"):
            load_images(f"parquet:{cut}")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_changed_byte_gives_images_or_one_line(eight: Path, position: int, change: int) -> None:
    content = bytearray(eight.read_bytes())
    content[position % len(content)] ^= change
    changed = eight.with_name("changed.parquet")
    changed.write_bytes(content)
    images = result_or_input_error(lambda: load_images(f"parquet:{changed}").images)
    if isinstance(images, InputError):
        assert "\n" not in str(images)
    else:
        assert images.shape == (8, 3, 6, 5)


@pytest.mark.slow
def test_damage_anywhere_behind_the_data_gives_images_or_one_line(eight: Path) -> None:
    """One such byte, in the statistics of a column, made pyarrow end the process."""
    content, changed = eight.read_bytes(), eight.with_name("changed.parquet")
    behind = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for place in range(behind, len(content)):
        changed.write_bytes(content[:place] + bytes([79]) + content[place + 1 :])
        images = result_or_input_error(lambda: load_images(f"parquet:{changed}", n=1))
        refused += isinstance(images, InputError)
        assert not isinstance(images, InputError) or "\n" not in str(images)
    assert refused > 100


def test_a_column_s_name_that_is_no_utf8_gives_images_or_one_line(eight: Path) -> None:
    content, changed = eight.read_bytes(), eight.with_name("changed.parquet")
    places = [place for place in range(len(content)) if content.startswith(b"label", place)]
    refused = 0
    for place in places:
        changed.write_bytes(content[:place] + b"\x80" + content[place + 1 :])
        images = result_or_input_error(lambda: load_images(f"parquet:{changed}").images)
        refused += isinstance(images, InputError)
        assert not isinstance(images, InputError) or "cannot be read" in str(images) or "label column" in str(images)
    assert refused


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.write_text("img,label\n" * 100)
    with pytest.raises(InputError, match=r"test\.parquet: expected a complete Parquet file"):
        load_images(f"parquet:{path}")


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(InputError, match="no images"):
        load_images(f"parquet:{path}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"picture": "image", "label": [0]},
            "one image column called 'img' or 'image', but the columns are: picture, label",
        ),
        (
            {"img": "image", "class": [0]},
            "one label column called 'label' or 'fine_label' or 'labels' or 'target', but the columns are: img, class",
        ),
        ({"img": ["x"], "label": [0]}, "'img' to be binary, or a struct with binary 'bytes' .*, got string"),
        ({"img": [{"bytes": "text"}], "label": [0]}, "'img' to be binary, or a struct with binary 'bytes'"),
        ({"img": [{"path": "x.png"}], "label": [0]}, "'img' to be binary, or a struct with binary 'bytes'"),
        ({"img": "image", "label": [0.0]}, "expected integer labels, or words, in the column 'label', got double"),
        ({"img": "image", "label": [["cat"]]}, "expected integer labels, or words, in the column 'label', got list"),
        ({"img": "image", "label": [True]}, "expected integer labels, or words, in the column 'label', got bool"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    image = pa.array([{"bytes": encode(some_pixels(1)[0]), "path": None}], IMAGE_TYPE)
    table = pa.table({name: image if values == "image" else values for name, values in columns.items()})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        load_images(f"parquet:{tmp_path / 'test.parquet'}")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"", "path": None}], IMAGE_TYPE)
    table = pa.Table.from_arrays([image, pa.array([0]), pa.array([1])], names=["img", "label", "label"])
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"one label column .* the columns are: img, label, label"):
        load_images(f"parquet:{tmp_path / 'test.parquet'}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1, None], "2 of 4 labels are null"),
        ([0, 1, -1, 0], "0…99999, but row 2 has -1"),
        ([0, 1, 2, 10**12], "0…99999, but row 3 has 1000000000000"),
        (pa.array([0, 2**64 - 1, 0, 0], pa.uint64()), "row 1 has 18446744073709551615"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: pa.Array | list[int | None], message: str) -> None:
    path = write(tmp_path / "test.parquet", [encode(some_pixels(1)[0])] * 4, labels)
    with pytest.raises(InputError, match=message):
        load_images(f"parquet:{path}")


def test_a_label_beyond_the_metadata_s_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.parquet", [encode(some_pixels(1)[0])], [2], huggingface=huggingface_names(["a", "b"]))
    with pytest.raises(InputError, match="as there are 2 class names, but row 0 has 2"):
        load_images(f"parquet:{path}")


def test_a_row_without_bytes_is_refused_if_it_is_wanted(tmp_path: Path) -> None:
    encoded: list[bytes | None] = [encode(pixels) for pixels in some_pixels(6)]
    path = write(tmp_path / "test.parquet", [*encoded[:4], None, *encoded[5:]])
    assert len(load_images(f"parquet:{path}", n=4)) == 4
    with pytest.raises(InputError, match="row 4 has no image bytes"):
        load_images(f"parquet:{path}")


def test_images_are_decoded_when_asked_for_and_errors_name_the_row(tmp_path: Path) -> None:
    encoded: list[bytes | None] = [encode(pixels) for pixels in some_pixels(6)]
    path = write(tmp_path / "test.parquet", [*encoded[:4], b"not an image", *encoded[5:]])
    batches = load_images(f"parquet:{path}").batches(4)
    next(batches)
    with pytest.raises(InputError, match=rf"row 4 of {path}: expected .* image, got 12 bytes"):
        next(batches)


@pytest.mark.parametrize("size", [2, 6])
def test_images_of_two_sizes_are_refused_whatever_the_batch(tmp_path: Path, size: int) -> None:
    encoded = [encode(pixels) for pixels in some_pixels(4)] + [
        encode(pixels) for pixels in some_pixels(2, size=(7, 5, 3))
    ]
    path = write(tmp_path / "test.parquet", encoded)
    with pytest.raises(
        InputError, match=r"(row 4 of|test-000004-).* same size; expected .*\[3, 6, 5\].*got \[3, 7, 5\]"
    ):
        list(load_images(f"parquet:{path}").batches(size))


# Decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_stays_one_channel_and_colour_three(kind: str, mode: str) -> None:
    encoded = encode(some_pixels(1)[0], kind, mode)
    if kind == "WEBP":
        expected = np.array(Image.open(io.BytesIO(encoded)).convert("RGB")).transpose(2, 0, 1)  # WebP has no grey
    elif kind == "BMP":
        expected = np.array(Image.open(io.BytesIO(encoded))).reshape(6, 5, -1).transpose(2, 0, 1)
    else:
        expected = torchvision.io.decode_image(torch.frombuffer(bytearray(encoded), dtype=torch.uint8)).numpy()
    pixels = decode_image(encoded, "here")
    assert pixels.flags["C_CONTIGUOUS"]
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [("RGBA", "PNG", 3), ("P", "PNG", 3), ("1", "PNG", 1), ("LA", "PNG", 1), ("CMYK", "JPEG", 3)],
)
def test_other_modes_of_eight_bits_become_grey_or_colour(mode: str, kind: str, channels: int) -> None:
    encoded = encode(some_pixels(1)[0], kind, mode)
    expected = np.array(Image.open(io.BytesIO(encoded)).convert("RGB" if channels == 3 else "L")).reshape(6, 5, -1)
    assert np.array_equal(decode_image(encoded, "here"), expected.transpose(2, 0, 1))


def test_sixteen_bits_are_refused_instead_of_clipped() -> None:
    with pytest.raises(InputError, match="here: expected 8 bits per channel, got an image of mode 'I;16'"):
        decode_image(encode(np.full((4, 4), 40_000, dtype=np.uint16)), "here")


def test_formats_outside_the_list_are_refused() -> None:
    for kind in ("GIF", "TIFF", "EPS"):
        with pytest.raises(InputError, match="expected a BMP, JPEG, PNG or WebP image"):
            decode_image(encode(some_pixels(1)[0], kind), "here")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1.5, 3])
def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(6 * 5 / factor))
    with pytest.raises(InputError, match="exceed"):
        decode_image(encode(some_pixels(1)[0]), "here")


def test_as_many_pixels_as_the_limit_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6 * 5)
    assert decode_image(encode(some_pixels(1)[0]), "here").shape == (3, 6, 5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(["PNG", "BMP", "JPEG", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4),
    st.integers(0, 10**4),
)
def test_damaged_images_give_pixels_or_one_line(kind: str, changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(encode(some_pixels(1)[0], kind))
    for position, value in changes:
        content[position % len(content)] = value
    pixels = result_or_input_error(lambda: decode_image(bytes(content[: max(length, 1)]), "here"))
    if isinstance(pixels, InputError):
        assert str(pixels).startswith("here: ")
        assert "\n" not in str(pixels)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


# The real thing


@needs_cifar
@pytest.mark.parametrize(("split", "count"), [("train", 50_000), ("test", 10_000)])
def test_cifar10_is_read_whole(split: str, count: int) -> None:
    data = load_images(f"parquet:{CIFAR_FOLDER}/{{split}}.parquet", split=split, class_names="cifar10")
    assert data.shape == (3, 32, 32)
    assert torch.bincount(data.labels).tolist() == [count // 10] * 10
    assert len(set(data.ids)) == count


@needs_cifar
def test_cifar10_s_images_are_those_that_torchvision_decodes() -> None:
    rows = [0, 1, 4_999, 5_000, 9_999]
    data = load_images(f"parquet:{CIFAR_FOLDER}/test.parquet").select(rows)
    stored = pq.read_table(CIFAR_FOLDER / "test.parquet").take(rows).to_pylist()
    for image, label, row in zip(data.images, data.labels, stored, strict=True):
        levels = torchvision.io.decode_image(torch.frombuffer(bytearray(row["img"]["bytes"]), dtype=torch.uint8))
        assert torch.equal(image, levels.float() / 255)
        assert label.item() == row["label"]
