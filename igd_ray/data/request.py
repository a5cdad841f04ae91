"""What a data source is asked for: a place, a split, and which of its images."""

from collections.abc import Callable
from dataclasses import dataclass

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError


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
