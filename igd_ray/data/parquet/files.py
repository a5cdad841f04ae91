"""Images in Parquet files as Hugging Face stores them: a column of {bytes, path} or of bytes, and one of labels."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from igd_ray.data.decoding import decode_image, stack_images
from igd_ray.data.images import LabeledImages, Request, row_id
from igd_ray.data.parquet.labels import (
    is_text,
    names_in_metadata,
    numbered,
    numbers_of_words,
    require_classes,
    require_label_type,
    require_no_nulls,
    whole_numbers,
)
from igd_ray.data.parquet.shards import files_of_split
from igd_ray.errors import InputError, did_you_mean, first_line

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels", "target")

# More than the training split of ImageNet has.
MOST_ROWS = 2_000_000

# Encoded images hardly compress: what grows more than this, beyond some megabytes, is made to fill the memory.
MOST_GROWTH = 100
GROWTH_THAT_IS_FINE = 16 * 2**20

# How much of a column is read ahead.
BUFFER_BYTES = 64 * 1024


class EncodedReader:
    """Decodes images from encoded bytes held in memory.

    The bytes are those that were hashed into the ids, whatever becomes of the files; they travel to another
    process as Arrow buffers.

    Args:
        encoded: of consecutive rows, binary; a chunk for each file.
        first_row: the number of the first of them among the rows of all files.
        starts: for each file, the number of its first row.
        paths: the files.
    """

    def __init__(
        self, encoded: pa.ChunkedArray, first_row: int, starts: tuple[int, ...], paths: tuple[Path, ...]
    ) -> None:
        self._encoded = encoded
        self._first_row = first_row
        self._starts = starts
        self._paths = paths

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return the images of the rows `indices`, float32 [len(indices), C, H, W] in [0, 1].

        Raises:
            InputError: naming the row, if one does not decode or they differ in size.
        """
        names = [self._name(row) for row in indices]
        encoded = [self._encoded[row - self._first_row].as_py() for row in indices]
        return stack_images([decode_image(*pair) for pair in zip(encoded, names, strict=True)], names)

    def _name(self, row: int) -> str:
        file = bisect_right(self._starts, row) - 1
        return f"row {row - self._starts[file]} of {self._paths[file]}"


def load_parquet(request: Request) -> LabeledImages:
    """Return images of the Parquet files at `request.location`, in the order of the files and of their rows.

    Which files those are `files_of_split` says; what they hold, `load_files`.

    Raises:
        InputError: if there is no such file or split, or as `load_files` does.
    """
    return load_files(request, files_of_split(request))


