"""Files that are whole or absent: a temporary name, fsync, rename."""

import os
import secrets
from pathlib import Path

from igd_ray.errors import IgdError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees all of it or nothing, whenever the process or machine dies.

    Raises:
        IgdError: if it cannot be written (disk full, read-only, vanished folder); nothing half-written is left.
    """
    # The leading dot and the ending hide what a killed process leaves behind from every listing and pattern.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> IgdError:
    """Return the one-line error for a failed write to `path`."""
    return IgdError(f"cannot write {path}: {error.strerror or error}; everything committed before is intact")


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
