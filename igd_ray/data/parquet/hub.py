"""Data sets of the Hugging Face hub: the Parquet files of a split, downloaded once to the hub's own cache."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath

import pyarrow.parquet as pq

from igd_ray.data.images import LabeledImages, Request
from igd_ray.data.parquet.files import load_files
from igd_ray.data.parquet.shards import SUFFIX, missing_shards, natural_order, shards_of_split
from igd_ray.downloads import HubRepository
from igd_ray.errors import InputError

# Hugging Face keeps a Parquet copy of every public data set, whatever its own files are, under this revision.
CONVERTED = "refs/convert/parquet"

NAME = re.compile(r"(?P<repository>[\w.-]+(/[\w.-]+)?)(?P<folder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")


def load_hub(request: Request) -> LabeledImages:
    """Return images of the data set that `request.location` names on the Hugging Face hub, as `load_files` does.

    The location is `OWNER/NAME`, or `OWNER/NAME/FOLDER` for one of several configurations, and `@REVISION` behind it.
    Where the metadata of the first file has the class names and the first images are asked for, only as many files
    are downloaded as hold them.

    Raises:
        InputError: if the library is missing, there is no such data set, split or folder, or a download fails.
    """
    if find_spec("huggingface_hub") is None:
        raise InputError(f"{request.spec} needs a package of its own: pip install huggingface_hub")
    matched = NAME.fullmatch(request.location)
    if matched is None:
        raise InputError(
            f"data spec {request.spec!r} must be hf:OWNER/NAME, with /FOLDER or @REVISION behind it, "
            "such as hf:uoft-cs/cifar10"
        )
    return load_files(request, list(_downloaded(request, matched)))


def _downloaded(request: Request, matched: re.Match[str]) -> Iterator[Path]:
    """Yield the files of the split, in order, each downloaded when it is asked for; no more than are needed."""
    repository = HubRepository(
        matched["repository"],
        "dataset",
        matched["revision"],
        request.spec,
        "download its files and give them as parquet:DIR",
    )
    folder = PurePath(matched["folder"].strip("/"))
    names = repository.files()
    paths = sorted((PurePath(name) for name in names if name.endswith(SUFFIX)), key=natural_order)
    if not paths:
        raise InputError(
            f"{request.spec} holds no Parquet files; take the copy that Hugging Face keeps: "
            f"hf:{repository.name}@{CONVERTED}"
        )
    inside = [(path, path.relative_to(folder)) for path in paths if path.is_relative_to(folder)]
    shards = shards_of_split(inside, request, request.spec)
    lacking = missing_shards(path.name for path in shards)
    if lacking:
        raise InputError(f"{request.spec}: {lacking[0]} is missing, one of {len(lacking)} of its shards")
    rows = 0
    needs_all = request.window.count is None or request.window.from_end
    for path in shards:
        file = repository.file(str(path))
        try:
            metadata = pq.read_metadata(file)
        except Exception as error:  # what is not a Parquet file fails in many ways
            raise repository.failed(error) from None
        yield file
        rows += metadata.num_rows
        # Without names in the metadata, the classes are those of all labels.
        needs_all = needs_all or b'"names"' not in (metadata.metadata or {}).get(b"huggingface", b"")
        if not needs_all and rows >= (request.window.count or 0):
            return
