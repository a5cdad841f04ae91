"""Where a catalog's files are: in a folder, or in a bucket of an object store."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from igd_ray.catalog.files import cannot_write, write_whole
from igd_ray.errors import IgdError, InputError, first_line

# The object stores that pyarrow speaks to.
SCHEMES = ("s3", "gs")


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

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OSError: if there is none, or it cannot be read.
        """
        ...

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """Open a Parquet file, whose end is read now and the rest when asked for.

        Raises:
            OSError, pyarrow.ArrowException: if there is none, or it is half-written.
        """
        ...

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        ...

    def is_used(self) -> bool:
        """Tell whether there is anything that is not hidden.

        Raises:
            InputError: if this is no folder.
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
    """A place on a local or mounted disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        """The folder's absolute path."""
        return str(self.root.resolve())

    def write(self, name: str, content: bytes) -> None:
        """Write by a temporary name, fsync and rename."""
        write_whole(self.root / name, content)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.root / name).read_bytes()

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """Open a Parquet file."""
        return pq.ParquetFile(self.root / name)

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return (self.root / name).exists()

    def is_used(self) -> bool:
        """Tell whether the folder holds anything that is not hidden."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file, not a folder for a catalog; name another path")
        return self.root.is_dir() and any(not path.name.startswith(".") for path in self.root.iterdir())

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`."""
        try:
            return sorted(path.name for path in (self.root / folder).iterdir() if path.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def age(self, name: str) -> float:
        """Return how many seconds ago a file was written."""
        try:
            return time.time() - (self.root / name).stat().st_mtime
        except OSError:
            return 0.0

    def delete(self, name: str) -> None:
        """Delete a file."""
        with contextlib.suppress(OSError):
            (self.root / name).unlink()

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).rename(self.root / target)

    def make(self, folders: Sequence[str]) -> None:
        """Make folders."""
        try:
            for folder in folders:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.root, error) from error


class Bucket:
    """A place in an object store: a write is seen when it is complete, so files get their names at once.

    Args:
        uri: as ``s3://BUCKET/results``.

    Raises:
        InputError: if pyarrow has no such filesystem.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        try:
            self.filesystem, self.base = filesystem_of(self._uri)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise InputError(f"the catalog {uri} cannot be used: {first_line(error)}") from error

    @property
    def address(self) -> str:
        """The URI."""
        return self._uri

    def write(self, name: str, content: bytes) -> None:
        """Write the object."""
        try:
            with self.filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(content)
        except (OSError, pa.ArrowException) as error:
            raise IgdError(
                f"cannot write {self._uri}/{name}: {first_line(error)}; everything committed before is intact"
            ) from error

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with self.filesystem.open_input_file(self._path(name)) as file:
            content: bytes = file.read()
        return content

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """Open a Parquet object."""
        return pq.ParquetFile(self.filesystem.open_input_file(self._path(name)))

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name."""
        (info,) = self.filesystem.get_file_info([self._path(name)])
        return bool(info.type == pyarrow.fs.FileType.File)

    def is_used(self) -> bool:
        """Tell whether there are objects that are not hidden."""
        found = self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.base, allow_not_found=True))
        return any(not PurePosixPath(info.path).name.startswith(".") for info in found)

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects under `folder`."""
        selector = pyarrow.fs.FileSelector(self._path(folder), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(PurePosixPath(info.path).name for info in found if info.type == pyarrow.fs.FileType.File)

    def age(self, name: str) -> float:
        """Return how many seconds ago an object was written."""
        (info,) = self.filesystem.get_file_info([self._path(name)])
        return 0.0 if info.mtime is None else time.time() - info.mtime.timestamp()

    def delete(self, name: str) -> None:
        """Delete an object."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self.filesystem.delete_file(self._path(name))

    def move(self, name: str, target: str) -> None:
        """Copy an object and delete it: an object store has no rename."""
        self.filesystem.create_dir(str(PurePosixPath(self._path(target)).parent), recursive=True)
        self.filesystem.move(self._path(name), self._path(target))

    def make(self, folders: Sequence[str]) -> None:
        """Make folders, which stand for nothing in an object store, but do where one is emulated."""
        try:
            for folder in folders:
                self.filesystem.create_dir(self._path(folder), recursive=True)
        except (OSError, pa.ArrowException) as error:
            raise IgdError(f"cannot write {self._uri}: {first_line(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}" if name else self.base


def filesystem_of(uri: str) -> tuple[Any, str]:
    """Return pyarrow's filesystem for `uri`, and the path in it."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    return filesystem, str(path)


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
