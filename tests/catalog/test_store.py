"""The store: whole files or none, once, from any number of processes."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.catalog import SCHEMA_VERSION, SCHEMAS, Catalog, run_query
from igd_ray.errors import IgdError, InputError
from tests.toys.catalog_rows import add_run, row

FINDING = row("checks", check="randomised", severity="warning", message="logits differ")


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_schema_carries_its_table_and_version() -> None:
    for table, schema in SCHEMAS.items():
        assert schema.metadata == {b"igd_schema": f"{table}/{SCHEMA_VERSION}".encode()}


def test_create_twice_changes_nothing(catalog: Catalog) -> None:
    catalog.commit("checks", "a", [FINDING])
    before = _contents(catalog.root)
    catalog.create()
    assert _contents(catalog.root) == before
    assert json.loads(before["catalog.json"]) == {"schema_version": SCHEMA_VERSION}


def test_create_completes_what_a_killed_process_began(tmp_path: Path, catalog: Catalog) -> None:
    begun = Catalog(tmp_path / "begun")
    begun.root.mkdir()
    (begun.root / "catalog.json").write_bytes((catalog.root / "catalog.json").read_bytes())
    begun.create()
    assert _contents(begun.root) == _contents(catalog.root)


def test_create_refreshes_old_views(catalog: Catalog) -> None:
    views = catalog.root / "views.sql"
    current = views.read_text()
    views.write_text("-- of an older igd-ray")
    catalog.create()
    assert views.read_text() == current


def test_create_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="neither empty nor a catalog"):
        Catalog(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_create_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.touch()
    with pytest.raises(InputError, match="is a file"):
        Catalog(path).create()
    with pytest.raises(InputError, match="no catalog at"):
        Catalog(path).check()


@pytest.mark.parametrize("address", ["http://host/results", "s3://", "abc://bucket/results"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be a local or mounted folder, or s3://BUCKET/FOLDER, gs://"):
        Catalog(address)


def test_check_names_both_versions_and_what_to_do(catalog: Catalog) -> None:
    (catalog.root / "catalog.json").write_text('{"schema_version": 41}')
    for verify in (catalog.check, catalog.create):
        with pytest.raises(InputError, match=rf"version 41, .*version {SCHEMA_VERSION}; use the igd-ray that wrote it"):
            verify()


@pytest.mark.parametrize("content", ["", "[1]", "{}", "\x00"])
def test_check_refuses_a_broken_marker(catalog: Catalog, content: str) -> None:
    (catalog.root / "catalog.json").write_text(content)
    with pytest.raises(InputError):
        catalog.check()


def test_check_refuses_a_missing_catalog(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no catalog at"):
        Catalog(tmp_path / "nowhere").check()


def test_a_commit_is_read_back_and_done_once(catalog: Catalog) -> None:
    other = {**FINDING, "message": "another"}
    assert not catalog.has("checks", "a")
    assert catalog.commit("checks", "a", [FINDING])
    assert not catalog.commit("checks", "a", [other])
    assert catalog.has("checks", "a")
    assert catalog.keys("checks") == {"a"}
    assert catalog.keys("outcomes") == set()
    rows = catalog.read("checks", "a")
    assert rows.schema.equals(SCHEMAS["checks"])
    assert rows.to_pylist() == [FINDING]


def test_the_same_catalog_on_lists_and_times(catalog: Catalog) -> None:
    add_run(catalog, notes=["a", "b"])
    (read,) = catalog.read("runs", "run").to_pylist()
    assert read["notes"] == ["a", "b"]
    assert read["created_at"].isoformat() == "2026-01-02T03:04:05+00:00"


def test_a_table_is_cast_and_ordered(catalog: Catalog) -> None:
    columns = {
        "pixels": pa.array([[0.5, 0.25]], pa.list_(pa.float64())),
        "shape": pa.array([[1, 1, 2]], pa.list_(pa.int64())),
        "unit_key": ["u"],
        "image_id": ["i"],
        "point": ["returned"],
    }
    catalog.commit("adversarials", "u", pa.table(columns))
    rows = catalog.read("adversarials", "u")
    assert rows.schema.equals(SCHEMAS["adversarials"])
    assert rows.column("pixels").to_pylist() == [[0.5, 0.25]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**FINDING, "extra": 1, "other": 2}], "unknown extra, other"),
        ([{"check": "x"}], "missing attack, .*value"),
        ([FINDING, {**FINDING, "check": None}], "check must not be NULL"),
        ([{**FINDING, "value": "high"}], "do not fit the schema of checks"),
        ([{**FINDING, "message": 3}], "do not fit the schema of checks"),
        (pa.table({"check": ["x"]}), "missing"),
    ],
)
def test_rows_that_do_not_fit_are_refused(catalog: Catalog, rows: list[dict[str, object]], message: str) -> None:
    before = _contents(catalog.root)
    with pytest.raises(InputError, match=message):
        catalog.commit("checks", "a", rows)
    assert _contents(catalog.root) == before


def test_a_value_is_never_narrowed_silently(catalog: Catalog) -> None:
    for label in (2**40, 1.5):
        bad = row("trials", search_id="s", trial=label)
        with pytest.raises(InputError, match="do not fit"):
            catalog.commit("trials", "s", [bad])


@pytest.mark.parametrize(
    "key", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "_empty", "a\n", "ä", "a" * 201, "a\\b"]
)
def test_bad_keys_are_refused(catalog: Catalog, key: str) -> None:
    with pytest.raises(InputError, match="a key is"):
        catalog.commit("checks", key, [FINDING])
    with pytest.raises(InputError, match="a key is"):
        catalog.read("checks", key)


@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", fullmatch=True).filter(lambda key: key != "_empty"))
def test_every_good_key_is_a_file_name(key: str) -> None:
    assert not Catalog("nowhere").has("checks", key)


def test_an_unknown_table_names_the_close_one(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="did you mean 'outcomes'"):
        catalog.keys("outcome")


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [_half, lambda _: b"", lambda _: b"junk", lambda content: content[:-4]])
def test_a_half_written_file_is_set_aside_by_the_commit_that_replaces_it(catalog: Catalog, damage) -> None:  # type: ignore[no-untyped-def]
    catalog.commit("checks", "a", [FINDING])
    path = catalog.root / "checks" / "a.parquet"
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    with pytest.raises(InputError, match=r"checks/a\.parquet is damaged: .*run the command again that made it"):
        catalog.read("checks", "a")
    assert path.read_bytes() == damaged, "reading moves nothing"
    assert catalog.whole("checks", ["a"]) == set()
    assert catalog.commit("checks", "a", [FINDING])
    assert (catalog.root / "quarantine" / "checks" / "a.parquet").read_bytes() == damaged
    assert catalog.read("checks", "a").to_pylist() == [FINDING]


def test_a_file_of_another_table_is_foreign(catalog: Catalog) -> None:
    content = (catalog.root / "runs" / "_empty.parquet").read_bytes()
    (catalog.root / "checks" / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"checks/a\.parquet"):
        catalog.read("checks", "a")


def test_a_missing_result_is_named(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="has no 'a' in checks"):
        catalog.read("checks", "a")


def _commit_all(root: Path, keys: list[str], barrier, results) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    catalog = Catalog(root)
    catalog.create()
    results.put([catalog.commit("checks", key, [{**FINDING, "message": key}]) for key in keys])


def test_processes_create_and_commit_the_same_keys_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    keys, workers = [f"k{index}" for index in range(20)], 4
    barrier, results = context.Barrier(workers), context.Queue()
    arguments = (tmp_path / "results", keys, barrier, results)
    processes = [context.Process(target=_commit_all, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    written = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    catalog = Catalog(tmp_path / "results")
    assert catalog.keys("checks") == set(keys)
    for position, key in enumerate(keys):
        assert any(answers[position] for answers in written)
        assert catalog.read("checks", key).column("message").to_pylist() == [key]
    assert not list(catalog.root.rglob("*.tmp"))


def _die_before_the_link(catalog: Catalog) -> None:
    os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    catalog.commit("checks", "a", [FINDING])


def test_a_kill_before_the_link_leaves_nothing_visible(catalog: Catalog) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_before_the_link, args=(catalog,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in (catalog.root / "checks").glob("*.tmp")], "the kill came too early to prove anything"
    assert catalog.keys("checks") == set()
    assert not catalog.has("checks", "a")
    assert run_query(catalog, "SELECT count(*) AS n FROM checks").to_pylist() == [{"n": 0}]
    assert catalog.commit("checks", "a", [FINDING])


def test_a_full_disk_is_one_line_and_leaves_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = _contents(catalog.root)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IgdError, match=r"cannot write .*a\.parquet: No space left on device") as caught:
        catalog.commit("checks", "a", [FINDING])
    assert not isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    assert _contents(catalog.root) == before


def test_a_vanished_folder_is_one_line(catalog: Catalog) -> None:
    (catalog.root / "checks" / "_empty.parquet").unlink()
    (catalog.root / "checks").rmdir()
    with pytest.raises(IgdError, match="cannot write"):
        catalog.commit("checks", "a", [FINDING])
    assert catalog.keys("checks") == set()


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(IgdError, match="cannot write"):
        Catalog("/proc/igd-ray").create()


@pytest.mark.parametrize("name", ["", " "])
def test_a_catalog_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name a folder"):
        Catalog(name)
