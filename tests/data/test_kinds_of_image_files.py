"""Kinds of image files that people bring: each is read, or refused with the line that stands here."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.data import load_images
from igd_ray.data.modes import converted
from igd_ray.errors import InputError
from tests.data.encoded import encoded

ROWS = 6
LABELS = [row % 3 for row in range(ROWS)]
WORDS = ["cat", "dog", "fox"]
SHAPE, TWICE = (6, 3, 8, 8), (12, 3, 8, 8)
NAMES = {"huggingface": json.dumps({"info": {"features": {"label": {"names": WORDS, "_type": "ClassLabel"}}}})}


def pixels(row: int, size: tuple[int, ...] = (8, 8, 3)):
    return np.random.default_rng(row).integers(0, 255, size, dtype=np.uint8)


def structs(kind: str = "PNG", mode: str | None = None, rows: int = ROWS, first: int = 0) -> list[dict[str, object]]:
    return [{"bytes": encoded(pixels(row), kind, mode), "path": None} for row in range(first, first + rows)]


def table(path: Path, metadata: dict[str, str] | None = None, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = pa.table({"image": structs(), "label": LABELS, **columns})
    written = written.select([name for name in written.column_names if columns.get(name, "") is not None])
    pq.write_table(written.replace_schema_metadata(metadata), path)


def without(path: Path, column: str, **columns: object) -> None:
    made = pa.table({"image": structs(), "label": LABELS, **columns})
    pq.write_table(made.drop_columns([column]), path)


def shards(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        table(folder / name, image=structs(first=number * ROWS))


def classes(folder: Path, kind: str = "PNG", mode: str | None = None, suffix: str | None = None) -> None:
    for name in WORDS:
        (folder / name).mkdir(parents=True)
        for row in range(2):
            content = encoded(pixels(row), kind, mode)
            (folder / name / f"{row}.{suffix or kind.lower()}").write_bytes(content)


Make = Callable[[Path], object]

# What is written, the spec, and how many images of which shape in how many classes come.
READ: dict[str, tuple[Make, str, tuple[int, int, int, int], int]] = {
    "struct": (lambda f: table(f / "test.parquet"), "parquet:test.parquet", SHAPE, 3),
    "raw bytes": (
        lambda f: table(f / "test.parquet", image=[each["bytes"] for each in structs()]),
        "parquet:test.parquet",
        SHAPE,
        3,
    ),
    "raw large bytes": (
        lambda f: table(f / "test.parquet", image=pa.array([each["bytes"] for each in structs()], pa.large_binary())),
        "parquet:test.parquet",
        SHAPE,
        3,
    ),
    "labels": (lambda f: without(f / "a.parquet", "label", labels=LABELS), "parquet:a.parquet", SHAPE, 3),
    "target": (lambda f: without(f / "a.parquet", "label", target=LABELS), "parquet:a.parquet", SHAPE, 3),
    "fine_label": (
        lambda f: without(f / "a.parquet", "label", fine_label=LABELS),
        "parquet:a.parquet",
        SHAPE,
        3,
    ),
    "another column": (
        lambda f: table(f / "a.parquet", kind=[row % 2 for row in range(ROWS)]),
        "parquet:a.parquet?label_column=kind",
        SHAPE,
        2,
    ),
    "words": (
        lambda f: table(f / "a.parquet", label=[WORDS[label] for label in LABELS]),
        "parquet:a.parquet",
        SHAPE,
        3,
    ),
    "words of a dictionary": (
        lambda f: table(f / "a.parquet", label=pa.array([WORDS[label] for label in LABELS]).dictionary_encode()),
        "parquet:a.parquet",
        SHAPE,
        3,
    ),
    "bytes as labels": (
        lambda f: table(f / "a.parquet", label=pa.array(LABELS, pa.uint8())),
        "parquet:a.parquet",
        SHAPE,
        3,
    ),
    "names in the metadata": (
        lambda f: table(f / "a.parquet", NAMES, label=[0] * 6),
        "parquet:a.parquet",
        SHAPE,
        3,
    ),
    "two shards": (
        lambda f: shards(f / "hub/data", ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]),
        "parquet:hub",
        TWICE,
        3,
    ),
    "shards beside those of another split": (
        lambda f: shards(f / "hub", ["train-0.parquet", "test-0.parquet", "test-1.parquet"]),
        "parquet:hub",
        TWICE,
        3,
    ),
    "a folder for each split": (
        lambda f: shards(f / "hub/default", ["train/0000.parquet", "test/0000.parquet"]),
        "parquet:hub",
        SHAPE,
        3,
    ),
    "a folder without splits": (
        lambda f: shards(f / "hub", ["a.parquet", "b.parquet"]),
        "parquet:hub",
        TWICE,
        3,
    ),
    "a pattern": (
        lambda f: shards(f / "hub", ["train-0.parquet", "test-0.parquet", "test-1.parquet"]),
        "parquet:hub/{split}-*.parquet",
        TWICE,
        3,
    ),
    "a pattern over both splits": (
        lambda f: shards(
            f / "hub", [f"{split}-0000{n}-of-00002.parquet" for split in ("train", "test") for n in (0, 1)]
        ),
        "parquet:hub/*-0000?-of-00002.parquet",
        TWICE,
        3,
    ),
    "several files": (
        lambda f: shards(f, ["b.parquet", "a.parquet"]),
        "parquet:b.parquet,a.parquet",
        TWICE,
        3,
    ),
    "grey": (lambda f: table(f / "a.parquet", image=structs(mode="L")), "parquet:a.parquet", (6, 1, 8, 8), 3),
    "grey for a colour model": (
        lambda f: table(f / "a.parquet", image=structs(mode="L")),
        "parquet:a.parquet?mode=RGB",
        SHAPE,
        3,
    ),
    "colour for a grey model": (lambda f: table(f / "a.parquet"), "parquet:a.parquet?mode=L", (6, 1, 8, 8), 3),
    "grey and colour": (
        lambda f: table(f / "a.parquet", image=[*structs(rows=3), *structs(mode="L", rows=3)]),
        "parquet:a.parquet?mode=RGB",
        SHAPE,
        3,
    ),
    "JPEG": (lambda f: table(f / "a.parquet", image=structs("JPEG")), "parquet:a.parquet", SHAPE, 3),
    "WebP": (lambda f: table(f / "a.parquet", image=structs("WEBP")), "parquet:a.parquet", SHAPE, 3),
    "BMP": (lambda f: table(f / "a.parquet", image=structs("BMP")), "parquet:a.parquet", SHAPE, 3),
    "transparent": (lambda f: table(f / "a.parquet", image=structs(mode="RGBA")), "parquet:a.parquet", SHAPE, 3),
    "palette": (lambda f: table(f / "a.parquet", image=structs(mode="P")), "parquet:a.parquet", SHAPE, 3),
    "two levels": (lambda f: table(f / "a.parquet", image=structs(mode="1")), "parquet:a.parquet", (6, 1, 8, 8), 3),
    "class folders": (lambda f: classes(f / "pictures"), "folder:pictures", SHAPE, 3),
    "class folders in splits": (lambda f: classes(f / "pictures/test"), "folder:pictures", SHAPE, 3),
    "capital suffix": (lambda f: classes(f / "pictures", "JPEG", suffix="JPG"), "folder:pictures", SHAPE, 3),
    "grey folder in colour": (lambda f: classes(f / "pictures", mode="L"), "folder:pictures?mode=RGB", SHAPE, 3),
    "digits in colour": (lambda f: None, "digits:?mode=RGB", (540, 3, 8, 8), 10),
}


@pytest.mark.parametrize("kind", READ)
def test_this_kind_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, spec, shape, number = READ[kind]
    write(tmp_path)
    images = load_images(spec)
    assert tuple(images.images.shape) == shape
    assert len(images.class_names) == number
    assert images.labels.max() < number
    assert len(set(images.ids)) == len(images)
    assert images.images.is_contiguous()


REFUSED: dict[str, tuple[Make, str, str]] = {
    "no bytes": (
        lambda f: table(f / "a.parquet", image=[None, *structs(rows=5)]),
        "parquet:a.parquet",
        "row 0 has no image bytes; store the images in the file, not as paths",
    ),
    "pixels as lists": (
        lambda f: table(f / "a.parquet", image=[pixels(row).flatten().tolist() for row in range(ROWS)]),
        "parquet:a.parquet",
        "expected the column 'image' to be binary, or a struct with binary 'bytes'",
    ),
    "paths": (
        lambda f: table(f / "a.parquet", image=["a.png"] * ROWS),
        "parquet:a.parquet",
        "expected the column 'image' to be binary",
    ),
    "two sizes": (
        lambda f: table(
            f / "a.parquet",
            image=[*structs(rows=5), {"bytes": encoded(pixels(5, (8, 9, 3))), "path": None}],
        ),
        "parquet:a.parquet",
        "all images must have the same size",
    ),
    "two sizes in a mode": (
        lambda f: table(
            f / "a.parquet",
            image=[*structs(rows=5), {"bytes": encoded(pixels(5, (8, 9, 3))), "path": None}],
        ),
        "parquet:a.parquet?mode=L",
        "all images must have the same size",
    ),
    "grey and colour": (
        lambda f: table(f / "a.parquet", image=[*structs(rows=3), *structs(mode="L", rows=3)]),
        "parquet:a.parquet",
        "all images must have the same size",
    ),
    "negative": (
        lambda f: table(f / "a.parquet", label=[-1, *LABELS[1:]]),
        "parquet:a.parquet",
        "row 0 has -1; a split without labels (-1) cannot be used",
    ),
    "null label": (
        lambda f: table(f / "a.parquet", label=[None, *LABELS[1:]]),
        "parquet:a.parquet",
        "1 of 6 labels are null; every image needs one",
    ),
    "null word": (
        lambda f: table(f / "a.parquet", label=[None, *WORDS, *WORDS[1:]]),
        "parquet:a.parquet",
        "1 of 6 labels are null; every image needs one",
    ),
    "fractions": (
        lambda f: table(f / "a.parquet", label=[float(label) for label in LABELS]),
        "parquet:a.parquet",
        "expected integer labels, or words, in the column 'label', got double; name the column of the labels",
    ),
    "yes and no": (
        lambda f: table(f / "a.parquet", label=[label > 0 for label in LABELS]),
        "parquet:a.parquet",
        "expected integer labels, or words, in the column 'label', got bool",
    ),
    "no labels": (
        lambda f: without(f / "a.parquet", "label"),
        "parquet:a.parquet",
        "expected one label column called 'label' or 'fine_label' or 'labels' or 'target', but the columns are: image; "
        "name it with --label-column",
    ),
    "no such column": (
        lambda f: table(f / "a.parquet", klass=LABELS),
        "parquet:a.parquet?label_column=class",
        "expected one label column called 'class', but the columns are: image, label, klass; did you mean 'klass'?",
    ),
    "no such option": (lambda f: table(f / "a.parquet"), "parquet:a.parquet?labels=x", "each once, not 'labels=x'"),
    "no such mode": (
        lambda f: table(f / "a.parquet"),
        "parquet:a.parquet?mode=CMYK",
        "the image mode must be one of RGB, L, not 'CMYK'",
    ),
    "a label column for a folder": (
        lambda f: classes(f / "pictures"),
        "folder:pictures?label_column=x",
        "a label column is for parquet and hf:, not for folder",
    ),
    "a shard is missing": (
        lambda f: shards(f / "hub", ["test-00000-of-00003.parquet", "test-00002-of-00003.parquet"]),
        "parquet:hub",
        "test-00001-of-00003.parquet is missing",
    ),
    "several configurations": (
        lambda f: shards(f / "hub", ["plain/test-0.parquet", "noisy/test-0.parquet"]),
        "parquet:hub",
        "holds several sets of images, in the folders noisy, plain; name one of them",
    ),
    "no such split": (
        lambda f: shards(f / "hub", ["train-0.parquet", "validation-0.parquet"]),
        "parquet:hub",
        "holds the splits train, validation, not 'test'",
    ),
    "an empty folder": (
        lambda f: (f / "hub").mkdir(),
        "parquet:hub",
        "expected Parquet files of the split 'test', but there are none",
    ),
    "a pattern of nothing": (lambda f: None, "parquet:hub/*.parquet", "but none fits this pattern"),
    "one of several files": (
        lambda f: table(f / "a.parquet"),
        "parquet:a.parquet,b.parquet",
        "b.parquet: expected a Parquet file, but there is none",
    ),
    "words and numbers": (
        lambda f: (table(f / "a.parquet"), table(f / "b.parquet", label=WORDS * 2)),
        "parquet:a.parquet,b.parquet",
        "some have labels that are numbers, others words",
    ),
    "sixteen bits": (
        lambda f: table(
            f / "a.parquet", image=[{"bytes": encoded(np.full((8, 8), 40_000, np.uint16)), "path": None}] * ROWS
        ),
        "parquet:a.parquet",
        "expected 8 bits per channel, got an image of mode 'I;16'",
    ),
    "GIF": (
        lambda f: table(f / "a.parquet", image=structs("GIF")),
        "parquet:a.parquet",
        "expected a BMP, JPEG, PNG or WebP image",
    ),
    "TIFF in a folder": (lambda f: classes(f / "pictures", "TIFF"), "folder:pictures", "no image"),
    "text under an image's name": (
        lambda f: (classes(f / "pictures"), (f / "pictures/cat/0.png").write_text("hello")),
        "folder:pictures",
        "expected a BMP, JPEG, PNG or WebP image, got 5 bytes",
    ),
    "CSV": (
        lambda f: (f / "a.parquet").write_text("image,label\n"),
        "parquet:a.parquet",
        "expected a complete Parquet file",
    ),
    "half a file": (
        lambda f: (
            table(f / "b.parquet"),
            (f / "a.parquet").write_bytes((f / "b.parquet").read_bytes()[:500]),
        ),
        "parquet:a.parquet",
        "expected a complete Parquet file",
    ),
    "a hub name that is none": (lambda f: None, "hf:a/b c", "must be hf:OWNER/NAME"),
}


def test_there_are_many_kinds() -> None:
    assert len(READ) >= 30


@pytest.mark.parametrize("kind", REFUSED)
def test_this_kind_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, spec, message = REFUSED[kind]
    write(tmp_path)
    with pytest.raises(InputError) as raised:
        _ = load_images(spec).images
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_words_are_classes_in_their_order_or_in_that_of_the_names(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", label=["fox", "cat", "dog", "dog", "cat", "fox"])
    alone = load_images(f"parquet:{tmp_path}/a.parquet")
    assert alone.class_names == ("cat", "dog", "fox")
    assert alone.labels.tolist() == [2, 0, 1, 1, 0, 2]
    named = load_images(f"parquet:{tmp_path}/a.parquet", class_names=["fox", "bird", "dog", "cat"])
    assert named.labels.tolist() == [0, 3, 2, 2, 3, 0]
    with pytest.raises(InputError, match=r"the label 'dog' is not among the 2 class names"):
        load_images(f"parquet:{tmp_path}/a.parquet", class_names=["fox", "cat"])


def test_the_window_runs_over_the_shards_and_errors_name_their_rows(tmp_path: Path) -> None:
    shards(tmp_path, ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"])
    everything = load_images(f"parquet:{tmp_path}")
    assert everything.ids[6].startswith("test-00001-of-00002-000000-")
    few = load_images(f"parquet:{tmp_path}", n=8)
    assert few.ids == everything.ids[:8]
    assert torch.equal(few.images, everything.images[:8])
    table(
        tmp_path / "test-00001-of-00002.parquet",
        image=[*structs(rows=2), {"bytes": b"x", "path": None}, *structs(rows=3)],
    )
    with pytest.raises(InputError, match=r"row 2 of .*test-00001-of-00002.parquet: expected a BMP"):
        _ = load_images(f"parquet:{tmp_path}").images


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_mode_is_that_of_pillow_and_part_of_the_ids(mode: str, tmp_path: Path) -> None:
    images = [*structs(rows=3), *structs(mode="L", rows=3)]
    table(tmp_path / "a.parquet", image=images)
    read = load_images(f"parquet:{tmp_path}/a.parquet?mode={mode}")
    plain = load_images(f"parquet:{tmp_path}/a.parquet")
    assert [image_id.replace(f"-{mode}-", "-") for image_id in read.ids] == list(plain.ids)
    for image, row in zip(read.images, range(6), strict=True):
        decoded = Image.fromarray(pixels(row % 3))
        expected = np.asarray((decoded if row < 3 else decoded.convert("L")).convert(mode)).reshape(8, 8, -1)
        assert np.array_equal((image * 255).round().byte().numpy(), expected.transpose(2, 0, 1))


def test_luma_is_pillow_s_for_all_corners_of_the_cube() -> None:
    levels = torch.tensor([0, 1, 76, 127, 128, 254, 255])
    colours = torch.cartesian_prod(levels, levels, levels).byte()
    expected = np.asarray(Image.fromarray(colours.view(1, -1, 3).numpy()).convert("L"))
    grey = converted(colours.T.reshape(1, 3, 1, -1).float() / 255, "L")
    assert np.array_equal((grey * 255).round().byte().numpy().reshape(1, -1), expected)


def test_flags_become_options_of_the_data_s_spec() -> None:
    given = {"data": "parquet:a.parquet", "label_column": "target", "image_mode": "RGB"}
    settings = load_settings(EvaluateSettings, file=None, given=given)
    assert settings.data == "parquet:a.parquet?label_column=target&mode=RGB"
    assert load_settings(EvaluateSettings, file=None, given={"image_mode": "RGB"}).data == "digits:?mode=RGB"
    for wrong in ({"data": "parquet:a?mode=L", "image_mode": "L"}, {"label_column": "a&b"}, {"label_column": ""}):
        with pytest.raises(InputError):
            load_settings(EvaluateSettings, file=None, given=wrong)
