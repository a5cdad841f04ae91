"""Ships the files of a model to every node, once each, identified by their content."""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igd_ray.errors import IgdError
from igd_ray.models.sources import content_of


@dataclass(frozen=True)
class Parcel:
    """A file in Ray's object store.

    Attributes:
        path: its path on the driver's machine.
        folder: the name of its folder on nodes: the SHA-256 of the names and contents of all files of the group.
        digest: the SHA-256 of its content.
        content: a reference to its bytes in the object store.
    """

    path: Path
    folder: str
    digest: str
    content: Any


def pack(ray: Any, groups: Sequence[Sequence[Path]]) -> list[Parcel]:
    """Put files into the object store; the files of a group will lie in one folder.

    Raises:
        InputError: if a file cannot be read.
    """
    parcels = []
    for group in groups:
        contents = {path: content_of(path) for path in group}
        digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        names = "\n".join(sorted(f"{digest} {path.name}" for path, digest in digests.items()))
        folder = hashlib.sha256(names.encode()).hexdigest()
        parcels += [Parcel(path, folder, digests[path], ray.put(content)) for path, content in contents.items()]
    return parcels


def unpack(ray: Any, parcels: Sequence[Parcel]) -> Mapping[Path, Path]:
    """Write the files of `parcels` that this node lacks; return the path of each on this node."""
    return {parcel.path: _unpack(ray, parcel) for parcel in parcels}


def _unpack(ray: Any, parcel: Parcel) -> Path:
    folder = _private_folder() / parcel.folder
    target = folder / parcel.path.name
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == parcel.digest:
        return target
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{secrets.token_hex(4)}.tmp"
    temporary.write_bytes(ray.get(parcel.content))
    temporary.replace(target)
    return target


def _private_folder() -> Path:
    """Return this user's folder for shipped files. Code is loaded from it, so no other user may write there."""
    folder = Path(tempfile.gettempdir()) / f"igd-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022 or folder.is_symlink():
        raise IgdError(f"{folder} can be written by others; delete it, or set TMPDIR to a folder of your own")
    return folder
