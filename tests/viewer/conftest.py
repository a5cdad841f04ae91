"""A served catalog with something on every page."""

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from igd_ray.catalog import Catalog
from igd_ray.viewer.pages import Site
from igd_ray.viewer.server import serve
from tests.report.conftest import fill
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run


def served(catalog: Catalog) -> str:
    """Serve `catalog` until this process ends, and return the address."""
    address: Queue[str] = Queue()
    threading.Thread(target=lambda: serve(Site(catalog), port=0, ready=address.put), daemon=True).start()
    return address.get(timeout=60)


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """The report's synthetic catalog, with a second evaluation of the same images."""
    catalog = Catalog(tmp_path_factory.mktemp("viewer") / "results")
    catalog.create()
    fill(catalog)
    add_run(catalog, run_id="second", model="other-model", n=2)
    add_plan(catalog, {"v": ("none", "aa", ["image-00", "image-01"])}, run_id="second")
    add_outcomes(catalog, "v", "none", "aa", {"image-00": "robust", "image-01": "broken"})
    return catalog


@pytest.fixture(scope="session")
def address(shown: Catalog) -> str:
    """Where it is served."""
    return served(shown)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for screenshots."""
    return tmp_path_factory.mktemp("pictures")
