"""Which files hold a split: one file, several, a pattern, or a folder of shards."""

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from igd_ray.data.images import Request
from igd_ray.errors import InputError, did_you_mean

File = TypeVar("File")

# "test.parquet" and "test-00000-of-00001.parquet" hold the split "test"; "digits.parquet" does not say.
SPLIT_IN_NAME = re.compile(r"^(train|test|val|valid|validation)(?=$|[-_.])")
SPLIT_OF_OTHER_NAMES = "test"

# The split in a shard's path, "plain_text/train/0000.parquet" or "cifar10-test-00000-of-00001.parquet".
SPLITS_IN_PATH = ("train", "test", "val", "valid", "validation", "dev", "eval")

# Which of how many a shard is: "-00000-of-00002".
NUMBER = re.compile(r"-(\d{5})-of-(\d{5})(?=$|[-_.])")

# A folder of shards has them in it, or in a folder for a configuration, a split, or both. A home folder has far more.
DEPTHS = ("", "*/", "*/*/")

SPLIT = "{split}"
SUFFIX = ".parquet"


def files_of_split(request: Request) -> list[Path]:
    """Return the files that hold the split, in the order of their rows.

    The location is a file, several with commas, a pattern with ``*``, ``?`` or ``[…]``, or a folder of shards, in
    which a file's name or folder says its split. ``{split}`` in it is replaced by the split. Where a single file is
    named that is of another split, the file beside it is taken whose name says the split.

    Raises:
        InputError: if there is no such file, the split is not among them, or a shard of a numbered set is missing.
    """
    if not request.location:
        raise InputError(
            f"data spec {request.spec!r} names no file; write parquet:FILE, such as parquet:data/test.parquet"
        )
    location = request.location.replace(SPLIT, request.split)
    path = Path(location).expanduser()
    if path.is_dir():
        found = sorted((file for below in DEPTHS for file in path.glob(f"{below}*{SUFFIX}")), key=natural_order)
        return _complete(shards_of_split([(file, file.relative_to(path)) for file in found], request, str(path)))
    if not path.exists() and "," in location:
        return [_file_of_split(part.strip(), request) for part in request.location.split(",") if part.strip()]
    if not path.exists() and glob.has_magic(location):
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))), key=natural_order)
        if not found:
            raise InputError(f"{path}: expected Parquet files, but none fits this pattern")
        chosen = found
        if SPLIT not in request.location:
            chosen = shards_of_split([(file, PurePath(file.name)) for file in found], request, str(path))
        return _complete(chosen)
    return [_file_of_split(request.location, request)]


def natural_order(path: PurePath) -> list[tuple[str, int]]:
    """Return what sorts paths by their text and the numbers in it.

    >>> sorted([PurePath("part-10"), PurePath("part-9")], key=natural_order)[0].name
    'part-9'
    """
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]


def shards_of_split(files: Sequence[tuple[File, PurePath]], request: Request, where: str) -> list[File]:
    """Return those of `files`, each with its path below `where`, that belong to the split.

    A path belongs to a split that its name or one of its folders has; where no path names any split, all are "test".

    Raises:
        InputError: if there are none, or they lie in several folders, as several configurations of a data set do.
    """
    if not files:
        raise InputError(f"{where}: expected Parquet files of the split {request.split!r}, but there are none")
    splits = {path: _splits_in(path, request.split) for _, path in files}
    if not any(splits.values()):
        splits = {path: {SPLIT_OF_OTHER_NAMES} for path in splits}
    chosen = [(file, path) for file, path in files if request.split in splits[path]]
    if not chosen:
        known = sorted(set().union(*splits.values()))
        raise InputError(
            f"{where} holds the splits {', '.join(known)}, not {request.split!r}{did_you_mean(request.split, known)}"
        )
    folders = sorted({_configuration(path, request.split) for _, path in chosen})
    if len(folders) > 1:
        raise InputError(
            f"{where} holds several sets of images, in the folders {', '.join(folders[:8])}; name one of them"
        )
    return [file for file, _ in chosen]


def _splits_in(path: PurePath, asked: str) -> set[str]:
    words = {*path.parent.parts, *re.split(r"[-_.]", path.stem)}
    named = {split for split in SPLITS_IN_PATH if split in words}
    # A split of another name is a folder, or begins a file's name.
    if asked in path.parent.parts or re.match(rf"{re.escape(asked)}($|[-_.])", path.stem):
        named.add(asked)
    return named


def _configuration(path: PurePath, split: str) -> str:
    return "/".join(part for part in path.parent.parts if part != split) or "."


def _complete(files: Sequence[Path]) -> list[Path]:
    """Return `files`, checked to be all of a numbered set."""
    lacking = missing_shards(file.name for file in files)
    if lacking:
        raise InputError(
            f"{files[0].parent}: {lacking[0]} is missing, one of {len(lacking)} of its shards; download the set again"
        )
    return list(files)


def missing_shards(names: Iterable[str]) -> list[str]:
    """Return the names that a numbered set of shards lacks.

    >>> missing_shards(["test-00000-of-00002.parquet"])
    ['test-00001-of-00002.parquet']
    """
    sets: dict[tuple[str, str, int], set[int]] = {}
    for name in names:
        found = NUMBER.search(name)
        if found:
            whole = (name[: found.start()], name[found.end() :], int(found[2]))
            sets.setdefault(whole, set()).add(int(found[1]))
    return [
        f"{before}-{number:05d}-of-{count:05d}{after}"
        for (before, after, count), numbers in sets.items()
        for number in range(count)
        if number not in numbers
    ]


def _file_of_split(location: str, request: Request) -> Path:
    """Return the file that holds the split: with the split in place of ``{split}``, or the sibling of that name.

    A file whose name does not begin with a split's name holds the split "test".

    Raises:
        InputError: if there is no such file, or it holds another split and has no sibling for this one.
    """
    path = Path(location.replace(SPLIT, request.split)).expanduser()
    if SPLIT not in location:
        named = SPLIT_IN_NAME.match(path.stem)
        held = named.group() if named else SPLIT_OF_OTHER_NAMES
        if held != request.split:
            sibling = path.with_name(request.split + path.name.removeprefix(held)) if named else None
            if sibling is None or not sibling.is_file():
                beside = f", and there is no {sibling.name} beside it" if sibling else ""
                raise InputError(
                    f"{path} holds the split {held!r}{beside}: the split {request.split!r} was asked for; "
                    f"ask for {held!r}, or write {SPLIT} in the path where the splits' names stand"
                )
            path = sibling
    if not path.is_file():
        raise InputError(
            f"{path}: expected a Parquet file, but {'it is a folder' if path.is_dir() else 'there is none'}"
        )
    return path
