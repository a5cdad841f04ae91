"""Files from elsewhere: transferred whole or not at all, checked, and noted for the run that uses them."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from igd_ray.errors import FOREIGN_MESSAGE_LENGTH, IgdError, InputError, first_line

# A server that is silent for this long counts as gone: until it answers, and between two pieces of a file.
SECONDS_TO_CONNECT, SECONDS_OF_SILENCE = 10, 60

# A transfer that breaks goes on so many times, each after a pause.
MOST_BREAKS = 3
SECONDS_BEFORE_GOING_ON = 1.0

PIECE = 2**16

_notes: ContextVar[list[str] | None] = ContextVar("downloads", default=None)


@contextmanager
def noted_downloads(notes: list[str]) -> Iterator[None]:
    """While open, add a sentence to `notes` for each downloaded file that is used, with what identifies it."""
    token = _notes.set(notes)
    try:
        yield
    finally:
        _notes.reset(token)


def note_download(what: str) -> None:
    """Say that the downloaded file `what` is used, to `noted_downloads` around this call."""
    notes = _notes.get()
    if notes is not None and f"downloaded: {what}" not in notes:
        notes.append(f"downloaded: {what}")


def fetched(path: Path, download: Callable[[Path], object], *, digest: str = "") -> Path:
    """Return `path`, downloaded if it is not there, with its SHA-256 in `path`.sha256 as `sha256sum` writes it.

    A file that is there without a checksum gets one. A download that fails leaves nothing behind.

    Args:
        path: where the file is kept.
        download: writes the file to the path that it is given.
        digest: as for `download_to`.

    Raises:
        InputError: if the file is not the one whose checksum was kept.
        IgdError: as `download_to` does.
    """
    checksum = path.with_name(f"{path.name}.sha256")
    kept = checksum.read_text(encoding="utf-8").split()[:1] if checksum.is_file() else []
    if path.is_file():
        found = _digest_of(path, "sha256")
        if kept and kept != [found]:
            raise InputError(
                f"{path} has changed since it was downloaded: its SHA-256 is not the one in {checksum.name}; "
                "delete the file to have it downloaded again"
            )
    else:

        def checked(temporary: Path) -> None:
            download(temporary)
            if kept and temporary.is_file() and kept != [_digest_of(temporary, "sha256")]:
                raise InputError(
                    f"the download of {path} is not the file that was downloaded before: its SHA-256 is not the one "
                    f"in {checksum.name}; delete {checksum} if you trust the new one"
                )

        download_to(path, checked, digest=digest)
        found = _digest_of(path, "sha256")
    if not kept:
        checksum.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    note_download(f"{path.name}, SHA-256 {found}")
    return path


def download_to(path: Path, download: Callable[[Path], object], *, digest: str = "") -> None:
    """Download a file to `path`, which gets its name when it is whole; a failure leaves nothing behind.

    Args:
        path: where the file is kept.
        download: writes the file to the path that it is given.
        digest: what the publisher says of it: "md5:…" or "sha256:…", all hexadecimal digits or the first ones.

    Raises:
        IgdError: if the download gave no file, a web page, or another file than the published one.
    """
    # A folder of its own: others may be downloading the same, and downloaders keep pieces beside the file.
    with (
        _made(path.parent),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder,
    ):
        temporary = Path(folder) / path.name
        download(temporary)
        if not temporary.is_file():
            raise IgdError("nothing came")
        if begins_like_a_page(temporary):
            raise IgdError("a web page came instead of the file")
        algorithm, _, published = digest.partition(":")
        if published and not (found := _digest_of(temporary, algorithm)).startswith(published):
            raise IgdError(f"another file came than the published one: its {algorithm} is {found}, not {published}")
        temporary.replace(path)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make `folder`; where what follows fails, delete the folders that were made and are still empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):  # somebody else has put something there
                each.rmdir()
        raise


def transfer(url: str, path: Path) -> None:
    """Write what is at `url` to `path`; a transfer that breaks goes on where it was, if the server can do that.

    Raises:
        IgdError: if there is nothing at `url`, or no connection that lasts.
    """
    import requests  # here, because it takes a quarter of a second and is rarely needed

    host = urlsplit(url).netloc
    with path.open("wb") as file:
        version, begun = "", False
        for breaks in range(MOST_BREAKS + 1):
            # From the start, where the file has changed in the meantime.
            rest = {"Range": f"bytes={file.tell()}-", "If-Range": version} if version and file.tell() else {}
            try:
                with requests.get(
                    url,
                    headers={"Accept-Encoding": "identity", **rest},
                    stream=True,
                    timeout=(SECONDS_TO_CONNECT, SECONDS_OF_SILENCE),
                ) as answer:
                    answer.raise_for_status()
                    begun = True
                    if answer.status_code != requests.codes.partial_content:
                        file.seek(0)
                        file.truncate()
                    version = answer.headers.get("ETag", "")
                    for piece in answer.iter_content(PIECE):
                        file.write(piece)
                return
            except requests.HTTPError:
                raise IgdError(f"{host} answered {answer.status_code} {answer.reason} for {url}") from None
            except requests.RequestException as error:
                if not begun:
                    raise IgdError(f"no connection to {host}: {reason(error)}") from None
                if breaks == MOST_BREAKS:
                    raise IgdError(f"the transfer from {host} broke {breaks + 1} times: {reason(error)}") from None
            time.sleep(SECONDS_BEFORE_GOING_ON)


def check_hub_file(path: Path, what: str) -> None:
    """Check a file in the cache of the Hugging Face hub, as `hub_digest` does, and note it.

    Raises:
        InputError: if its content is not what it is called by.
    """
    note_download(f"{what}, SHA-256 {hub_digest(path, what)}")


def hub_digest(path: Path, what: str) -> str:
    """Return the SHA-256 of a file in the cache of the Hugging Face hub, where large ones are called by theirs.

    Raises:
        InputError: if its content is not what it is called by; errors call it `what`.
    """
    found, stored = _digest_of(path, "sha256"), path.resolve()
    if len(stored.name) == len(found) and stored.name != found:
        raise InputError(
            f"{what}: the downloaded file is damaged, its SHA-256 is {found}, not {stored.name}; delete {stored} to "
            "have it downloaded again"
        )
    return found


class HubRepository(NamedTuple):
    """A repository of the Hugging Face hub.

    Attributes:
        name: OWNER/NAME.
        kind: "model" or "dataset".
        revision: a branch, a tag or a commit; None for the newest.
        spec: what the user calls it.
        instead: what to do where the hub cannot be reached.
    """

    name: str
    kind: Literal["model", "dataset"]
    revision: str | None
    spec: str
    instead: str

    def files(self) -> list[str]:
        """Return the names of its files.

        Raises:
            InputError: if there is no such repository or revision, or no network.
        """
        import huggingface_hub  # here, because it is rarely needed

        # Progress is for people at a terminal.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            return list(huggingface_hub.HfApi().list_repo_files(self.name, repo_type=self.kind, revision=self.revision))
        except Exception as error:  # the hub's library fails in too many ways to list
            raise self.failed(error) from None

    def file(self, name: str) -> Path:
        """Return the file `name` in the hub's own cache, downloaded if it is not there, and note its commit.

        Raises:
            InputError: if the download fails, or the file is damaged.
        """
        import huggingface_hub

        try:
            path = Path(huggingface_hub.hf_hub_download(self.name, name, repo_type=self.kind, revision=self.revision))
        except Exception as error:  # as above
            raise self.failed(error) from None
        hub_digest(path, self.spec)
        # The commit is a hash of all that the repository holds.
        parts = path.parts
        commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else "unknown"
        note_download(f"hf:{self.name}, commit {commit}")
        return path

    def failed(self, error: Exception) -> InputError:
        """Return what is said of an error of the hub's library."""
        what = "data set" if self.kind == "dataset" else "model"
        return InputError(
            f"{self.spec}: the Hugging Face hub gave no {what} ({type(error).__name__}: {first_line(error)}); check "
            f"the name and the network (HF_ENDPOINT, HF_TOKEN), or {self.instead}"
        )


