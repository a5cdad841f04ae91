"""What is done and what was split is looked up by listing tables, however many units there are."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.catalog.buckets import Bucket
from igd_ray.catalog.places import Folder
from igd_ray.execution.executor import AttemptLog
from igd_ray.execution.queue import Halving
from igd_ray.execution.session import pending
from igd_ray.units.base import Rows, Shard, Unit
from igd_ray.units.replica import Context

READING = ("exists", "read", "open", "names", "age")


@dataclass(frozen=True)
class Images(Unit):
    """A unit that can be split."""

    start: int
    stop: int

    kind = "images"
    tables = ("adversarials", "outcomes")

    @property
    def key(self) -> str:
        return f"u{self.start}-{self.stop}"

    @property
    def shard(self) -> Shard:
        return Shard("test", self.start, self.stop, tuple(map(str, range(self.start, self.stop))), "")

    def halved(self) -> "tuple[Images, Images]":
        middle = (self.start + self.stop) // 2
        return Images(self.start, middle), Images(middle, self.stop)

    def compute(self, context: Context) -> dict[str, Rows]:
        raise AssertionError("whether units are done is asked without running any")


UNITS = [Images(start, start + 4) for start in range(0, 400, 4)]


def commit(catalog: Catalog, key: str) -> None:
    """Commit results without rows."""
    for table in Images.tables:
        catalog.commit(table, key, [])


@pytest.fixture(params=["folder", "bucket"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path, bucket: Path) -> Catalog:
    """Half of the units done, one of them in parts."""
    made = Catalog(tmp_path / "results" if request.param == "folder" else "s3://bucket/results")
    made.create()
    for unit in UNITS[1:50]:
        commit(made, unit.key)
    Halving(made).halve(UNITS[0])
    for part in UNITS[0].halved():
        commit(made, part.key)
    return made


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is asked of the storage."""
    asked: list[str] = []

    def count(kind: type, method: str) -> None:
        whole = getattr(kind, method)

        def counted(self: object, name: str) -> object:
            asked.append(f"{method} {name}")
            return whole(self, name)

        monkeypatch.setattr(kind, method, counted)

    for kind in (Folder, Bucket):
        for method in READING:
            count(kind, method)
    return asked


def test_what_is_pending_is_found_by_listing(catalog: Catalog, requests: list[str]) -> None:
    assert pending(catalog, [*UNITS, UNITS[0]]) == UNITS[50:]
    listed = [request for request in requests if request.startswith("names ")]
    assert len(listed) <= 3 * len(Images.tables) + 2
    others = [request for request in requests if request not in listed]
    if catalog.address.startswith("s3:"):
        assert len(others) <= 2 * len(Images.tables), "the parts of what was split; an object is whole or absent"
    else:
        assert len(others) <= 2 * (51 + 2), "the end of each result once"


def test_the_splits_are_listed_once_a_run(catalog: Catalog, requests: list[str]) -> None:
    halving = Halving(catalog)
    assert halving.fitting(UNITS[0]) == list(UNITS[0].halved())
    for unit in UNITS[1:]:
        assert halving.fitting(unit) == [unit]
    assert sorted(requests) == ["names compacted", "names splits"]
    halving.halve(UNITS[1])
    assert halving.fitting(UNITS[1]) == list(UNITS[1].halved())


def test_a_truncated_result_is_pending(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    if catalog.address.startswith("s3:"):
        pytest.skip("an object store shows no half of an object")
    path = catalog.root / "adversarials" / f"{UNITS[7].key}.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    assert pending(catalog, UNITS[:50]) == [UNITS[7]]
    assert f"adversarials/{UNITS[7].key}.parquet is damaged" in capsys.readouterr().err


def test_junk_among_the_attempts_does_not_stop_a_run(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    first = AttemptLog(catalog)
    assert first.start(UNITS[60], worker=1, host="h") == 1
    first.close()
    catalog.place.write("attempts/junk.parquet", b"junk")
    assert AttemptLog(catalog).start(UNITS[60], worker=1, host="h") == 2
    assert "attempts/junk.parquet is damaged" in capsys.readouterr().err
    assert catalog.place.read("attempts/junk.parquet") == b"junk", "reading moves nothing"
    (session,) = catalog.keys("attempts") - {"junk"}
    assert SCHEMAS["attempts"].names == catalog.read("attempts", session).column_names
