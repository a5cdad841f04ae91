"""Images in a Parquet file as Hugging Face stores them: a column of {bytes, path}, and a column of labels."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from igd_ray.data.class_names import MAXIMUM_CLASSES, numbered_class_names
from igd_ray.data.decoding import decode_image, stack_images
from igd_ray.data.identifiers import row_id
from igd_ray.data.images import LabeledImages
from igd_ray.data.request import Request
from igd_ray.errors import InputError, first_line

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")

# "test.parquet" and "test-00000-of-00001.parquet" hold the split "test"; "digits.parquet" does not say.
SPLIT_IN_NAME = re.compile(r"^(train|test|val|valid|validation)(?=$|[-_.])")
SPLIT_OF_OTHER_NAMES = "test"

# More than the training split of ImageNet has.
MOST_ROWS = 2_000_000

# Encoded images hardly compress: what grows more than this, beyond some megabytes, is made to fill the memory.
MOST_GROWTH = 100
GROWTH_THAT_IS_FINE = 16 * 2**20

# How much of a column is read ahead.
BUFFER_BYTES = 64 * 1024


class EncodedReader:
    """Decodes images from encoded bytes held in memory.

    The bytes are those that were hashed into the ids, whatever becomes of the file; they travel to another
    process as one Arrow buffer.
    """

    def __init__(self, encoded: pa.LargeBinaryArray, first_row: int, path: Path) -> None:
        self._encoded = encoded
        self._first_row = first_row
        self._path = path

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images of the rows `indices` of the file, float32 [len(indices), C, H, W] in [0, 1].

        Raises:
            InputError: naming the row, if one does not decode or they differ in size.
        """
        names = [f"row {row} of {self._path}" for row in indices]
        encoded = [self._encoded[row - self._first_row].as_py() for row in indices]
        return stack_images([decode_image(*pair) for pair in zip(encoded, names, strict=True)], names)


def load_parquet(request: Request) -> LabeledImages:
    """Return images of the Parquet file at `request.location`, in the order of its rows.

    The column `img` or `image` is a struct with the field `bytes`; the labels are integers in `label` or
    `fine_label`. Class names are the request's; or those of Hugging Face's metadata; or the numbers up to the
    largest label in the file. Images are read row by row up to the last wanted one, and none is decoded yet.

    Raises:
        InputError: if there is no such file or split; it is not Parquet, or damaged; a column is missing or has
            the wrong type; a label is null or outside the class names; an image is null; or the file has more than
            `MOST_ROWS` rows, or grows more than `MOST_GROWTH` times when it is read.
    """
    path = file_of_split(request)
    with _reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True, buffer_size=BUFFER_BYTES)
    with file:
        schema = file.schema_arrow
        image_column = _find_column(path, schema, IMAGE_COLUMNS, "image")
        label_column = _find_column(path, schema, LABEL_COLUMNS, "label")
        _check_image_type(path, schema.field(image_column))
        _check_size(path, file.metadata, {f"{image_column}.bytes", label_column})
        rows = request.window.rows(file.metadata.num_rows, str(request))
        labels = _read_labels(path, file, label_column)
        class_names = (
            request.class_names
            or _metadata_class_names(path, schema, label_column)
            or numbered_class_names(int(labels.max()) + 1)
        )
        _check_labels(path, labels, len(class_names))
        encoded = _read_encoded(path, file, image_column, rows)
    return LabeledImages(
        reader=EncodedReader(pa.array(encoded, pa.large_binary()), rows.start, path),
        indices=np.arange(rows.start, rows.stop, dtype=np.int64),
        labels=torch.from_numpy(labels[rows.start : rows.stop].copy()),
        ids=tuple(row_id(path.stem, row, content) for row, content in zip(rows, encoded, strict=True)),
        class_names=class_names,
        spec=request.spec,
        split=request.split,
    )


def file_of_split(request: Request) -> Path:
    """Return the file that holds the split: with the split in place of ``{split}``, or the sibling of that name.

    A file whose name does not begin with a split's name holds the split "test".

    Raises:
        InputError: if there is no such file, or it holds another split and has no sibling for this one.
    """
    if not request.location:
        raise InputError(
            f"data spec {request.spec!r} names no file; write parquet:FILE, such as parquet:data/test.parquet"
        )
    path = Path(request.location.replace("{split}", request.split)).expanduser()
    if "{split}" not in request.location:
        named = SPLIT_IN_NAME.match(path.stem)
        held = named.group() if named else SPLIT_OF_OTHER_NAMES
        if held != request.split:
            sibling = path.with_name(request.split + path.name.removeprefix(held)) if named else None
            if sibling is None or not sibling.is_file():
                beside = f", and there is no {sibling.name} beside it" if sibling else ""
                raise InputError(
                    f"{path} holds the split {held!r}{beside}: the split {request.split!r} was asked for; "
                    f"ask for {held!r}, or write {{split}} in the path where the splits' names stand"
                )
            path = sibling
    if not path.is_file():
        raise InputError(
            f"{path}: expected a Parquet file, but {'it is a folder' if path.is_dir() else 'there is none'}"
        )
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    # pyarrow reports damage as ArrowInvalid, OSError, UnicodeDecodeError (a ValueError) or OverflowError.
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: expected a complete Parquet file, but it cannot be read ({first_line(error)}); copy it again"
        ) from error


