"""The verbs as a user types them."""

import json
import os
import runpy
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pyarrow.parquet as pq
import pytest

from igd_ray.cli import main
from tests.toys.commands import igd, igd_command, interruptible
from tests.toys.places import REPOSITORY

SMALL = ["--n", "12", "--probe-n", "150", "--search-n", "60", "--executor", "local"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("verbs") / "results")
    attacks = "apgd-ce-5,tr-apgd-ce-5"
    arguments = ["evaluate", "--catalog", folder, *SMALL, "--defenses", "none,loir-8", "--attacks", attacks, "--json"]
    assert main(arguments) == 0
    return folder


def test_rank_prints_the_most_important_neurons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rank", "--catalog", str(tmp_path / "r"), "--method", "loir,random", *SMALL]
    found = json.loads(igd([*arguments, "--json"], capsys))
    assert [row["method"] for row in found] == ["loir"] * 10 + ["random"] * 10
    assert all(len(set(row["top_neurons"])) == 8 and row["width"] == 64 for row in found)
    assert "top_neurons" in igd(arguments, capsys)


def test_search_prints_every_trial_and_evaluate_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--catalog", str(tmp_path / "r"), *SMALL]
    trials = json.loads(igd(["search", *common, "--json"], capsys))
    chosen = next(trial for trial in trials if trial["chosen"])
    arguments = ["evaluate", *common, "--from-search", chosen["search_id"], "--attacks", "clean", "--json"]
    rows = json.loads(igd(arguments, capsys))
    assert {row["defense"] for row in rows} == {"none", f"loir-{chosen['k']}"}


def test_a_search_that_nothing_meets_prints_its_table_and_the_best_and_exits_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One or two of 64 neurons by chance lose most of the accuracy.
    arguments = ["search", "--catalog", str(tmp_path / "r"), *SMALL, "--method", "random", "--ks", "1:2"]
    for _ in range(2):  # the second time from the catalog
        assert main([*arguments, "--tolerance", "0.01"]) == 3
        captured = capsys.readouterr()
        assert "base_clean_accuracy" in captured.out
        assert "chosen:" not in captured.out
        assert "no k keeps clean accuracy within 0.01 of the base model's for random; the best is k = " in captured.err


def test_search_tries_several_sigmas_and_taus_and_draws_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "--catalog", str(tmp_path / "r"), *SMALL, "--sigmas", "0.5,1", "--taus", "0.01:1:3"]
    out = igd([*arguments, "--refine", "2", "--refine-n", "8"], capsys)
    assert "robust_accuracy" in out
    assert "chosen: k = " in out
    (figure,) = (tmp_path / "r").glob("search-*.svg")
    assert str(figure) in out
    drawing = ElementTree.parse(figure).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1", "2", "3", "clean accuracy in %"} <= set(texts), "the path is numbered"
    costs = json.loads(igd([*arguments, "--refine", "2", "--refine-n", "8", "--dry-run", "--json"], capsys))
    assert any(row["what"].startswith("apgd-ce-20 on loir-") for row in costs)
    assert next(row for row in costs if row["what"] == "noisy-logits")["units"] == 2


def test_evaluate_prints_a_row_a_defense(catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--n", "12", "--probe-n", "150", "--search-n", "60", "--executor", "local", "--catalog", catalog]
    text = igd(["evaluate", *arguments, "--defenses", "none,loir-8", "--attacks", "apgd-ce-5,tr-apgd-ce-5"], capsys)
    header = next(line.split() for line in text.splitlines() if line.startswith("defense"))
    assert header == [
        "defense",
        "n",
        "clean",
        # Attacks that are none of the nine stand behind them.
        "tr-apgd-ce-5",
        "apgd-ce-5",
        "worst_case",
        "low",
        "high",
        "gain",
        "claim",
        "p",
        "test",
    ]
    # A sentence below the table may begin with a defense, too.
    rows = [line.split() for line in text.splitlines() if line.startswith(("none", "loir"))]
    assert [row[0] for row in rows if row[1] == "12"] == ["none", "loir-8"]


def test_settings_come_from_a_file_and_flags_override_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        f"n: 6\nexecutor: local\ncatalog: {tmp_path / 'r'}\nattacks: clean\neps: 8/255\nprobe-n: 150\nsearch-n: 60\n"
    )
    rows = json.loads(igd(["evaluate", "--config", str(file), "--n", "5", "--json"], capsys))
    assert [row["n"] for row in rows] == [5]
    runs = json.loads(
        igd(["sql", "--catalog", str(tmp_path / "r"), "--format", "json", "SELECT epsilon FROM runs"], capsys)
    )
    assert runs == [{"epsilon": 8 / 255}]


