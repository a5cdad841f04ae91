"""What is damaged or foreign never counts; what merely could not be read just then stays where it is."""

import errno
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.errors import IgdError, InputError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row

FINDING = row("checks", run_id="r", check="x", severity="info", message="m")


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    """A catalog with two units' outcomes."""
    add_run(catalog)
    add_plan(catalog, {"u0": ("none", "aa", "ab"), "u1": ("loir-2", "aa", "ab")})
    add_outcomes(catalog, "u0", "none", "aa", {"a": "robust", "b": "broken"})
    add_outcomes(catalog, "u1", "loir-2", "aa", {"a": "robust", "b": "broken"})
    return catalog


def rows_of(catalog: Catalog, table: str = "outcomes") -> int:
    return run_query(catalog, f"SELECT count(*) AS n FROM stored_{table}")["n"][0].as_py()  # type: ignore[no-any-return]


def files(catalog: Catalog) -> dict[str, bytes]:
    return {str(path.relative_to(catalog.root)): path.read_bytes() for path in catalog.root.rglob("*.parquet")}


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception, *methods: str) -> None:
    """Have these methods of a folder raise `error` for every Parquet file."""
    for method in methods:
        whole = getattr(__import__("igd_ray.catalog.places", fromlist=["Folder"]).Folder, method)

        def failing(self: object, name: str, whole=whole) -> object:  # type: ignore[no-untyped-def]
            if name.endswith(".parquet"):
                raise error
            return whole(self, name)

        monkeypatch.setattr(f"igd_ray.catalog.places.Folder.{method}", failing)


PASSING = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError("AWS Error SLOW_DOWN during GetObject operation: (HTTP status 503)"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_a_passing_read_error_asks_to_try_again_and_moves_nothing(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    before = files(filled)
    with monkeypatch.context() as patched:
        fails(patched, error, "open")
        with pytest.raises(IgdError, match=r"cannot read .*outcomes/u0\.parquet: .*; try again") as caught:
            filled.read("outcomes", "u0")
        assert not isinstance(caught.value, InputError)
        with pytest.raises(IgdError, match=r"cannot read .*; try again"):
            run_query(filled, "FROM outcomes")
        with pytest.raises(IgdError, match=r"cannot read .*; try again"):
            filled.whole("outcomes", ["u0"])
    assert files(filled) == before
    assert filled.read("outcomes", "u0").num_rows == 2


def test_a_lack_of_memory_is_no_damage(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    def full(*_arguments: object, **_named: object) -> None:
        raise pa.ArrowMemoryError("malloc failed")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", full)
    with pytest.raises(MemoryError):
        filled.read("outcomes", "u0")
    assert "outcomes/u0.parquet" in files(filled)


def test_a_damaged_page_is_found_by_whoever_reads_it(filled: Catalog) -> None:
    path = filled.root / "outcomes" / "u0.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    with pytest.raises(InputError, match=r"outcomes/u0\.parquet is damaged: some of its bytes have changed"):
        filled.read("outcomes", "u0")
    assert rows_of(filled) == 2
    assert filled.whole("outcomes", ["u0", "u1"]) == {"u1"}


@pytest.mark.parametrize(
    "name", ["u0 (copy)", "u0 (conflicted copy 2026-01-02)", "u0.sync-conflict-20260102-030405-ABC", "u0-LAPTOP"]
)
def test_a_copy_of_a_result_under_another_name_does_not_count(
    filled: Catalog, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("outcomes", "runs"):
        content = (filled.root / table / f"{'u0' if table == 'outcomes' else 'run'}.parquet").read_bytes()
        (filled.root / table / f"{name}.parquet").write_bytes(content)
    assert rows_of(filled) == 4
    assert rows_of(filled, "runs") == 1
    # Plain DuckDB has the same rows.
    import duckdb

    monkeypatch.chdir(filled.root)
    connection = duckdb.connect()
    connection.execute(Path("views.sql").read_text())
    assert connection.sql("SELECT count(*) FROM stored_outcomes").fetchall() == [(4,)]


@pytest.mark.parametrize("table", ["checks", "failures"])
def test_a_name_that_is_no_key_is_never_read_and_said(
    filled: Catalog, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    filled.commit("checks", "c", [FINDING])
    filled.commit("failures", "c", [row("failures", unit_key="u", attempt=1, error="e")])
    copy = filled.root / table / "c (1).parquet"
    copy.write_bytes((filled.root / table / "c.parquet").read_bytes())
    assert filled.keys(table) == {"c"}
    assert rows_of(filled, table) == 1
    assert capsys.readouterr().err == f"{filled}/{table}/c (1).parquet is not a result of igd-ray: not read\n"
    assert copy.exists()


@pytest.mark.parametrize("table", ["outcomes", "splits", "compacted"])
def test_one_damaged_file_does_not_hide_whether_others_are_done(
    filled: Catalog, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (filled.root / table / "z.parquet").write_bytes(b"junk")
    assert filled.has("outcomes", "u0")
    assert not filled.has("outcomes", "absent")
    assert filled.whole("outcomes", ["u0", "u1", "z", "absent"]) == {"u0", "u1"}
    if table == "outcomes":
        assert f"{filled}/outcomes/z.parquet is damaged" in capsys.readouterr().err


def test_junk_for_what_was_merged_is_left_out(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    (filled.root / "compacted" / "z.parquet").write_bytes(b"junk")
    assert not filled.has("outcomes", "absent")
    assert (filled.root / "compacted" / "z.parquet").read_bytes() == b"junk"
    assert "compacted/z.parquet is damaged" in capsys.readouterr().err


def test_a_truncated_result_is_not_done(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled.root / "outcomes" / "u0.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert filled.whole("outcomes", ["u0", "u1"]) == {"u1"}
    assert path.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_unit_that_was_split_is_done_with_its_parts_only(filled: Catalog) -> None:
    """As the views have it, also where another driver has computed it whole since."""
    (whole, *_) = sorted(filled.keys("outcomes"))
    rows = [{"unit_key": whole, "part_key": f"{whole}-{end}", "images": 1} for end in "ab"]
    filled.commit("splits", whole, rows)
    assert not filled.has("outcomes", whole)
    assert filled.whole("outcomes", [whole]) == set()


def test_what_another_process_has_set_aside_already_is_no_error(
    filled: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, *_) = sorted(filled.keys("outcomes"))
    file = filled.root / "outcomes" / f"{name}.parquet"
    rows = filled.read("outcomes", name)
    file.write_bytes(b"junk")
    move = type(filled.place).move

    def late(place: object, source: str, target: str) -> None:
        file.unlink()
        move(place, source, target)

    monkeypatch.setattr(type(filled.place), "move", late)
    assert filled.commit("outcomes", name, rows)
