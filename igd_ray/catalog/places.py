"""Where a catalog's files are, in a folder or in a bucket of an object store; each file is whole or absent."""

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from igd_ray.catalog.buckets import SCHEMES, Bucket
from igd_ray.catalog.sealed import Source
from igd_ray.errors import IgdError, InputError


class Place(Protocol):
    """Files by relative names such as ``outcomes/KEY.parquet``; each is whole or absent."""

    @property
    def address(self) -> str:
        """What another process on any node that shares the storage calls this place."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, over an earlier one.

        Raises:
            IgdError: if it cannot be written; nothing half-written is left.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; of several that try at once, on any node, exactly one succeeds.

        Returns:
            True if this call wrote it.

        Raises:
            IgdError: if it cannot be written; nothing half-written is left.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OSError: if there is none, or it cannot be read.
        """
        ...

    def open(self, name: str) -> Source:
        """Open a file, of which parts are read when asked for.

        Raises:
            OSError: if there is none, or it cannot be read.
        """
        ...

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        ...

    def is_used(self) -> bool:
        """Tell whether there is anything that is not hidden.

        Raises:
            InputError: if this is not a folder.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names, in order, of the files in `folder`, without it; none if there is no such folder."""
        ...

    def age(self, name: str) -> float:
        """Return how many seconds ago a file was written; 0 if that is not known."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if it is there and can be deleted."""
        ...

    def move(self, name: str, target: str) -> None:
        """Move a file within this place.

        Raises:
            OSError: if it cannot be moved.
        """
        ...

    def make(self, folders: Sequence[str]) -> None:
        """Make folders, where files need some.

        Raises:
            IgdError: if they cannot be made.
        """
        ...


class Folder:
    """A place on a local or mounted disk. Nothing is reached through symbolic links below its root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._said: set[str] = set()

    @property
    def address(self) -> str:
        """The folder's absolute path."""
        return str(self.root.resolve())

    def write(self, name: str, content: bytes) -> None:
        """Write by a temporary name, fsync and rename."""
        write_whole(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write by a temporary name, fsync and hard link."""
        return create_whole(self._path(name), content)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with contextlib.closing(self.open(name)) as source:
            return source.read_at(0, source.size)

    def open(self, name: str) -> Source:
        """Open a file."""
        return _File(self._path(name))

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        try:
            return stat.S_ISREG(self._path(name).lstat().st_mode)
        except (OSError, InputError):
            return False

    def is_used(self) -> bool:
        """Tell whether the folder holds anything that is not hidden."""
        try:
            at = self.root
            while not (at.exists() or at.is_symlink()) and at != at.parent:
                at = at.parent
            if not at.is_dir():
                what = "a file" if at.exists() else "a link that leads nowhere"
                raise InputError(f"{at} is {what}, not a folder for a catalog; name another path")
            return at == self.root and any(not path.name.startswith(".") for path in at.iterdir())
        except OSError as error:
            raise InputError(
                f"{self.root} cannot be a catalog's folder ({error.strerror}); name another path"
            ) from None

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`; what is a link or a folder is said on stderr once."""
        path = self.root / folder
        if folder and path.is_symlink():
            self._say(f"{path} is a symbolic link: not read; a catalog's tables are folders of its own")
            return []
        names = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
                    elif folder and not entry.name.startswith("."):
                        what = "a symbolic link" if entry.is_symlink() else "not a file"
                        self._say(f"{path / entry.name} is {what}: not read")
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(names)

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(line, file=sys.stderr)

    def age(self, name: str) -> float:
        """Return how many seconds ago a file was written."""
        try:
            return time.time() - self._path(name).lstat().st_mtime
        except OSError:
            return 0.0

    def delete(self, name: str) -> None:
        """Delete a file."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        self._path(target).parent.mkdir(parents=True, exist_ok=True)
        self._path(name).rename(self._path(target))

    def make(self, folders: Sequence[str]) -> None:
        """Make folders."""
        try:
            for folder in folders:
                self._path(f"{folder}/_".lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.root, error) from error

    def _path(self, name: str) -> Path:
        """Return where the file `name` is.

        Raises:
            InputError: if it would be outside, or behind a symbolic link.
        """
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise InputError(f"{name!r} is outside the catalog {self.root}")
        folder = self.root
        for part in parts[:-1]:
            folder = folder / part
            if folder.is_symlink():
                raise InputError(f"{folder} is a symbolic link; a catalog's tables are folders of its own: replace it")
        return self.root / name


class _File:
    """A file on a disk, open for reading."""

    def __init__(self, path: Path) -> None:
        # Not blocking: what turns out to be a pipe would wait for a writer.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise FileNotFoundError(f"{path} is not a file")
        self.size = status.st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on."""
        parts = []
        while length > 0 and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close it, once: its number may be another file's afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def place_of(root: str | Path) -> Place:
    """Return the place that `root` names: a folder, or ``s3://…`` or ``gs://…``.

    Raises:
        InputError: for an address of another kind.
    """
    scheme, separator, rest = str(root).partition("://")
    if not separator:
        return Folder(Path(root))
    if scheme == "file":
        return Folder(Path(rest))
    if scheme not in SCHEMES or not rest.strip("/"):
        known = ", ".join(f"{each}://BUCKET/FOLDER" for each in SCHEMES)
        raise InputError(f"the catalog must be a local or mounted folder, or {known}, not {str(root)!r}")
    return Bucket(str(root))


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


def write_file(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, whole or not at all, and return it; folders above it are made.

    Raises:
        InputError: if the folder cannot be made.
        IgdError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    write_whole(path, content)
    return path


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
