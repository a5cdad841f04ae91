"""Data sets of the Hugging Face hub: the Parquet files of a split, downloaded once to the hub's own cache."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath

import pyarrow.parquet as pq

from igd_ray.data.images import LabeledImages, Request
from igd_ray.data.parquet.files import load_files
from igd_ray.data.parquet.shards import SUFFIX, missing_shards, natural_order, shards_of_split
from igd_ray.downloads import hub_digest, note_download
from igd_ray.errors import InputError, first_line

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
    import huggingface_hub

    repository, revision = matched["repository"], matched["revision"]
    folder = PurePath(matched["folder"].strip("/"))
    # Progress is for people at a terminal.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        names = huggingface_hub.HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
    except Exception as error:  # the hub's library fails in too many ways to list
        raise _failed(request, error) from None
    paths = sorted((PurePath(name) for name in names if name.endswith(SUFFIX)), key=natural_order)
    if not paths:
        raise InputError(
            f"{request.spec} holds no Parquet files; take the copy that Hugging Face keeps: hf:{repository}@{CONVERTED}"
        )
    inside = [(path, path.relative_to(folder)) for path in paths if path.is_relative_to(folder)]
    shards = shards_of_split(inside, request, request.spec)
    lacking = missing_shards(path.name for path in shards)
    if lacking:
        raise InputError(f"{request.spec}: {lacking[0]} is missing, one of {len(lacking)} of its shards")
    rows = 0
    needs_all = request.window.count is None or request.window.from_end
    for path in shards:
        try:
            file = Path(huggingface_hub.hf_hub_download(repository, str(path), repo_type="dataset", revision=revision))
            hub_digest(file, request.spec)
            metadata = pq.read_metadata(file)
        except InputError:
            raise
        except Exception as error:  # as above, or a file that is not Parquet
            raise _failed(request, error) from None
        note_download(f"hf:{repository}, {_commit(file)}")
        yield file
        rows += metadata.num_rows
        # Without names in the metadata, the classes are those of all labels.
        needs_all = needs_all or b'"names"' not in (metadata.metadata or {}).get(b"huggingface", b"")
        if not needs_all and rows >= (request.window.count or 0):
            return


def _commit(file: Path) -> str:
    """Return the commit of a file in the hub's cache, which is a hash of all that the data set holds."""
    parts = file.parts
    return f"commit {parts[parts.index('snapshots') + 1]}" if "snapshots" in parts[:-1] else "commit unknown"


def _failed(request: Request, error: Exception) -> InputError:
    return InputError(
        f"{request.spec}: the Hugging Face hub gave no data set ({type(error).__name__}: {first_line(error)}); check "
        "the name and the network (HF_ENDPOINT, HF_TOKEN), or download its files and give them as parquet:DIR"
    )
