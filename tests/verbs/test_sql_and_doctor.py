"""`igd sql`, `igd doctor` and the text that `igd status` and `igd report` print, over a catalog without results."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import duckdb
import pytest

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.cli import main
from igd_ray.errors import did_you_mean
from tests.toys.commands import run_python


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Catalog(tmp_path_factory.mktemp("text") / "results")
    made.create()
    values = {"run_id": "run", "verb": "evaluate", "model": "demo", "dataset": "digits", "n": 4, "config": "{}"}
    made.commit("runs", "run", [_row("runs", {**values, "created_at": "2026-01-02T03:04:05Z", "split": "test"})])
    made.commit("run_units", "run", [_row("run_units", {"run_id": "run", "unit_key": "u", "kind": "ranking"})])
    return str(made.root)


def _row(table: str, values: dict[str, object]) -> dict[str, object]:
    known: dict[str, object] = {"norm": "linf", "epsilon": 0.1, "seed": 7, "reported": False, "image_ids": []}
    row: dict[str, object] = {name: values.get(name, known.get(name)) for name in SCHEMAS[table].names}
    if "created_at" in row:
        from datetime import datetime

        row["created_at"] = datetime.fromisoformat(str(row["created_at"]))
    return row


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run `igd`, check that it refuses in one line with exit code 2, and return the line."""
    code = main(arguments)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured.err
    assert captured.err.startswith("igd: error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], "run_id"),
        (["report", "--output", "report.html"], "report: report.html"),
        (["sql", "SELECT 1 AS one"], "one"),
        (["sql", "--format", "csv", "SELECT 1 AS one"], "one"),
        (["doctor"], "python"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_every_verb_prints_text(
    arguments: list[str],
    expected: str,
    catalog: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([*arguments, "--catalog", catalog])
    captured = capsys.readouterr()
    assert code == 0 or arguments == ["doctor"], captured.err  # a machine may have a problem
    assert expected in captured.out
    assert captured.err == ""


def test_status_says_so_where_there_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Catalog(tmp_path / "r").create()
    assert main(["status", "--catalog", str(tmp_path / "r")]) == 0
    assert "no runs in" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("place", ["nowhere/x", "."])
def test_an_output_that_cannot_be_written(
    kind: str, place: str, catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / place)
    line = refusal(["sql", "--catalog", catalog, "--format", kind, "--output", output, "SELECT 1 AS x"], capsys)
    assert f"cannot write --output {output}: " in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_for_a_report(catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["report", "--catalog", catalog, "--output", str(tmp_path)], capsys)
    assert f"--output {tmp_path} is a folder; name a file in it, such as {tmp_path / 'report.html'}" in line
    assert list(tmp_path.iterdir()) == []


def test_a_statement_that_is_not_utf8(catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.sql").write_bytes("SELECT 'é'".encode("latin-1"))
    line = refusal(["sql", "--catalog", catalog, "--file", str(tmp_path / "latin.sql")], capsys)
    assert "latin.sql is not UTF-8 text" in line


def test_a_statement_that_cannot_be_read(
    catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.sql").write_text("SELECT 1")
    whole = Path.read_text

    def refused(path: Path, *arguments: str, **named: str) -> str:
        if path.name == "own.sql":  # root reads every file, whatever its permissions
            raise PermissionError(13, "Permission denied")
        return whole(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    line = refusal(["sql", "--catalog", catalog, "--file", str(tmp_path / "own.sql")], capsys)
    assert "own.sql: Permission denied" in line
    assert "cannot read" in refusal(["sql", "--catalog", catalog, "--file", "x" * 5000], capsys)


@pytest.mark.parametrize("verb", ["status", "sql", "report"])
def test_a_catalog_without_a_name(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["SELECT 1"] if verb == "sql" else []
    assert "name a folder" in refusal([verb, *arguments, "--catalog", ""], capsys)


def test_doctor_tells_of_torch_and_ray_that_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def installed(package: str) -> str:
        if package in ("torch", "ray"):
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("igd_ray.verbs.doctor.version", installed)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ImportError
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["doctor", "--json", "--catalog", str(tmp_path)]) == 1
    states = {row["what"]: (row["state"], row["advice"]) for row in json.loads(capsys.readouterr().out)}
    for what in ("torch", "ray", "gpu"):
        assert states[what][0] == "problem"
        assert "run make" in states[what][1]
    assert "ray address" in states


def test_doctor_starts_without_torch_and_ray(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, torchvision=None, ray=None);"
        f"from igd_ray.cli import main; sys.exit(main(['doctor', '--catalog', {str(tmp_path)!r}]))"
    )
    done = run_python(program)
    assert (done.returncode, done.stderr) == (1, "")
    assert "torch cannot be imported" in " ".join(done.stdout.split())


def test_unrelated_words_get_no_suggestion() -> None:
    assert did_you_mean("sprint", ["print"]) == "; did you mean 'print'?"
    assert did_you_mean("cat", ["act", "digits"]) == "; did you mean 'act'?"
    assert did_you_mean("norm", ["none", "demo"]) == ""  # half of its letters are those of 'none'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'infinity'::TIMESTAMP", "infinity"),
        ("'-infinity'::DATE", "-infinity"),
        ("'infinity'::TIMESTAMPTZ", "infinity"),
        ("'infinity'::TIMESTAMP_S", "infinity"),
        ("'290000-01-01'::TIMESTAMP", "290000-01-01 00:00:00"),
        ("'99999-12-31'::DATE", "99999-12-31"),
        ("'0044-03-15 (BC)'::DATE", "0044-03-15 (BC)"),
        ("INTERVAL 300000 YEARS", "300000 years"),
        ("'2026-11-28 01:02:03.5'::TIMESTAMP", "2026-11-28 01:02:03.500000"),
    ],
)
def test_times_that_python_has_no_value_for_are_told_as_duckdb_does(
    catalog: str, capsys: pytest.CaptureFixture[str], value: str, text: str
) -> None:
    for kind in ("table", "csv", "json"):
        assert main(["sql", "--catalog", catalog, "--format", kind, f"SELECT {value} AS told"]) == 0
        out = capsys.readouterr().out
        told = json.loads(out)[0]["told"] if kind == "json" else out.splitlines()[1].strip('"')
        assert told == text


def test_far_times_inside_lists_and_intervals_in_parquet(
    catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sql", "--catalog", catalog, "--format", "json", "SELECT ['infinity'::DATE] AS told"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"told": "[infinity]"}]
    output = str(tmp_path / "times.parquet")
    into = ["sql", "--catalog", catalog, "--format", "parquet", "--output", output]
    assert "column 'i' holds intervals, which Parquet cannot" in refusal([*into, "SELECT INTERVAL 1 DAY AS i"], capsys)
    assert main([*into, "SELECT 'infinity'::TIMESTAMP AS told"]) == 0
    assert duckdb.sql(f"SELECT isinf(told) FROM '{output}'").fetchall() == [(True,)]
