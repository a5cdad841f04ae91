"""A catalog at ``s3://…``, in an object store that moto serves on the loopback."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.catalog.buckets import Bucket
from igd_ray.cli import main
from igd_ray.errors import IgdError, InputError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run
from tests.toys.commands import run_python
from tests.toys.loopback_store import loopback_store

pytestmark = pytest.mark.slow

EVALUATION = (
    *("evaluate", "--executor=local", "--model=demo", "--data=digits", "--defenses=none,random-8"),
    *("--attacks=square-20", "--n=16", "--shard-size=8", "--probe-n=100", "--search-n=50", "--json"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pyarrow.fs.FileSystem]:
    """An object store with one bucket, where every process from here finds ``s3://``."""
    with loopback_store(tmp_path_factory.mktemp("store") / "log") as filesystem:
        yield filesystem


@pytest.fixture
def uri(store: pyarrow.fs.FileSystem, request: pytest.FixtureRequest) -> str:
    """A place of this test's own."""
    return f"s3://bucket/{request.node.name}/results"


def objects(store: pyarrow.fs.FileSystem, uri: str) -> set[str]:
    """The names of the objects under `uri`, hidden ones included."""
    base = uri.removeprefix("s3://")
    found = store.get_file_info(pyarrow.fs.FileSelector(base, recursive=True))
    return {info.path.removeprefix(f"{base}/") for info in found if info.type == pyarrow.fs.FileType.File}


def outcomes(catalog: Catalog) -> list[dict[str, object]]:
    """The outcomes, without the columns in which equal rows may differ."""
    sql = "SELECT * EXCLUDE (seconds, host, attempt, run_id) FROM outcomes ORDER BY defense, attack, image_id"
    return run_query(catalog, sql).to_pylist()


def test_an_evaluation_its_resumption_queries_and_compaction_are_those_of_a_folder(
    store: pyarrow.fs.FileSystem, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, remote = Catalog(tmp_path / "results"), Catalog(uri)
    assert main([*EVALUATION, f"--catalog={tmp_path / 'results'}"]) == 0
    assert main([*EVALUATION, f"--catalog={uri}"]) == 0
    expected = outcomes(local)
    assert len(expected) == 2 * 16
    assert outcomes(remote) == expected
    assert objects(store, uri) >= {f"outcomes/{key}.parquet" for key in local.keys("outcomes")}
    assert not [name for name in objects(store, uri) if name.rpartition("/")[2].startswith(".")]

    # One unit is gone: only it is computed again.
    lost = min(remote.keys("outcomes"))
    before = {name: info.mtime for name, info in _infos(store, uri).items()}
    store.delete_file(f"{uri.removeprefix('s3://')}/outcomes/{lost}.parquet")
    assert main([*EVALUATION, f"--catalog={uri}"]) == 0
    assert outcomes(remote) == expected
    after = {name: info.mtime for name, info in _infos(store, uri).items()}
    written = {name for name in after if after[name] != before.get(name) and name.startswith("outcomes/")}
    assert written == {f"outcomes/{lost}.parquet"}

    capsys.readouterr()
    question = "SELECT defense, attack, count(*) AS n FROM outcomes GROUP BY ALL ORDER BY ALL"
    assert main(["sql", question, f"--catalog={uri}", "--format=json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert [row["n"] for row in counts] == [16] * 2

    assert main(["compact", f"--catalog={uri}", "--keep=0"]) == 0
    assert main(["compact", f"--catalog={uri}", "--keep=0"]) == 0
    assert not objects(store, uri) & {f"outcomes/{key}.parquet" for key in local.keys("outcomes")}
    assert outcomes(Catalog(uri)) == expected
    count = len(objects(store, uri))
    assert main([*EVALUATION, f"--catalog={uri}"]) == 0
    assert Catalog(uri).keys("outcomes") == local.keys("outcomes")
    assert not [name for name in objects(store, uri) if re.fullmatch(r"outcomes/[0-9a-f].*", name)]
    assert len(objects(store, uri)) <= count + 2, "a run and its attempts at most: no result is computed again"


def _infos(store: pyarrow.fs.FileSystem, uri: str) -> dict[str, pyarrow.fs.FileInfo]:
    base = uri.removeprefix("s3://")
    found = store.get_file_info(pyarrow.fs.FileSelector(base, recursive=True))
    return {info.path.removeprefix(f"{base}/"): info for info in found}


@pytest.fixture
def filled(uri: str) -> Catalog:
    """A catalog with two results."""
    catalog = Catalog(uri)
    catalog.create()
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("loir-2", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    add_outcomes(catalog, "v", "loir-2", "aa", {"a": "robust", "b": "robust"})
    return catalog


def test_a_half_written_object_is_left_out_and_replaced(
    store: pyarrow.fs.FileSystem, uri: str, filled: Catalog
) -> None:
    whole = filled.read("outcomes", "v")
    place = filled.place
    content = place.read("outcomes/v.parquet")
    place.write("outcomes/v.parquet", content[: len(content) // 2])
    assert run_query(filled, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 2}]
    with pytest.raises(InputError, match="is damaged"):
        filled.read("outcomes", "v")
    assert filled.commit("outcomes", "v", whole)
    assert place.read("quarantine/outcomes/v.parquet") == content[: len(content) // 2]
    assert filled.read("outcomes", "v").equals(whole)


def test_of_two_writers_of_one_object_one_wins(store: pyarrow.fs.FileSystem, uri: str, filled: Catalog) -> None:
    assert filled.place.create("outcomes/first.parquet", b"first")
    assert filled.place.create("outcomes/first.parquet", b"first"), "the same put, repeated because its answer was lost"
    assert not filled.place.create("outcomes/first.parquet", b"second")
    assert filled.place.read("outcomes/first.parquet") == b"first"


def test_an_upload_that_was_never_completed_is_no_object(
    store: pyarrow.fs.FileSystem, uri: str, filled: Catalog
) -> None:
    assert isinstance(filled.place, Bucket)
    stream = filled.place.filesystem.open_output_stream(f"{filled.place.base}/outcomes/w.parquet")
    # More than a part of an upload: some of it is in the store already, as when a process dies.
    stream.write(bytes(12 * 2**20))
    stream.flush()
    assert not filled.has("outcomes", "w")
    assert filled.keys("outcomes") == {"u", "v"}
    stream.close()
    assert filled.has("outcomes", "w")


def test_another_process_reads_what_this_one_committed(uri: str, filled: Catalog) -> None:
    program = "import sys; from igd_ray.catalog import Catalog; print(Catalog(sys.argv[1]).read_note('question'))"
    filled.write_note("question", "answer")
    done = run_python(program, uri)
    assert done.stdout == "answer\n", done.stderr
    filled.delete_note("question")
    assert filled.read_note("question") is None
    assert filled.place.age("outcomes/u.parquet") < 600


def test_a_bucket_that_is_not_there_is_one_line(store: pyarrow.fs.FileSystem) -> None:
    with pytest.raises(IgdError, match=r"cannot write s3://nowhere/results: Bucket 'nowhere' not found") as caught:
        Catalog("s3://nowhere/results").create()
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no catalog at s3://nowhere/results"):
        run_query(Catalog("s3://nowhere/results"), "SELECT 1")
