"""`igd compact`: the same answers from fewer files, at every moment and wherever it is killed."""

import errno
import threading
from pathlib import Path

import duckdb
import pytest

from igd_ray.catalog import SCHEMAS, Catalog, ask, run_query
from igd_ray.catalog.compaction import Compaction, compact
from igd_ray.catalog.places import Folder
from igd_ray.catalog.query import Reader
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

    def rows(reader: Reader) -> dict[str, object]:
        return {view: reader.rows(f"FROM {view} ORDER BY ALL") for view in views}

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
    [("write", 1), ("write", 2), ("append", 1), ("delete", 2)],
)
def test_wherever_it_is_killed_nothing_is_lost_or_doubled(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    before = answers(filled)
    if step == "delete":
        compact(filled, keep_seconds=0, settle_seconds=0)
    place = {
        "write": "places.Folder.write",
        "append": "merged.MergedResults.append",
        "delete": "places.Folder.delete",
    }[step]
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
    (announcement,) = (filled.root / "compacted").glob("0*.parquet")
    (merged,) = (filled.root / "outcomes").glob("_merged-*.parquet")
    content = announcement.read_bytes()
    announcement.write_bytes(content[:100])
    assert not Catalog(filled.root).has("outcomes", UNITS[0]), "it is computed anew"
    assert f"{filled}/compacted/{announcement.name} is damaged" in capsys.readouterr().err
    merge(filled)
    merge(filled)
    assert merged.exists()
    assert (filled.root / "quarantine" / "compacted" / announcement.name).read_bytes() == content[:100]
    announcement.write_bytes(content)  # restored from a copy
    assert answers(Catalog(filled.root)) == before


@pytest.mark.parametrize("damage", ["gone", "half", "changed", "unread"])
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
        elif damage == "changed":
            content = merged.read_bytes()
            merged.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        else:
            unreadable(patched, merged.name)
            with pytest.raises(IgdError, match=r"cannot read .*; try again"):
                merge(filled)
    assert len(small_files(filled, "outcomes")) >= 12
    assert answers(Catalog(filled.root)) == before, "the small files count again"
    if damage != "unread":
        assert merge(filled).results == 12
    assert answers(Catalog(filled.root)) == before
    merge(filled)
    assert answers(Catalog(filled.root)) == before
    assert small_files(filled, "outcomes") == [name for name in small_files(filled, "outcomes") if name[0] == "_"]


def unreadable(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Have every reading of files of this name fail."""
    whole = Folder.open

    def failing(self: Folder, name: str) -> object:
        if name.endswith(file):
            raise OSError(errno.EIO, "Input/output error")
        return whole(self, name)

    monkeypatch.setattr(Folder, "open", failing)


def test_rows_with_nan_are_merged_too(filled: Catalog) -> None:
    for key in "ab":
        filled.commit("noise", key, [])
        filled.commit("checks", key, [row("checks", check="x", severity="info", message="m", value=float("nan"))])
    assert merge(filled).results == 18
    assert merge(filled).deleted == 18
    assert len(filled.read("checks", "a")) == 1


def test_of_two_merges_at_once_one_counts(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other finds its number taken, throws away what it made, and begins anew."""
    late = []

    def meanwhile(_: float) -> None:
        if not late:
            late.append("late")
            add_outcomes(filled, "late", "none", "aa-late", {"a": "robust"})
            assert merge(filled).results == 15

    monkeypatch.setattr("time.sleep", meanwhile)
    assert merge(filled).results == 0
    monkeypatch.undo()
    assert filled.merged.numbers() == [1]
    assert len(list((filled.root / "outcomes").glob("_merged-*"))) == 1
    assert run_query(filled, "SELECT count(*) AS n FROM outcomes").to_pylist() == [{"n": 24}]
    assert run_query(filled, "SELECT count(*) AS n FROM stored_outcomes").to_pylist() == [{"n": 25}]


def test_one_that_was_killed_leaves_what_the_next_removes(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: float) -> None:
        raise KeyboardInterrupt

    before = answers(filled)
    monkeypatch.setattr("time.sleep", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(filled)
    monkeypatch.undo()
    (abandoned,) = (filled.root / "outcomes").glob("_merged-*")
    merge(filled)
    assert abandoned.exists(), "until its number is taken it may still be announced"
    merge(filled)
    assert not abandoned.exists()
    assert answers(Catalog(filled.root)) == before


def test_many_merged_files_become_one(filled: Catalog) -> None:
    add_plan(
        filled, {f"more-{index}-{half}": ("none", f"m-{index}", "ab") for index in range(9) for half in "ab"}, "two"
    )
    for index in range(9):
        for half in "ab":
            add_outcomes(filled, f"more-{index}-{half}", "none", f"m-{index}", {half: "robust"})
        merge(filled)
    before = answers(filled)
    merge(filled)
    assert len(list((filled.root / "outcomes").glob("_merged-*"))) < 8
    assert answers(Catalog(filled.root)) == before


def test_a_copy_under_another_name_is_set_aside(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    before = run_query(filled, "FROM stored_outcomes ORDER BY ALL")
    outcomes = filled.root / "outcomes"
    (outcomes / "a-copy.parquet").write_bytes((outcomes / f"{UNITS[0]}.parquet").read_bytes())
    merge(filled)
    assert f"{filled}/outcomes/a-copy.parquet was damaged: now in quarantine" in capsys.readouterr().err
    assert not (outcomes / "a-copy.parquet").exists()
    assert run_query(filled, "FROM stored_outcomes ORDER BY ALL").equals(before)


def test_junk_in_any_table_does_not_stop_it(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    for table in SCHEMAS:
        (filled.root / table / "z.parquet").write_bytes(b"junk")
    assert merge(filled).results == 14
    assert merge(filled).deleted == 14
    said = capsys.readouterr().err
    # A single file is not worth merging, and points are not looked at without outcomes.
    for table in ("outcomes", "checks", "runs", "compacted"):
        assert f"{filled}/{table}/z.parquet was damaged" in said


def test_the_verb_says_what_it_did(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", "--catalog", str(filled.root)]) == 0
    assert capsys.readouterr().out == "merged 14 results into 2 files, deleted 0 files merged earlier\n"
    assert main(["compact", "--catalog", str(filled.root), "--keep", "-1"]) == 2
