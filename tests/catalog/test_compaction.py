"""`igd compact`: the same answers from fewer files, at every moment and wherever it is killed."""

import errno
import os
import threading
from pathlib import Path

import duckdb
import pyarrow.fs
import pytest

from igd_ray.catalog import SCHEMAS, Catalog, ask, run_query
from igd_ray.catalog.compaction import Compaction, _merge, compact
from igd_ray.catalog.places import Folder
from igd_ray.cli import main
from igd_ray.errors import IgdError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row

UNITS = [f"unit.{index}-{'ab'[index % 2]}" for index in range(12)]


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    add_run(catalog)
    add_plan(catalog, {key: ("none", f"aa-{key}", "ab") for key in UNITS})
    for key in UNITS:
        add_outcomes(catalog, key, "none", f"aa-{key}", {"a": "robust", "b": "broken"})
    catalog.commit("checks", "without-rows", [])
    catalog.commit("checks", "with-rows", [row("checks", run_id="run", check="x", severity="info", message="m")])
    return catalog


def answers(catalog: Catalog) -> dict[str, object]:
    views = ("runs", "run_units", "outcomes", "checks", "accuracy", "worst_case", "progress")

    def rows(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
        return {view: connection.sql(f"FROM {view} ORDER BY ALL").to_arrow_table().to_pylist() for view in views}

    found = ask(catalog, rows)
    for table in ("outcomes", "checks", "runs", "run_units"):
        keys = catalog.keys(table)
        found[table] = sorted(keys), [catalog.read(table, key).to_pylist() for key in sorted(keys)]
    return found


def small_files(catalog: Catalog, table: str) -> list[str]:
    return sorted(path.name for path in (catalog.root / table).glob("*.parquet") if not path.name.startswith("_"))


def test_answers_stay_and_files_become_few(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers(filled)
    assert compact(filled, keep_seconds=3600, settle_seconds=0) == Compaction(results=14, files=2, deleted=0)
    assert answers(filled) == answers(Catalog(filled.root)) == before
    assert len(small_files(filled, "outcomes")) == 12, "who reads them may go on"
    assert compact(filled, keep_seconds=0, settle_seconds=0) == Compaction(results=0, files=0, deleted=14)
    assert small_files(filled, "outcomes") == small_files(filled, "checks") == []
    assert answers(filled) == answers(Catalog(filled.root)) == before
    # Plain DuckDB has the same rows.
    monkeypatch.chdir(filled.root)
    connection = duckdb.connect()
    connection.execute(Path("views.sql").read_text())
    assert connection.sql("SELECT count(*) FROM outcomes").fetchall() == [(24,)]


def test_what_is_merged_is_committed_and_new_results_join(filled: Catalog) -> None:
    compact(filled, keep_seconds=0, settle_seconds=0)
    compact(filled, keep_seconds=0, settle_seconds=0)
    assert filled.has("outcomes", UNITS[0])
    assert not filled.commit("outcomes", UNITS[0], filled.read("outcomes", UNITS[0]))
    assert filled.read("checks", "without-rows").schema == SCHEMAS["checks"]
    add_outcomes(filled, "new", "none", "aa", {"a": "robust"})
    add_outcomes(filled, "newer", "none", "aa", {"b": "robust"})
    assert run_query(filled, "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 26}]
    assert compact(filled, keep_seconds=0, settle_seconds=0).results == 2
    assert run_query(filled, "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 26}]


@pytest.mark.parametrize(
    ("step", "call"),
    [("write", 1), ("write", 3), ("write", 7), ("commit", 1), ("commit", 2), ("delete", 2)],
)
def test_wherever_it_is_killed_nothing_is_lost_or_doubled(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    before = answers(filled)
    if step == "delete":
        compact(filled, keep_seconds=0, settle_seconds=0)
    place = {"write": "places.Folder.write", "commit": "store.Catalog.commit", "delete": "places.Folder.delete"}[step]
    target = f"igd_ray.catalog.{place}"
    module, name, method = target.rsplit(".", 2)
    import importlib

    whole = getattr(getattr(importlib.import_module(module), name), method)
    calls = []

    def killed(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(target, killed)
        with pytest.raises(KeyboardInterrupt):
            compact(filled, keep_seconds=0, settle_seconds=0)
    assert answers(filled) == answers(Catalog(filled.root)) == before
    # The next ones finish what was begun.
    compact(filled, keep_seconds=0, settle_seconds=0)
    compact(filled, keep_seconds=0, settle_seconds=0)
    assert answers(filled) == before
    assert small_files(filled, "outcomes") == []


def test_readers_see_every_row_once_all_the_while(filled: Catalog) -> None:
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(run_query(Catalog(filled.root), "SELECT count(*) AS n FROM stored_outcomes")["n"][0].as_py())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        compact(filled, keep_seconds=3600, settle_seconds=0.5)
    finally:
        stop.set()
        reader.join()
    assert seen == {24}


def test_a_session_that_may_write_again_is_left_alone(filled: Catalog) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    for key, age in (("open-0", 0), ("old-0", 2), ("old-1", 3)):
        moment = now - timedelta(hours=age)
        attempt = row("attempts", unit_key="u", attempt=1, session=key, started_at=moment, seen_at=moment)
        filled.commit("attempts", key, [attempt])
    compact(filled, keep_seconds=0, settle_seconds=0)
    compact(filled, keep_seconds=0, settle_seconds=0)
    assert small_files(filled, "attempts") == ["open-0.parquet"]
    assert filled.keys("attempts") == {"open-0", "old-0", "old-1"}


def merge(catalog: Catalog) -> Compaction:
    """Compact as a process of its own does."""
    return compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)


def test_a_damaged_announcement_costs_no_merged_file(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    before = answers(filled)
    merge(filled)
    merge(filled)
    (announcement,) = (filled.root / "compacted").glob("outcomes-*.parquet")
    (merged,) = (filled.root / "outcomes").glob("_merged-*.parquet")
    content = announcement.read_bytes()
    announcement.write_bytes(content[:100])
    assert not Catalog(filled.root).has("outcomes", UNITS[0]), "it is computed anew"
    assert f"{filled}/compacted/{announcement.name} was half-written" in capsys.readouterr().err
    merge(filled)
    merge(filled)
    assert merged.exists()
    announcement.write_bytes(content)  # restored from a copy
    assert answers(Catalog(filled.root)) == before


@pytest.mark.parametrize("damage", ["gone", "half", "unread"])
def test_without_a_sound_merged_file_no_small_one_is_deleted(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    before = answers(filled)
    merge(filled)
    (merged,) = (filled.root / "outcomes").glob("_merged-*.parquet")
    with monkeypatch.context() as patched:
        if damage == "gone":
            merged.unlink()
        elif damage == "half":
            merged.write_bytes(merged.read_bytes()[:-9])
        else:
            unreadable(patched, merged.name)
            with pytest.raises(IgdError, match=r"cannot read .*; try again"):
                merge(filled)
            assert len(small_files(filled, "outcomes")) == 12
    if damage != "unread":
        # The small files count again, and are merged again.
        assert merge(filled).results == 12
    assert answers(Catalog(filled.root)) == before
    merge(filled)
    assert small_files(filled, "outcomes") == []
    assert answers(Catalog(filled.root)) == before


def unreadable(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Have every reading of files of this name fail."""
    for method in ("open_parquet", "read"):
        whole = getattr(Folder, method)

        def failing(self: Folder, name: str, whole=whole) -> object:  # type: ignore[no-untyped-def]
            if name.endswith(file):
                raise OSError(errno.EIO, "Input/output error")
            return whole(self, name)

        monkeypatch.setattr(Folder, method, failing)


def test_a_damaged_row_group_keeps_the_small_files(filled: Catalog) -> None:
    merge(filled)
    (merged,) = (filled.root / "outcomes").glob("_merged-*.parquet")
    content = merged.read_bytes()
    merged.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    with pytest.raises(IgdError, match=r"_merged-.*is damaged .*no small file was deleted for it; move it away"):
        merge(filled)
    assert len(small_files(filled, "outcomes")) == 12


def test_a_small_file_with_other_rows_than_were_merged_is_kept(filled: Catalog) -> None:
    merge(filled)
    add = [row("checks", run_id="run", check="y", severity="info", message="m")]
    filled.commit("checks", "other", add)
    (filled.root / "checks" / "other.parquet").rename(filled.root / "checks" / "with-rows.parquet")
    assert merge(filled).deleted == 13
    assert small_files(filled, "checks") == ["with-rows.parquet"]


def test_rows_with_nan_are_merged_too(filled: Catalog) -> None:
    for key in "ab":
        filled.commit("noise", key, [])
        filled.commit("checks", key, [row("checks", check="x", severity="info", message="m", value=float("nan"))])
    assert merge(filled).results == 18
    assert merge(filled).deleted == 18


def test_each_group_is_announced_before_the_next_is_merged(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write = Folder.write

    def noted(self: Folder, name: str, content: bytes) -> None:
        order.append(name.partition("/")[0])
        write(self, name, content)

    monkeypatch.setattr(Folder, "write", noted)
    merge(filled)
    assert [name for name in order if not name.startswith(".")] == ["outcomes", "compacted", "checks", "compacted"]


def test_two_compactions_at_once_count_nothing_twice(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def meanwhile(_: float) -> None:
        add_outcomes(filled, f"late-{len(refused)}", "none", "aa-late", {"a": "robust"})
        with pytest.raises(IgdError, match=r"another compaction of .* is at work; wait for it, or delete") as caught:
            merge(filled)
        refused.append(caught)

    monkeypatch.setattr("time.sleep", meanwhile)
    merge(filled)
    monkeypatch.undo()
    assert len(refused) == 2
    merge(filled)
    merge(filled)
    assert not filled.notes()
    assert run_query(filled, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 24}]
    assert run_query(filled, "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 26}]


def test_one_that_stood_still_for_long_gives_up(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers(filled)

    def meanwhile(_: float) -> None:
        monkeypatch.undo()
        (note,) = filled.root.glob(".compaction-*")
        os.utime(note, (1, 1))
        assert merge(filled).files == 2

    monkeypatch.setattr("time.sleep", meanwhile)
    with pytest.raises(IgdError, match="stood still and another one has begun"):
        merge(filled)
    assert answers(filled) == answers(Catalog(filled.root)) == before
    assert not filled.notes()


@pytest.mark.parametrize("storage", ["folder", "bucket"])
def test_a_result_in_two_merged_files_counts_once(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    before = answers(filled)
    for keys in (UNITS[:7], UNITS[5:]):
        group = {key: filled.read("outcomes", key) for key in keys}
        name, rows = _merge(filled, "outcomes", group, 0)
        filled.commit("compacted", name, rows)
    for name in small_files(filled, "outcomes"):
        (filled.root / "outcomes" / name).unlink()
    root: str | Path = filled.root
    if storage == "bucket":

        def stand_in(_: str) -> tuple[pyarrow.fs.FileSystem, str]:
            return pyarrow.fs.SubTreeFileSystem(str(filled.root.parent), pyarrow.fs.LocalFileSystem()), "results"

        monkeypatch.setattr("igd_ray.catalog.places.filesystem_of", stand_in)
        root = "s3://bucket/results"
    assert answers(Catalog(root)) == before


def test_a_copy_under_another_name_is_not_merged(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    before = run_query(filled, "FROM stored_outcomes ORDER BY ALL")
    outcomes = filled.root / "outcomes"
    (outcomes / "a-copy.parquet").write_bytes((outcomes / f"{UNITS[0]}.parquet").read_bytes())
    merge(filled)
    assert f"{filled}/outcomes/a-copy.parquet holds a result of another name: not read" in capsys.readouterr().err
    assert small_files(filled, "outcomes")[0] == "a-copy.parquet"
    assert run_query(filled, "FROM stored_outcomes ORDER BY ALL").equals(before)


def test_junk_in_any_table_does_not_stop_it(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    for table in SCHEMAS:
        (filled.root / table / "z.parquet").write_bytes(b"junk")
    assert merge(filled).results == 14
    assert merge(filled).deleted == 14
    said = capsys.readouterr().err
    # Points count only with outcomes, and are not looked at without.
    for table in set(SCHEMAS) - {"adversarials"}:
        assert f"{filled}/{table}/z.parquet was half-written" in said


def test_the_verb_says_what_it_did(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", "--catalog", str(filled.root)]) == 0
    assert capsys.readouterr().out == "merged 14 results into 2 files, deleted 0 files merged earlier\n"
    assert main(["compact", "--catalog", str(filled.root), "--keep", "-1"]) == 2
