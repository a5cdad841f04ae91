"""Files that are downloaded once, with the SHA-256 of what came kept beside them and checked ever after."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from igd_ray.errors import IgdError, InputError


def fetched(path: Path, download: Callable[[Path], object]) -> Path:
    """Return `path`, downloaded if it is not there, with its SHA-256 in `path`.sha256 as `sha256sum` writes it.

    A file that is there without a checksum gets one. A download that fails leaves nothing behind.

    Args:
        path: where the file is kept.
        download: writes the file to the path that it is given.

    Raises:
        InputError: if the file is not the one whose checksum was kept.
        IgdError: if the download gave no file, or a web page.
    """
    checksum = path.with_name(f"{path.name}.sha256")
    kept = checksum.read_text(encoding="utf-8").split()[:1] if checksum.is_file() else []
    if path.is_file():
        digest = _sha256(path)
        if kept and kept != [digest]:
            raise InputError(
                f"{path} has changed since it was downloaded: its SHA-256 is not the one in {checksum.name}; "
                "delete the file to have it downloaded again"
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may be downloading the same.
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            download(temporary)
            if not temporary.is_file():
                raise IgdError("nothing came")
            if begins_like_a_page(temporary):
                raise IgdError("a web page came instead of the file")
            digest = _sha256(temporary)
            if kept and kept != [digest]:
                raise InputError(
                    f"the download of {path} is not the file that was downloaded before: its SHA-256 is not the one "
                    f"in {checksum.name}; delete {checksum} if you trust the new one"
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    if not kept:
        checksum.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begins_like_a_page(path: Path) -> bool:
    """Return whether the file at `path` begins like HTML or XML, as what a server sends in a file's place does."""
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
