"""Downloads from plain addresses and from Google Drive, end to end against made-up files on the loopback."""

import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import gdown
import pytest
import requests
import torch
from torch import nn

from igd_ray.data import load_images
from igd_ray.downloads import noted_downloads, transfer
from igd_ray.errors import IgdError, InputError
from igd_ray.models import load_model
from igd_ray.models.zoo import find_entry
from tests.data.test_cifar import folder as made_up_cifar
from tests.data.test_cifar import pack_cifar100
from tests.toys.loopback_hub import Hub, loopback_hub

DRIVE = "Wong2020Fast"
ADDRESS = "Debenedetti2022Light_XCiT-S12"
ADDRESS_FILE = "RobustBench/robustbench/releases/download/v1.1/debenedetti2022light-xcit-s-cifar10-linf.pth.tar"


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that stands for every host; where its address is emptied, nothing listens."""
    with loopback_hub() as hub:
        send = requests.Session.send

        def to_the_loopback(session: requests.Session, request: requests.PreparedRequest, **options: object):
            request.url = (
                urlsplit(request.url or "")
                ._replace(scheme="http", netloc=urlsplit(hub.address).netloc or "127.0.0.1:9")
                .geturl()
            )
            return send(session, request, **options)

        monkeypatch.setattr(requests.Session, "send", to_the_loopback)
        monkeypatch.setattr("igd_ray.downloads.SECONDS_BEFORE_GOING_ON", 0.0)
        monkeypatch.setattr(sys.modules[gdown.download.__module__], "home", str(tmp_path))
        (tmp_path / ".cache" / "gdown").mkdir(parents=True)
        yield hub


def test_a_transfer_that_breaks_goes_on_where_it_was(internet: Hub, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    internet.files, internet.cut = {"a/file": content}, {"a/file"}
    transfer("https://example.org/a/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    first, rest = internet.asked
    assert first == "GET a/file"
    assert int(rest.removeprefix("GET a/file bytes=").rstrip("-")) > 0


def test_a_file_that_changed_during_the_break_comes_from_its_start(internet: Hub, tmp_path: Path) -> None:
    class Changes(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            return bytes(4_000_000) if name in internet.cut else b"new"

    internet.files, internet.cut = Changes({"file": b""}), {"file"}
    transfer("https://example.org/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_where_nothing_is_or_nothing_answers_one_line_names_the_host(internet: Hub, tmp_path: Path) -> None:
    with pytest.raises(IgdError, match=r"^example.org answered 404 Not Found for https://example.org/file$"):
        transfer("https://example.org/file", tmp_path / "file")
    internet.address = ""
    with pytest.raises(IgdError, match=r"^no connection to example.org: .*refused$"):
        transfer("https://example.org/file", tmp_path / "file")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4096, 64)


def weights() -> bytes:
    buffer = io.BytesIO()
    torch.save(Tiny().state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where RobustBench's files are kept, whose models are small here."""
    monkeypatch.setattr("igd_ray.models.robustbench.DOWNLOADS", tmp_path / "kept")
    monkeypatch.setattr("igd_ray.models.robustbench.build_entry", lambda _entry: Tiny())
    return tmp_path / "kept" / "cifar10" / "Linf"


@pytest.mark.parametrize("name", [DRIVE, ADDRESS])
def test_each_way_to_robustbench(internet: Hub, kept: Path, name: str) -> None:
    where = ADDRESS_FILE if name == ADDRESS else f"uc?id={find_entry(DRIVE).drive_ids[0]}"
    content = weights()

    def load() -> list[str]:
        notes: list[str] = []
        with noted_downloads(notes):
            load_model(f"robustbench:{name}")
        return notes

    def refused() -> str:
        with pytest.raises(InputError, match=r"could not be downloaded .*pass its checkpoint as --weights") as said:
            load()
        assert not kept.exists(), "nothing is left that a later run could take for the file"
        assert "\n" not in str(said.value)
        return str(said.value)

    assert "404" in refused() or "Cannot retrieve the public link" in refused()
    internet.pages = {where}
    assert "page" in refused() or "Cannot retrieve the public link" in refused()
    server, internet.address = internet.address, ""
    assert "refused" in refused()
    internet.address, internet.pages, internet.files = server, set(), {where: content}
    internet.cut = {where}
    if name == DRIVE:  # gdown begins again, the next time
        assert "more expected" in refused()
    asked = len(internet.asked)
    digest = hashlib.sha256(content).hexdigest()
    assert load() == load() == [f"downloaded: {name}.pt, SHA-256 {digest}"]
    assert len(internet.asked) - asked == (1 if name == DRIVE else 2), "it came once"
    (kept / f"{name}.pt").unlink()
    internet.files = {where: content[:-1] + b"x"}
    with pytest.raises(InputError, match="is not the file that was downloaded before"):
        load()
    assert [path.name for path in kept.iterdir()] == [f"{name}.pt.sha256"]
    assert load_model(f"robustbench:{name}", weights=_file(kept, content)) is not None


def _file(folder: Path, content: bytes) -> Path:
    (folder / "given.pt").write_bytes(content)
    return folder / "given.pt"


folder = made_up_cifar


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_archives_of_cifar(
    internet: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "cifar100":
        pack_cifar100(folder, monkeypatch)
    file = f"{name.replace('r1', 'r-1')}-binary.tar.gz"
    content, address = (folder / file).read_bytes(), f"~kriz/{file}"
    place = tmp_path / "data"
    monkeypatch.setenv("IGD_DATA", str(place))

    def refused() -> str:
        with pytest.raises(InputError, match=r"failed .*; try again, put the file there, or give the") as said:
            load_images(name)
        assert not place.exists()
        assert "\n" not in str(said.value)
        return str(said.value)

    assert "www.cs.toronto.edu answered 404 Not Found" in refused()
    internet.pages = {address}
    assert "a web page came instead of the file" in refused()
    internet.pages, internet.files, internet.damaged = set(), {address: content}, {address}
    assert f"not {hashlib.md5(content).hexdigest()}" in refused()
    server, internet.address, internet.damaged = internet.address, "", set()
    assert "no connection to www.cs.toronto.edu" in refused()
    internet.address, internet.cut, asked = server, {address}, len(internet.asked)
    notes: list[str] = []
    with noted_downloads(notes):
        assert len(load_images(name)) == len(load_images(name)) == 3
    assert notes == [f"downloaded: {file}, MD5 {hashlib.md5(content).hexdigest()}"]
    assert len(internet.asked) - asked == 2, "it broke once, and came once"
    assert [path.name for path in place.iterdir()] == [file]