def _find_column(path: Path, schema: pa.Schema, names: Sequence[str], kind: str) -> str:
    for name in names:
        if schema.names.count(name) == 1:  # with two of one name it would be anyone's guess
            return name
    raise InputError(
        f"{path}: expected one {kind} column called {' or '.join(map(repr, names))}, "
        f"but the columns are: {', '.join(schema.names) or 'none'}"
    )


def _check_image_type(path: Path, field: pa.Field) -> None:
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        content = field.type.field("bytes").type
        if pa.types.is_binary(content) or pa.types.is_large_binary(content):
            return
    raise InputError(
        f"{path}: expected the column {field.name!r} to be a struct with binary 'bytes' "
        f"(an image as Hugging Face stores it), got {field.type}"
    )


def _check_size(path: Path, metadata: pq.FileMetaData, columns: Collection[str]) -> None:
    """Check what the file says of itself, before any of it is decompressed."""
    if metadata.num_rows > MOST_ROWS:
        raise InputError(f"{path}: {metadata.num_rows} rows exceed the limit of {MOST_ROWS}; split the file")
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [group.column(column) for group in groups for column in range(group.num_columns)]
    _check_growth(path, sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns))


def _check_growth(path: Path, grown: int) -> None:
    size = path.stat().st_size
    if grown > max(GROWTH_THAT_IS_FINE, MOST_GROWTH * size):
        raise InputError(
            f"{path}: its {size} bytes grow to {grown} or more, beyond the limit of {MOST_GROWTH} times; "
            "store images as PNG or JPEG"
        )


def _read_labels(path: Path, file: pq.ParquetFile, column: str) -> npt.NDArray[np.int64]:
    kind = file.schema_arrow.field(column).type
    if not pa.types.is_integer(kind):
        raise InputError(f"{path}: expected integer labels in the column {column!r}, got {kind}")
    with _reading(path):
        labels = file.read(columns=[column]).column(column)
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} of {len(labels)} labels are null; every image needs one")
    values = labels.to_numpy()
    wrong = np.flatnonzero((values < 0) | (values >= MAXIMUM_CLASSES))
    if len(wrong):
        raise InputError(
            f"{path}: labels must lie in 0…{MAXIMUM_CLASSES - 1}, but row {wrong[0]} has {values[wrong[0]]}; "
            "a split without labels (-1) cannot be used"
        )
    return np.asarray(values, np.int64)


def _check_labels(path: Path, labels: npt.NDArray[np.int64], classes: int) -> None:
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise InputError(
            f"{path}: labels must lie in 0…{classes - 1}, as there are {classes} class names, "
            f"but row {wrong[0]} has {labels[wrong[0]]}"
        )


def _metadata_class_names(path: Path, schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature = json.loads(text)["info"]["features"][label_column]
        names = feature.get("names")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: its Hugging Face metadata does not describe the column {label_column!r} "
            f"({type(error).__name__}: {first_line(error)}); give class_names"
        ) from error
    if names is None:  # labels declared as plain integers
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: expected a list of class names in its Hugging Face metadata, got {str(names)[:80]}")
    return tuple(names)


def _read_encoded(path: Path, file: pq.ParquetFile, column: str, rows: range) -> list[bytes]:
    groups: list[int] = []
    first = start = 0
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if start < rows.stop and stop > rows.start:
            if not groups:
                first = start
            groups.append(group)
        start = stop
    stored = _stored(path, file, column, groups)
    encoded: list[bytes] = []
    grown = 0
    # Not of one length: the last row group goes on behind the wanted rows, and a damaged one ends before.
    for row, content in zip(range(first, rows.stop), stored, strict=False):
        if row < rows.start:
            continue
        if content is None:
            raise InputError(f"{path}: row {row} has no image bytes; store the images in the file, not as paths")
        grown += len(content)
        _check_growth(path, grown)
        encoded.append(content)
    if len(encoded) < len(rows):
        raise InputError(f"{path}: row {rows.start + len(encoded)} is missing; copy the file again")
    return encoded


def _stored(path: Path, file: pq.ParquetFile, column: str, groups: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the images' bytes, one row at a time: every row may repeat a large one that is stored once."""
    with _reading(path):
        for batch in file.iter_batches(batch_size=1, row_groups=groups, columns=[f"{column}.bytes"], use_threads=False):
            (content,) = pc.struct_field(batch.column(0), "bytes").to_pylist()
            yield content
