"""One Ray for all tests of this folder, which need nothing special of it."""

from collections.abc import Iterator

import pytest

from igd_ray.cluster import ray_session


@pytest.fixture(scope="package")
def session() -> Iterator[None]:
    """A Ray of two CPUs."""
    with ray_session(num_cpus=2):
        yield
