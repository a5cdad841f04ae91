"""An object store that moto serves on the loopback."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
import pytest


@contextmanager
def loopback_store(log: Path) -> Iterator[pyarrow.fs.FileSystem]:
    """While open, a store with the bucket ``bucket`` runs; this process and its children find ``s3://`` there."""
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=output, stderr=output
        )
    try:
        address = _address_in(log, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": address,
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_EC2_METADATA_DISABLED": "true",
            }.items():
                patch.setenv(name, value)
            filesystem, _ = pyarrow.fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
            filesystem.create_dir("bucket")
            yield filesystem
    finally:
        server.kill()
        server.wait()


def _address_in(log: Path, server: subprocess.Popen[bytes]) -> str:
    """The address that the server chose, once it has written it to its log."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"moto's server did not start: {log.read_text()}")