def load_files(request: Request, paths: Sequence[Path]) -> LabeledImages:
    """Return images of the Parquet files at `paths`, of one split, in that order.

    The column `img` or `image` holds an image's bytes, or a struct with the field `bytes`; the labels are integers or
    words in the request's label column, or in `label`, `fine_label`, `labels` or `target`. Class names are the
    request's; or those of Hugging Face's metadata; or the words in their order; or the numbers up to the largest
    label in the files. Images are read row by row up to the last wanted one, and none is decoded yet.

    Raises:
        InputError: if a file is not Parquet, or damaged; a column is missing or has the wrong type; a label is null or
            outside the class names; an image is null; or a file has more than `MOST_ROWS` rows, or grows more than
            `MOST_GROWTH` times when it is read.
    """
    files = [_opened(path, request.label_column) for path in paths]
    starts = np.cumsum([0, *(file.rows for file in files)]).tolist()
    rows = request.window.rows(starts[-1], str(request))
    labels, class_names = _labels_and_names(files, request)
    encoded: list[pa.LargeBinaryArray] = []
    ids: list[str] = []
    # Behind the start of the last file, `starts` has the end of all.
    for file, start in zip(files, starts, strict=False):
        within = range(max(rows.start - start, 0), min(rows.stop - start, file.rows))
        if within:
            stored = _read_encoded(file, within)
            ids += (row_id(file.path.stem, row, content) for row, content in zip(within, stored, strict=True))
            # File by file, so that no more than one file's images are in memory twice.
            encoded.append(pa.array(stored, pa.large_binary()))
            del stored
    return LabeledImages(
        reader=EncodedReader(
            pa.chunked_array(encoded, pa.large_binary()), rows.start, tuple(starts[:-1]), tuple(paths)
        ),
        indices=np.arange(rows.start, rows.stop, dtype=np.int64),
        labels=torch.from_numpy(labels[rows.start : rows.stop].copy()),
        ids=tuple(ids),
        class_names=class_names,
        spec=request.spec,
        split=request.split,
    )


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file, and where its images and labels are.

    Attributes:
        path, rows, schema: the file, its number of rows, its columns.
        images: the name of the image column.
        bytes_column: where the bytes are: the column itself, or a field of it.
        labels: the name of the label column.
    """

    path: Path
    rows: int
    schema: pa.Schema
    images: str
    bytes_column: str
    labels: str


def _opened(path: Path, label_column: str | None) -> ShardFile:
    with _file(path) as file:
        schema = file.schema_arrow
        images = _find_column(path, schema, IMAGE_COLUMNS, "image")
        labels = _label_column(path, schema, label_column)
        kind = schema.field(images).type
        field = f"{images}.bytes" if pa.types.is_struct(kind) else images
        _check_image_type(path, schema.field(images))
        require_label_type(path, labels, schema.field(labels).type)
        _check_size(path, file.metadata)
        return ShardFile(path, file.metadata.num_rows, schema, images, field, labels)


@contextmanager
def _file(path: Path) -> Iterator[pq.ParquetFile]:
    # pyarrow reports damage as ArrowInvalid, OSError, UnicodeDecodeError (a ValueError) or OverflowError; some of it
    # only when what the file says of its columns is asked for.
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, buffer_size=BUFFER_BYTES) as file:
            yield file
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: expected a complete Parquet file, but it cannot be read ({first_line(error)}); copy it again"
        ) from error


def _find_column(path: Path, schema: pa.Schema, names: Sequence[str], kind: str, advice: str = "") -> str:
    for name in names:
        if schema.names.count(name) == 1:  # with two of one name it would be anyone's guess
            return name
    raise InputError(
        f"{path}: expected one {kind} column called {' or '.join(map(repr, names))}, "
        f"but the columns are: {', '.join(schema.names) or 'none'}{advice}"
    )


def _label_column(path: Path, schema: pa.Schema, given: str | None) -> str:
    if given is None:
        return _find_column(path, schema, LABEL_COLUMNS, "label", "; name it with --label-column")
    return _find_column(path, schema, [given], "label", did_you_mean(given, schema.names))


def _check_image_type(path: Path, field: pa.Field) -> None:
    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise InputError(
            f"{path}: expected the column {field.name!r} to be binary, or a struct with binary 'bytes' "
            f"(an image as Hugging Face stores it), got {field.type}"
        )


def _check_size(path: Path, metadata: pq.FileMetaData) -> None:
    """Check what the file says of itself, before any of it is decompressed."""
    if metadata.num_rows > MOST_ROWS:
        raise InputError(f"{path}: {metadata.num_rows} rows exceed the limit of {MOST_ROWS}; split the file")
    # Of all columns: pyarrow ends the process where what it is asked about a single one is damaged.
    sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    _check_growth(path, sum(sizes))


def _check_growth(path: Path, grown: int) -> None:
    size = path.stat().st_size
    if grown > max(GROWTH_THAT_IS_FINE, MOST_GROWTH * size):
        raise InputError(
            f"{path}: its {size} bytes grow to {grown} or more, beyond the limit of {MOST_GROWTH} times; "
            "store images as PNG or JPEG"
        )


def _labels_and_names(files: Sequence[ShardFile], request: Request) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of all rows of all files, and the class names."""
    first = files[0]
    columns = [_read_labels(file) for file in files]
    names = request.class_names or names_in_metadata(first.path, first.schema, first.labels)
    texts = {is_text(file.schema.field(file.labels).type) for file in files}
    if len(texts) > 1:
        raise InputError(f"{first.path} and the files beside it: some have labels that are numbers, others words")
    if texts == {True}:
        words = [word for column in columns for word in column.to_pylist()]
        return numbers_of_words(words, names, first.path)
    labels = [whole_numbers(file.path, column.to_numpy()) for file, column in zip(files, columns, strict=True)]
    names = names or numbered(np.concatenate(labels))
    for file, each in zip(files, labels, strict=True):
        require_classes(file.path, each, len(names))
    return np.concatenate(labels), names


def _read_labels(shard: ShardFile) -> pa.ChunkedArray:
    with _file(shard.path) as file:
        column = file.read(columns=[shard.labels]).column(shard.labels)
    require_no_nulls(shard.path, column)
    return column


def _read_encoded(shard: ShardFile, rows: range) -> list[bytes]:
    path = shard.path
    encoded: list[bytes] = []
    grown = 0
    with _file(path) as file:
        groups: list[int] = []
        first = start = 0
        for group in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if start < rows.stop and stop > rows.start:
                if not groups:
                    first = start
                groups.append(group)
            start = stop
        # Not of one length: the last row group goes on behind the wanted rows, and a damaged one ends before.
        for row, content in zip(range(first, rows.stop), _stored(shard, file, groups), strict=False):
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


def _stored(shard: ShardFile, file: pq.ParquetFile, groups: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the images' bytes, one row at a time: every row may repeat a large one that is stored once."""
    columns = [shard.bytes_column]
    for batch in file.iter_batches(batch_size=1, row_groups=groups, columns=columns, use_threads=False):
        column = batch.column(0)
        in_struct = shard.bytes_column != shard.images
        (content,) = (pc.struct_field(column, "bytes") if in_struct else column).to_pylist()
        yield content
