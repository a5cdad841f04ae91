"""A data spec taken apart: its options, and what a source is asked for: a place, a split, and which of its images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError, did_you_mean

# Options behind a location, as in ``parquet:FILE?label_column=target&mode=RGB``: how labels are found, and how images
# are read; `imagenet:` has one more, which it reads itself.
LABEL_COLUMN, MODE = "label_column", "mode"
PREPROCESSING = "preprocessing"

# The settings that stand for them.
SETTINGS = {"label_column": LABEL_COLUMN, "image_mode": MODE}


@dataclass(frozen=True)
class Window:
    """The first `count` images of a split, or the last ones; all of them if `count` is None.

    Attributes:
        count: how many.
        from_end: whether the last ones.
        capped: whether fewer will do where there are fewer.

    Raises:
        InputError: if `count` is less than 1.
    """

    count: int | None = None
    from_end: bool = False
    capped: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"the number of images must be at least 1, not {self.count}")

    def rows(self, size: int, where: str) -> range:
        """Return the rows that this window takes from the `size` images of `where`.

        Raises:
            InputError: if there are none, or fewer than `count`.
        """
        if size == 0:
            raise InputError(f"{where} has no images: at least one is needed")
        if self.count is None:
            return range(size)
        if self.count > size and self.capped:
            return range(size)
        if self.count > size:
            raise InputError(f"{where} has {size} images, but {self.count} were asked for; ask for at most {size}")
        return range(size - self.count, size) if self.from_end else range(self.count)


@dataclass(frozen=True)
class Request:
    """A data spec taken apart, and what is wanted of it.

    Attributes:
        spec: as the user wrote it, for messages.
        location: what follows the colon of the spec; empty if nothing does.
        split: "train", "test", or another name where the source has it.
        window: which images of the split; a source reads and hashes no others.
        class_names: names that replace the source's own, or None.
        label_column: the column of the labels, where a table has them; None for a usual name.
    """

    spec: str
    location: str
    split: str
    window: Window
    class_names: tuple[str, ...] | None
    label_column: str | None = None

    def __str__(self) -> str:
        return f"the split {self.split!r} of {self.spec!r}"


Source = Callable[[Request], LabeledImages]


def split_options(location: str) -> tuple[str, dict[str, str]]:
    """Return a location without its options, and the options.

    A "?" that no option follows is part of the location, as in a pattern of file names. An option that only its
    source reads stays there.

    >>> split_options("test-0000?.parquet?mode=L")
    ('test-0000?.parquet', {'mode': 'L'})

    Raises:
        InputError: if an option is unknown, or has no value.
    """
    before, mark, text = location.rpartition("?")
    if not mark or "=" not in text:
        return location, {}
    options: dict[str, str] = {}
    kept = []
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if name == PREPROCESSING:
            kept.append(part)
        elif name not in (LABEL_COLUMN, MODE) or not value or name in options:
            known = (LABEL_COLUMN, MODE, PREPROCESSING)
            raise InputError(
                f"options of data are {', '.join(f'{each}=…' for each in known)}, each once, not {part!r}"
                f"{did_you_mean(name, known)}"
            )
        else:
            options[name] = value
    return f"{before}?{'&'.join(kept)}" if kept else before, options


def with_options(spec: str, settings: Mapping[str, str]) -> str:
    """Return the data spec with options for those of SETTINGS that are given.

    >>> with_options("parquet:test.parquet", {"label_column": "target"})
    'parquet:test.parquet?label_column=target'

    Raises:
        InputError: if the spec has such an option, or a value cannot be written as one.
    """
    name, colon, location = spec.partition(":")
    _, given = split_options(location)
    parts = []
    for setting, option in SETTINGS.items():
        if setting not in settings:
            continue
        value, flag = settings[setting], "--" + setting.replace("_", "-")
        if option in given:
            raise InputError(f"{spec} has the option {option} already; leave it or {flag} out")
        if not value or set(value) & set("&?="):
            raise InputError(f"{flag} must be a name without &, ? and =, not {value!r}")
        parts.append(f"{option}={value}")
    if not parts:
        return spec
    joined = "&" if given or f"?{PREPROCESSING}=" in location else "?"
    return f"{name}{colon or ':'}{location}{joined}{'&'.join(parts)}"
