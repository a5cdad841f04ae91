"""What all tests share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
import torch
from hypothesis import settings
from obstore.store import LocalStore

from igd_ray.catalog import Catalog
from tests.toys.places import SHARED

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each of two worker processes, which get half of the tests each, begin with slow ones of half of the files.

    What is left at the end, to be shared, is short.
    """
    if not hasattr(config, "workerinput"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    begun_by_the_first = set(list(dict.fromkeys(item.path for item in slow))[::2])
    first = [item for item in slow if item.path in begun_by_the_first]
    second = [item for item in slow if item.path not in begun_by_the_first]
    short = [item for item in items if not item.get_closest_marker("slow")]
    more = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *short[:more], *second, *short[more:]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests run in several processes on few cores, and workers compute with one thread, too."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a test writes need not outlive a power failure, and one evaluation waits for the disk two hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_the_environment() -> Iterator[None]:
    """Whoever runs the tests may have settings in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("IGD_CATALOG", "IGD_EXECUTOR"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the CIFAR-10 model and images."""
    if not (SHARED / "models" / "cifar10_resnet18_w16.safetensors").is_file():
        pytest.skip("needs ../shared, which holds the CIFAR-10 model and images")
    return SHARED


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog to copy, which costs less than making one."""
    made = Catalog(tmp_path_factory.mktemp("empty") / "results")
    made.create()
    return made


@pytest.fixture
def catalog(tmp_path: Path, empty_catalog: Catalog) -> Catalog:
    """A fresh catalog for each test."""
    return Catalog(shutil.copytree(empty_catalog.root, tmp_path / "results"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the bucket of addresses such as s3://bucket/results."""
    (tmp_path / "bucket").mkdir()

    def stand_in(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem()), uri.partition("://")[2]

    def creating(uri: str) -> LocalStore:
        return LocalStore(tmp_path / uri.partition("://")[2], mkdir=True)

    monkeypatch.setattr("igd_ray.catalog.buckets.filesystem_of", stand_in)
    monkeypatch.setattr("igd_ray.catalog.buckets.creating_store_of", creating)
    return tmp_path / "bucket"
