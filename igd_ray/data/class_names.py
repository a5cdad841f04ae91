"""Names of classes: CIFAR's well-known ones, numbers where there are none, and the user's own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from igd_ray.data.images import LabeledImages
from igd_ray.errors import InputError, did_you_mean

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100_LIST = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(CIFAR100_LIST.split())

WELL_KNOWN = {"cifar10": CIFAR10, "cifar100": CIFAR100}

# A label column is untrusted: one label of 10**12 must not make as many names.
MAXIMUM_CLASSES = 100_000


def read_lines(file: str, what: str) -> list[str]:
    """Return the lines of the text `file` that are not blank, without the white space around them.

    Raises:
        InputError: starting with `what` was expected, if there is no such file, or it is not UTF-8 text.
    """
    path = Path(file)
    try:
        if not path.is_file():
            raise InputError(f"{what}, one on each line; no file at {path}")
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{what}, one on each line; {path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{what}, one on each line; {path} cannot be read ({error.strerror})") from None


def parse_class_names(class_names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names listed, or those of the well-known set called "cifar10" or "cifar100".

    Raises:
        InputError: if no set has that name, the list is empty, a name is not a non-empty string, or one occurs twice.
    """
    if isinstance(class_names, str):
        if class_names not in WELL_KNOWN:
            raise InputError(
                f"class_names must be a list of names or one of {', '.join(WELL_KNOWN)}, "
                f"not {class_names!r}{did_you_mean(class_names, WELL_KNOWN)}"
            )
        return WELL_KNOWN[class_names]
    names = tuple(class_names)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"class_names must be non-empty strings, at least one, not {list(names)}")
    # Two classes of one name would have the same prompt and the same rows in a report.
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"class_names must all differ, but {repeated!r} is among them {names.count(repeated)} times")
    return names


def numbered_class_names(count: int) -> tuple[str, ...]:
    """Return ("0", …, "`count` − 1")."""
    return tuple(str(label) for label in range(count))


def rename_classes(images: LabeledImages, class_names: tuple[str, ...]) -> LabeledImages:
    """Return `images` with `class_names`, one for each class it has.

    Raises:
        InputError: if the number of names is not the number of classes.
    """
    if len(class_names) != len(images.class_names):
        raise InputError(
            f"{images.spec!r} has {len(images.class_names)} classes, but {len(class_names)} names were given"
        )
    return replace(images, class_names=class_names)
