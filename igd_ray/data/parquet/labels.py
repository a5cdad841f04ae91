"""Labels of a Parquet column: whole numbers, or words; and the names of their classes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from igd_ray.data.class_names import MAXIMUM_CLASSES, numbered_class_names
from igd_ray.errors import InputError, did_you_mean, first_line


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of type `kind` holds words."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def require_label_type(path: Path, column: str, kind: pa.DataType) -> None:
    """Check that a column of type `kind` can hold labels.

    Raises:
        InputError: if not.
    """
    if not pa.types.is_integer(kind) and not is_text(kind):
        raise InputError(
            f"{path}: expected integer labels, or words, in the column {column!r}, got {kind}; "
            "name the column of the labels with --label-column"
        )


def require_no_nulls(path: Path, labels: pa.ChunkedArray) -> None:
    """Check that every image has a label.

    Raises:
        InputError: if not.
    """
    if labels.null_count:
        raise InputError(f"{path}: {labels.null_count} of {len(labels)} labels are null; every image needs one")


def whole_numbers(path: Path, values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the labels of the file at `path`, int64 [n].

    Raises:
        InputError: if one is negative or far too large.
    """
    wrong = np.flatnonzero((values < 0) | (values >= MAXIMUM_CLASSES))
    if len(wrong):
        raise InputError(
            f"{path}: labels must lie in 0…{MAXIMUM_CLASSES - 1}, but row {wrong[0]} has {values[wrong[0]]}; "
            "a split without labels (-1) cannot be used"
        )
    return np.asarray(values, np.int64)


def require_classes(path: Path, labels: npt.NDArray[np.int64], classes: int) -> None:
    """Check that the labels of the file at `path` lie in 0…`classes` − 1.

    Raises:
        InputError: naming the first row whose label does not.
    """
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise InputError(
            f"{path}: labels must lie in 0…{classes - 1}, as there are {classes} class names, "
            f"but row {wrong[0]} has {labels[wrong[0]]}"
        )


def numbers_of_words(
    words: Sequence[str], class_names: tuple[str, ...] | None, path: Path
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return labels, int64 [n], and class names: the place of each of `words` in the names, or in their own order.

    >>> labels, names = numbers_of_words(["dog", "cat", "dog"], None, Path("test.parquet"))
    >>> labels.tolist(), names
    ([1, 0, 1], ('cat', 'dog'))

    Raises:
        InputError: if there are far too many, or one is not among the names.
    """
    names = tuple(sorted(set(words))) if class_names is None else class_names
    if len(names) > MAXIMUM_CLASSES:
        raise InputError(f"{path}: {len(names)} different labels exceed the limit of {MAXIMUM_CLASSES} classes")
    places = {name: place for place, name in enumerate(names)}
    unknown = next((word for word in words if word not in places), None)
    if unknown is not None:
        raise InputError(
            f"{path}: the label {unknown!r} is not among the {len(names)} class names{did_you_mean(unknown, names)}"
        )
    return np.array([places[word] for word in words], np.int64), names


def numbered(labels: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Return numbers as class names, up to the largest of `labels`."""
    return numbered_class_names(int(labels.max(initial=0)) + 1)


def names_in_metadata(path: Path, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the class names of the label `column` in Hugging Face's metadata; None where it has none.

    Raises:
        InputError: if the metadata cannot be read, or does not describe the column.
    """
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature = json.loads(text)["info"]["features"][column]
        names = feature.get("names")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: its Hugging Face metadata does not describe the column {column!r} "
            f"({type(error).__name__}: {first_line(error)}); give class_names"
        ) from error
    if names is None:  # labels declared as plain integers
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: expected a list of class names in its Hugging Face metadata, got {str(names)[:80]}")
    return tuple(names)
