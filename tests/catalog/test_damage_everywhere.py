"""No damage to any file is read as other rows, and nothing outside the catalog is touched."""

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from igd_ray.catalog import SCHEMAS, Catalog, run_query
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.integrity import check_files
from igd_ray.catalog.sealed import sealed_parquet
from igd_ray.catalog.tables import UnreadableError
from igd_ray.cli import main
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, outcome, row

KEYS = [f"unit-{number}" for number in range(6)]


def add_unit(catalog: Catalog, key: str) -> None:
    points = {"unit_key": key, "point": "returned", "shape": [1], "pixels": [0.5]}
    statuses = {"a": "robust", "b": "broken", "c": "misclassified", "d": "robust"}
    catalog.commit_unit(
        key,
        {
            "adversarials": [row("adversarials", image_id=image, **points) for image in statuses],
            "outcomes": [outcome(key, "none", f"aa-{key}", image, status) for image, status in statuses.items()],
        },
    )


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, set[str]]:
    return rows(Catalog(whole))


@pytest.fixture(scope="module", params=["small files", "merged"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with results in every table that a number comes from."""
    catalog = Catalog(tmp_path_factory.mktemp("whole") / "results")
    catalog.create()
    add_run(catalog)
    add_plan(catalog, {key: ("none", f"aa-{key}", "abcd") for key in KEYS})
    for key in KEYS:
        add_unit(catalog, key)
    for key in "pq":
        scores = {"method": "loir", "model": "demo", "class_id": 0, "neuron": 0, "score": 0.25, "rank": 0}
        catalog.commit("rankings", key, [row("rankings", ranking_id=key, **_known("rankings", scores))])
        catalog.commit("checks", key, [row("checks", run_id="run", check="x", severity="info", message="m", value=0.5)])
        catalog.commit("arrays", key, [row("arrays", unit_key=key, name="x", dtype="<f4", shape=[1], data=b"\0\0\0?")])
    if request.param == "merged":
        for _ in range(2):
            compact(catalog, keep_seconds=0, settle_seconds=0)
    return catalog.root


def _known(table: str, values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name in SCHEMAS[table].names}


TABLES = [table for table in SCHEMAS if table != "compacted"]


def rows(catalog: Catalog) -> dict[str, set[str]]:
    """Every row of every table, as SQL and as workers read them."""
    lists = ", ".join(f"(SELECT list({table}) FROM stored_{table} AS {table}) AS {table}" for table in TABLES)
    (answer,) = run_query(catalog, f"SELECT {lists}").to_pylist()
    found = {f"sql {table}": set(map(repr, held or [])) for table, held in answer.items()}
    return found | {f"read {table}": rows_of(catalog, table) for table in TABLES}


def rows_of(catalog: Catalog, table: str) -> set[str]:
    """The rows of one table, as workers read them."""
    held: set[str] = set()
    for key in sorted(catalog.keys(table)):
        try:
            held |= set(map(repr, catalog.read(table, key).to_pylist()))
        except UnreadableError:
            continue
    return held


# What people ask, each of which reads other tables.
QUESTIONS = {
    "sql": ["sql", "FROM worst_case JOIN accuracy USING (run_id, defense) ORDER BY ALL", "--format", "json"],
    "status": ["status", "--json"],
    "report": ["report", "--run-id", "run", "--format", "json"],
}


def asked(verb: str, catalog: Path) -> tuple[object, str]:
    """What a verb answers, with its exit code, and what it says beside that."""
    printed, said = io.StringIO(), io.StringIO()
    report = catalog.parent / "report.json"
    report.unlink(missing_ok=True)
    output = ["--output", str(report)] if verb == "report" else []
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = main([*QUESTIONS[verb], "--catalog", str(catalog), *output])
    return (code, printed.getvalue(), report.read_text() if report.exists() else ""), said.getvalue()


def flip_and_read(whole: Path, expected: dict[str, set[str]], folder: Path, seeds: range, every: int) -> None:
    """Flip a bit for each seed, and read: as workers do, as `igd verify --files`, and one in `every` by a verb."""
    shutil.copytree(whole, folder)
    files = sorted(folder.glob("*/*.parquet"))
    answers = {verb: asked(verb, folder) for verb in QUESTIONS}
    assert [(answer[0], said) for (answer, said) in answers.values()] == [(0, "")] * 3  # type: ignore[index]
    lost, left_out = 0, set[str]()
    for seed in seeds:
        chance = random.Random(seed)
        file = chance.choice(files)
        content = file.read_bytes()
        position, bit = chance.randrange(len(content)), chance.randrange(8)
        file.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
        catalog = Catalog(folder)
        table = file.parent.name
        why = f"seed {seed}: bit {bit} of byte {position} of {table}/{file.name}"
        # SQL reads through the same verification; every row of it is compared now and then, as that takes longer.
        found = {f"read {table}": rows_of(catalog, table)} if seed % 20 and table != "compacted" else rows(catalog)
        for name, held in found.items():
            assert held <= expected[name], why
            lost += held < expected[name]
        assert [fault.name for fault in check_files(Catalog(folder))[1]] == [f"{table}/{file.name}"], why
        if seed % every == 0:
            verb = list(QUESTIONS)[seed // every % 3]
            answer, said = asked(verb, folder)
            is_said = f"{table}/{file.name} is damaged" in said
            # A file that no answer needs may be neither read nor told of.
            assert is_said or answer == answers[verb][0], f"{verb}, {why}"
            left_out |= {verb} if is_said else set()
        file.write_bytes(content)
    assert lost
    assert left_out == set(QUESTIONS)


def test_a_flipped_bit_is_never_read_as_other_rows(whole: Path, expected: dict[str, set[str]], tmp_path: Path) -> None:
    flip_and_read(whole, expected, tmp_path / "results", range(40), every=2)


@pytest.mark.slow
def test_none_of_a_thousand_flipped_bits_is_read_as_other_rows(
    whole: Path, expected: dict[str, set[str]], tmp_path: Path
) -> None:
    """For each of the two layouts, two thousand in all."""
    flip_and_read(whole, expected, tmp_path / "results", range(1000, 2000), every=4)


Damage = Callable[[Path, Path], None]


def cut(file: Path, _other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path, _other: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path, _other: Path) -> None:
    file.write_bytes(b"PAR1 something else PAR1")


def copied(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def swapped(file: Path, other: Path) -> None:
    mine, others = file.read_bytes(), other.read_bytes()
    file.write_bytes(others)
    other.write_bytes(mine)


def renamed(file: Path, _other: Path) -> None:
    file.rename(file.with_name("another-name.parquet"))


def linked(file: Path, _other: Path) -> None:
    file.rename(file.parent.parent.parent / "outside.parquet")
    file.symlink_to(file.parent.parent.parent / "outside.parquet")


def folder_in_its_place(file: Path, _other: Path) -> None:
    file.unlink()
    file.mkdir()


def conflicting(file: Path, _other: Path) -> None:
    shutil.copy(file, file.with_name(f"{file.stem}.sync-conflict-20260102-030405-ABC.parquet"))
    shutil.copy(file, file.with_name(f"{file.stem} (1).parquet"))


DAMAGES = [cut, empty, foreign, copied, swapped, renamed, linked, folder_in_its_place, conflicting]


@pytest.mark.parametrize("table", ["outcomes", "adversarials", "checks", "run_units", "rankings", "arrays"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_no_damage_makes_a_wrong_row_or_moves_a_file(
    whole: Path, expected: dict[str, set[str]], tmp_path: Path, table: str, damage: Damage
) -> None:
    shutil.copytree(whole, tmp_path / "results")
    files = sorted(file for file in (tmp_path / "results" / table).glob("*.parquet") if file.name != "_empty.parquet")
    other = files[1] if len(files) > 1 else tmp_path / "results" / "runs" / "run.parquet"
    damage(files[0], other)
    before = contents(tmp_path)
    for name, held in rows(Catalog(tmp_path / "results")).items():
        assert held <= expected[name]
    assert contents(tmp_path) == before, "reading moves nothing"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "values",
    [
        {"file": "../../victim/id_rsa"},
        {"file": "/etc/passwd"},
        {"table_name": "/tmp/elsewhere"},
        {"table_name": "../victim"},
        {"key": "../../victim"},
        {"file": "_merged-../../victim.parquet"},
        {"row_group": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("entry", ["00000099", "outcomes-0123"])
def test_an_entry_that_names_what_igd_ray_never_names_touches_nothing(
    catalog: Catalog, tmp_path: Path, values: dict[str, object], entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "id_rsa").write_text("secret")
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    hostile = {"table_name": "outcomes", "key": "u", "file": f"_merged-{'0' * 32}.parquet", "row_group": 0, **values}
    import pyarrow as pa

    name = f"compacted/{entry}.parquet"
    table = pa.Table.from_pylist([hostile], schema=SCHEMAS["compacted"])
    (catalog.root / name).write_bytes(sealed_parquet(name, [table], SCHEMAS["compacted"]))
    before = contents(tmp_path)
    for _ in range(2):
        assert main(["sql", "SELECT count(*) FROM stored_outcomes", "--catalog", str(catalog.root)]) == 0
    assert contents(tmp_path) == before
    assert f"{name} is damaged, not read: it names what igd-ray never names" in capsys.readouterr().err
    compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)
    assert (tmp_path / "victim" / "id_rsa").read_text() == "secret"


def test_a_table_that_is_a_link_is_one_clear_line(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(catalog.root / "outcomes", tmp_path / "elsewhere")
    (catalog.root / "outcomes").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    assert main(["sql", "SELECT count(*) FROM stored_outcomes", "--catalog", str(catalog.root)]) == 0
    assert f"{catalog.root}/outcomes is a symbolic link: not read" in capsys.readouterr().err
    with pytest.raises(ValueError, match="outcomes is a symbolic link"):
        add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    assert contents(tmp_path) == before


def test_the_verb_names_what_is_damaged(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    for key in "uv":
        add_unit(catalog, key)
    arguments = ["verify", "--files", "--catalog", str(catalog.root)]
    assert main(arguments) == 0
    assert "files hold what was written into them" in capsys.readouterr().out
    cut(catalog.root / "outcomes" / "u.parquet", catalog.root)
    before = contents(catalog.root)
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert f"{catalog.root}/outcomes/u.parquet: it is cut short" in said.out
    assert "1 of 17 files are damaged" in said.err or "files are damaged, first outcomes/u.parquet" in said.err
    assert contents(catalog.root) == before
