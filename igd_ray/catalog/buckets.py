"""A catalog's files in a bucket of an object store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from igd_ray.arrow import fs, pa
from igd_ray.catalog.sealed import Source
from igd_ray.downloads import unreachable
from igd_ray.errors import IgdError, InputError, first_line

# The object stores that pyarrow speaks to.
SCHEMES = ("s3", "gs")

# Google's library tries again for a quarter of an hour, in silence, where there is no network. What it stops with comes
# up to as many seconds later.
SECONDS_OF_RETRIES = 10.0

# Before anything is computed: for a connection, and then for an answer, credentials included.
SECONDS_TO_ANSWER = 3.0
SECONDS_OF_FIRST_RETRIES = 1.0


class Bucket:
    """A place in an object store: a write is seen when it is complete, so files get their names at once.

    Args:
        uri: as ``s3://BUCKET/results``.

    Raises:
        InputError: if pyarrow has no such filesystem, or Google's store does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        try:
            if self._uri.startswith("gs://"):
                _require_answer(self._uri)
            self.filesystem, self.base = filesystem_of(self._uri)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise InputError(f"the catalog {uri} cannot be used: {first_line(error)}") from error
        self._creating: Any = None

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
            raise self._cannot_write(name, error) from error

    def create(self, name: str, content: bytes) -> bool:
        """Write the object by a conditional put."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            if self._creating is None:
                self._creating = creating_store_of(self._uri)
            self._creating.put(name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # A put whose answer was lost has been asked for again.
            return self._holds(name, content)
        except (BaseError, OSError, ValueError) as error:
            raise self._cannot_write(name, error) from error
        return True

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except (OSError, pa.ArrowException):
            return False

    def _cannot_write(self, name: str, error: Exception) -> IgdError:
        return IgdError(f"cannot write {self._uri}/{name}: {first_line(error)}; everything committed before is intact")

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with self.filesystem.open_input_file(self._path(name)) as file:
            content: bytes = file.read()
        return content

    def open(self, name: str) -> Source:
        """Open an object."""
        return _Object(self.filesystem.open_input_file(self._path(name)))

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name."""
        (info,) = self.filesystem.get_file_info([self._path(name)])
        return bool(info.type == fs.FileType.File)

    def is_used(self) -> bool:
        """Tell whether there are objects that are not hidden."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.base, allow_not_found=True))
        return any(not PurePosixPath(info.path).name.startswith(".") for info in found)

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects under `folder`."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(PurePosixPath(info.path).name for info in found if info.type == fs.FileType.File)

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
        """Make folders: an object store needs none, but an emulated one may."""
        try:
            for folder in folders:
                self.filesystem.create_dir(self._path(folder), recursive=True)
        except (OSError, pa.ArrowException) as error:
            raise IgdError(f"cannot write {self._uri}: {first_line(error)}") from error

    def _path(self, name: str) -> str:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise InputError(f"{name!r} is outside the catalog {self._uri}")
        return f"{self.base}/{name}" if name else self.base


class _Object:
    """An object, open for reading."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size = int(file.size())

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on."""
        content: bytes = self._file.read_at(max(0, min(length, self.size - offset)), offset)
        return content

    def close(self) -> None:
        """Close it."""
        self._file.close()


def _require_answer(uri: str) -> None:
    """Check that Google's object store can be reached and asked, on which its library spends minutes.

    Raises:
        OSError: if it cannot be reached, or its answer is an error.
    """
    options = parse_qs(urlsplit(uri).query)
    asked = os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT", "https://storage.googleapis.com")
    if "endpoint_override" in options:
        asked = f"{options.get('scheme', ['https'])[-1]}://{options['endpoint_override'][-1]}"
    # The library waits for a connection for as long as the system does. It has certificates of its own.
    for address, why in unreachable([asked], seconds=SECONDS_TO_ANSWER, trusted=False).items():
        raise OSError(f"no connection to {address}: {why}; check the network, or name a folder")
    filesystem, path = filesystem_of(uri, SECONDS_OF_FIRST_RETRIES)
    filesystem.get_file_info([path])


def filesystem_of(uri: str, retry_seconds: float = SECONDS_OF_RETRIES) -> tuple[Any, str]:
    """Return pyarrow's filesystem for `uri`, and the path in it.

    Args:
        uri: as ``s3://BUCKET/results``.
        retry_seconds: how long Google's library tries again, where the URI does not say it.
    """
    parts = urlsplit(uri)
    if parts.scheme == "gs" and "retry_limit_seconds" not in parse_qs(parts.query):
        uri += f"{'&' if parts.query else '?'}retry_limit_seconds={retry_seconds:g}"
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, str(path)


def creating_store_of(uri: str) -> Any:
    """Return obstore's store for `uri`, which has the conditional put that pyarrow lacks."""
    from obstore.store import from_url

    parts = urlsplit(uri)
    if parts.scheme != "s3":
        return from_url(uri)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if "endpoint_override" in options:
        address = options["endpoint_override"]
        endpoint = address if "://" in address else f"{options.get('scheme', 'https')}://{address}"
    given = {
        "endpoint": endpoint,
        "region": options.get("region"),
        "access_key_id": parts.username,
        "secret_access_key": parts.password,
    }
    settings: Any = {name: value for name, value in given.items() if value}
    if endpoint and endpoint.startswith("http://"):
        settings["client_options"] = {"allow_http": True}
    return from_url(f"s3://{parts.hostname}{parts.path}", **settings)
