"""Files that are whole or absent: a temporary name, fsync, rename or link."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from igd_ray.errors import IgdError

# What a file system answers that has no hard links.
WITHOUT_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees all of it or nothing, whenever the process or machine dies.

    Raises:
        IgdError: if it cannot be written (disk full, read-only, vanished folder); nothing half-written is left.
    """
    try:
        with _temporary(path, content) as temporary:
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def create_whole(path: Path, content: bytes) -> bool:
    """Write `content` to a new file `path`; of several processes that try, exactly one succeeds.

    A file system without hard links gets an empty file first, which a reader takes for a damaged one until its content
    replaces it.

    Returns:
        True if this call wrote it.

    Raises:
        IgdError: if it cannot be written; nothing half-written is left.
    """
    try:
        with _temporary(path, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                # A network file system may have made the link, lost its answer, and asked again.
                return path.exists() and path.samefile(temporary)
            except OSError as error:
                if error.errno not in WITHOUT_LINKS:
                    raise
                try:
                    path.touch(exist_ok=False)
                except FileExistsError:
                    return False
                temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    return True


@contextlib.contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a file beside `path` with `content`, written through to the disk, and delete it."""
    # The leading dot and the ending hide what a killed process leaves behind from every listing and pattern.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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
