"""A catalog in an object store, stood in for by a folder behind pyarrow's filesystem interface."""

import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.errors import IgdError, InputError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run

URI = "s3://bucket/results"


@pytest.fixture
def catalog(bucket: Path) -> Catalog:
    made = Catalog(URI)
    made.create()
    return made


def fill(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("loir-2", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    add_outcomes(catalog, "v", "loir-2", "aa", {"a": "robust", "b": "robust"})


def test_commits_keys_and_views_are_those_of_a_folder(catalog: Catalog, tmp_path: Path) -> None:
    local = Catalog(tmp_path / "local")
    local.create()
    for each in (catalog, local):
        fill(each)
        assert each.has("outcomes", "u")
        assert each.keys("outcomes") == {"u", "v"}
        assert not each.commit("outcomes", "u", each.read("outcomes", "u"))
    for view in ("runs", "outcomes", "worst_case", "progress", "unit_states"):
        sql = f"SELECT * FROM {view} ORDER BY ALL"
        assert run_query(catalog, sql).to_pylist() == run_query(local, sql).to_pylist()
    assert Catalog(catalog.address).keys("outcomes") == {"u", "v"}


def test_objects_get_their_names_at_once(catalog: Catalog, bucket: Path) -> None:
    fill(catalog)
    assert not [path for path in bucket.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_queries_reach_nothing_else(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="Permission Error"):
        run_query(catalog, f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")
    with pytest.raises(InputError, match="must be one SELECT"):
        run_query(catalog, f"COPY (SELECT 1) TO '{tmp_path / 'x.csv'}'")


def test_a_damaged_object_is_left_out(catalog: Catalog, bucket: Path) -> None:
    fill(catalog)
    (bucket / "results" / "outcomes" / "z.parquet").write_bytes(b"junk")
    assert run_query(catalog, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 4}]
    assert (bucket / "results" / "outcomes" / "z.parquet").read_bytes() == b"junk"


def test_notes_tell_who_shares_the_storage(catalog: Catalog) -> None:
    catalog.write_note("question", "x")
    assert Catalog(URI).read_note("question") == "x"
    catalog.delete_note("question")
    assert catalog.read_note("question") is None


def test_what_cannot_be_written_is_one_line(catalog: Catalog, bucket: Path) -> None:
    # Where a file of that name is, no folder can be, nor an object in it.
    (bucket / "results" / "checks" / "_empty.parquet").unlink()
    (bucket / "results" / "checks").rmdir()
    (bucket / "results" / "checks").touch()
    with pytest.raises(IgdError, match=r"cannot write s3://bucket/results/checks/a\.parquet: .*is intact") as caught:
        catalog.commit("checks", "a", [])
    assert "\n" not in str(caught.value)


def test_a_path_for_files_must_be_given(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="is not a folder of this machine"):
        _ = catalog.root


class Failing(BaseHTTPRequestHandler):
    """Can be reached, and answers each question about an object with an error that passes."""

    def do_GET(self) -> None:
        self.send_error(503)

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def failing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("verb", ["status", "evaluate"])
@pytest.mark.parametrize(
    ("store", "said"), [("127.0.0.1:9", "refused"), ("silent", "check the network"), ("failing", "cannot be used")]
)
def test_a_store_of_google_s_that_does_not_answer_is_refused_within_5_seconds(
    verb: str,
    store: str,
    said: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = store if ":" in store else request.getfixturevalue(store)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = time.monotonic()
    code = main([verb, "--catalog", f"gs://anonymous@bucket/results?endpoint_override={address}&scheme=http"])
    assert time.monotonic() - started < 5
    line = capsys.readouterr().err
    assert (code, line.count("\n")) == (2, 1), line
    assert line.startswith("igd: error: the catalog gs://")
    assert said in line
