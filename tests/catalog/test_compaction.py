"""`igd compact`: the same answers from fewer files, at every moment and wherever it is killed."""

import threading
from pathlib import Path

import duckdb
import pytest
from catalog_rows import add_outcomes, add_plan, add_run, row

from igd_ray.catalog import SCHEMAS, Catalog, run_query
from igd_ray.catalog.compaction import Compaction, compact
from igd_ray.cli import main

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
    found: dict[str, object] = {view: run_query(catalog, f"FROM {view} ORDER BY ALL").to_pylist() for view in views}
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


@pytest.mark.parametrize("step", ["write", "commit", "delete"])
def test_wherever_it_is_killed_nothing_is_lost_or_doubled(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, step: str
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
        if len(calls) == 2:
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


def test_the_verb_says_what_it_did(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", "--catalog", str(filled.root)]) == 0
    assert capsys.readouterr().out == "merged 14 results into 2 files, deleted 0 files merged earlier\n"
    assert main(["compact", "--catalog", str(filled.root), "--keep", "-1"]) == 2