def test_a_dry_run_prints_costs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate",
        "--catalog",
        str(tmp_path / "r"),
        *SMALL,
        "--defenses",
        "none,loir-8",
        "--dry-run",
        "--json",
    ]
    rows = json.loads(igd(arguments, capsys))
    total = [row["what"] for row in rows].index("total")
    assert rows[total]["forward_passes"] == sum(row["forward_passes"] for row in rows[:total])
    assert [row["what"] for row in rows[total + 1 :]] == [
        "of which attacks in the plan",
        "the same attacks, each defense by itself",
    ]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("extension", "flag"), [("csv", "csv"), ("parquet", "parquet")])
def test_sql_writes_files(
    catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], extension: str, flag: str
) -> None:
    target = tmp_path / f"out.{extension}"
    statement = "SELECT defense, robust_accuracy FROM worst_case ORDER BY defense"
    igd(["sql", "--catalog", catalog, statement, "--format", flag, "--output", str(target)], capsys)
    table = pq.read_table(target) if flag == "parquet" else duckdb.read_csv(str(target)).to_arrow_table()
    assert table["defense"].to_pylist() == ["loir-8", "none"]


def test_sql_runs_the_queries_that_ship(catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted((REPOSITORY / "catalog" / "queries").glob("*.sql")):
        assert igd(["sql", "--catalog", catalog, "--file", file.stem], capsys)
        assert igd(["sql", "--catalog", catalog, "--file", str(file)], capsys)


def test_plain_duckdb_reads_the_folder(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(catalog)
    connection = duckdb.connect()
    connection.execute(Path("views.sql").read_text())
    assert connection.sql("SELECT count(*) FROM outcomes").fetchall() == [(2 * 2 * 12,)]
    assert connection.sql("SELECT count(*) FROM 'outcomes/*.parquet'").fetchall() == [(2 * 2 * 12,)]


def test_status_and_report(catalog: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(igd(["status", "--catalog", catalog, "--json"], capsys))
    assert (row["left"], row["failed"], row["n"]) == (0, 0, 12)
    target = tmp_path / "report.html"
    assert str(target) in igd(["report", "--catalog", catalog, "--output", str(target)], capsys)
    text = target.read_text()
    assert "loir-8" in text
    assert "What was not measured" in text
    assert "neurons ranked on 150 images of the split &#39;train&#39;" in text


def test_doctor_finds_this_machine_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(igd(["doctor", "--catalog", str(tmp_path / "r"), "--json"], capsys))
    assert {"python", "torch", "ray", "gpu", "disk", "catalog", "ray token"} <= {row["what"] for row in found}
    assert not (tmp_path / "r").exists()


def test_doctor_names_the_way_out_of_an_http_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert main(["doctor", "--json"]) == 1
    problem = next(row for row in json.loads(capsys.readouterr().out) if row["state"] == "problem")
    assert "RAY_API_SERVER_ADDRESS" in problem["advice"]


@pytest.mark.parametrize("verb", ["demo", "rank", "search", "evaluate", "report", "sql", "status", "doctor"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: igd {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("job", ["rank", "search", "evaluate", "report"])
def test_jobs_are_the_verbs(job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = REPOSITORY / "jobs" / f"{job}.py"
    monkeypatch.setattr("sys.argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(file), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: igd {job}" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) <= 15


def test_an_interrupt_keeps_finished_units_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = tmp_path / "results"
    arguments = ["evaluate", "--catalog", str(catalog), "--executor", "local", "--n", "12", "--shard-size", "1"]
    arguments += ["--attacks", "square-200"]
    process = interruptible(igd_command(*arguments))
    deadline = time.monotonic() + 60
    while len(list(catalog.glob("outcomes/[0-9a-f]*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "every finished unit is kept" in stderr
    assert "Traceback" not in stderr
    finished = len(list(catalog.glob("outcomes/[0-9a-f]*.parquet")))
    assert 2 <= finished < 12
    assert main(arguments) == 0
    assert f"{finished} already there" in capsys.readouterr().err
