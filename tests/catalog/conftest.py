"""A fresh catalog for each test."""

import shutil
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog to copy, because making one waits for the disk two dozen times."""
    made = Catalog(tmp_path_factory.mktemp("empty") / "results")
    made.create()
    return made


@pytest.fixture
def catalog(tmp_path: Path, empty_catalog: Catalog) -> Catalog:
    shutil.copytree(empty_catalog.root, tmp_path / "results")
    return Catalog(tmp_path / "results")
