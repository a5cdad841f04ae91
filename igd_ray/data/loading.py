"""From a data spec to labelled images: a table of sources, and how each is written."""

from collections.abc import Sequence

from igd_ray.data.cifar import load_cifar10, load_cifar100
from igd_ray.data.class_names import parse_class_names, rename_classes
from igd_ray.data.digits import digits_images
from igd_ray.data.folder import load_folder
from igd_ray.data.imagenet import load_imagenet
from igd_ray.data.images import LABEL_COLUMN, MODE, LabeledImages, Request, Source, Window, split_options
from igd_ray.data.modes import in_mode
from igd_ray.data.parquet import load_hub, load_parquet
from igd_ray.errors import InputError, did_you_mean, first_line


def load_images(
    spec: str,
    *,
    split: str = "test",
    n: int | None = None,
    class_names: str | Sequence[str] | None = None,
) -> LabeledImages:
    """Return the first `n` images, or all, of a split of `spec`, in file order; pixels are read when asked for.

    Args:
        spec: ``digits``, ``cifar10``, ``cifar100`` (downloaded to $IGD_DATA or ./data), ``cifar10:DIR`` (an
            existing folder), ``parquet:FILE`` (Hugging Face's image layout; ``{split}`` in it is replaced by the
            split; also several files with commas, a pattern, or a folder of shards), ``hf:OWNER/NAME`` (from the
            Hugging Face hub), ``folder:DIR`` (DIR/<split>/<class>/*.png), ``imagenet:DIR`` (DIR/val/<wnid>/*.JPEG and
            DIR/train/<wnid>/*.JPEG). Options may follow: ``?label_column=NAME`` names the column of a Parquet file,
            ``?mode=RGB`` or ``?mode=L`` makes grey images colour or the reverse; ``&`` joins them.
        split: "train" or "test", or another that the source has.
        class_names: names in the order of the model's outputs, or "cifar10" or "cifar100" for the well-known
            ones, instead of the source's own.

    Raises:
        InputError: if the spec is unknown, there is no such split, it has fewer than `n` images, or what the
            source holds cannot be used.
    """
    return load_window(spec, split=split, window=Window(n), class_names=class_names)


def load_window(
    spec: str, *, split: str, window: Window, class_names: str | Sequence[str] | None = None
) -> LabeledImages:
    """Return the images of a split of `spec` that `window` takes; otherwise like `load_images`."""
    name, _, location = spec.partition(":")
    if name not in SOURCES:
        raise InputError(
            f"data spec must be one of {', '.join(SOURCES[known][0] for known in SOURCES)}, "
            f"not {spec!r}{did_you_mean(name, SOURCES)}"
        )
    if not split or "/" in split or "\\" in split or split.startswith("."):
        raise InputError(f"split must be a plain name such as train or test, not {split!r}")
    location, options = split_options(location)
    label_column = options.get(LABEL_COLUMN)
    if label_column is not None and name not in WITH_COLUMNS:
        raise InputError(f"{spec}: a label column is for {' and '.join(WITH_COLUMNS)}:, not for {name}")
    load = SOURCES[name][1]
    names = None if class_names is None else parse_class_names(class_names)
    try:
        images = load(Request(spec, location, split, window, names, label_column))
    except OSError as error:
        raise InputError(f"{spec}: it cannot be read ({error.strerror or first_line(error)})") from None
    if names is not None:
        images = rename_classes(images, names)
    return in_mode(images, options[MODE]) if MODE in options else images


def _load_digits(request: Request) -> LabeledImages:
    if request.location:
        raise InputError(f"the digits come with scikit-learn, so write 'digits', not {request.spec!r}")
    images = digits_images(request.split)
    rows = request.window.rows(len(images), str(request))
    return images.select(rows)


# What stands before the colon of a spec: the forms that messages show, and the source.
SOURCES: dict[str, tuple[str, Source]] = {
    "digits": ("digits", _load_digits),
    "cifar10": ("cifar10[:DIR]", load_cifar10),
    "cifar100": ("cifar100[:DIR]", load_cifar100),
    "imagenet": ("imagenet:DIR", load_imagenet),
    "parquet": ("parquet:FILE", load_parquet),
    "hf": ("hf:OWNER/NAME", load_hub),
    "folder": ("folder:DIR", load_folder),
}

# Sources of tables, whose label column may have any name.
WITH_COLUMNS = ("parquet", "hf")