def begins_like_a_page(path: Path) -> bool:
    """Return whether the file at `path` begins like HTML or XML, as what a server sends in a file's place does."""
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _digest_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def reason(error: Exception) -> str:
    """Return why a download failed, in one line: of what `requests` wraps, the innermost, as it says the most."""
    cause: BaseException = error
    while cause.args and isinstance(inner := getattr(cause.args[0], "reason", cause.args[0]), BaseException):
        cause = inner
    said = " ".join(str(cause.args[0] if cause.args else "").split())
    if cause is not error:
        said = said.rpartition(": ")[2]
    return said[:FOREIGN_MESSAGE_LENGTH] or type(cause).__name__


def unreachable(addresses: Sequence[str], *, seconds: float, trusted: bool = True) -> dict[str, str]:
    """Return those of `addresses` that give no answer within `seconds`, all asked at once, each with the reason.

    Args:
        addresses: https:// or http://.
        seconds: for all of them together.
        trusted: whether an answer counts only under a certificate that downloads here would trust.
    """
    import requests

    reasons = dict.fromkeys(addresses, f"no answer within {seconds:g} s")

    def ask(address: str) -> None:
        try:
            requests.head(address, timeout=seconds).close()  # any answer will do
            del reasons[address]
        except requests.RequestException as error:
            reasons[address] = reason(error)
            if isinstance(error, requests.exceptions.SSLError) and not trusted:
                del reasons[address]

    # Not a pool, which would wait at exit for a resolver that does not answer.
    threads = [Thread(target=ask, args=[address], daemon=True) for address in addresses]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(reasons)
