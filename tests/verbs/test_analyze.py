"""`igd analyze` on the embedded model: each analysis prints its rows, is resumed, reuses attacks, and is drawn."""

import json
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.planning.analyses import ANALYSES

SMALL = ("--executor", "local", "--n", "8", "--probe-n", "100", "--search-n", "40")
DEFENSES = ("--defenses", "none,loir-8")

COMMANDS = {
    "classwise": ("classwise", *DEFENSES, "--attacks", "pgd-3"),
    "overlap": ("overlap", "--defenses", "loir-8", "--vary", "probe-share=0.5,1"),
    "activations": ("activations", "--defenses", "loir-8", "--attacks", "pgd-3,gama-pgd-3"),
    "sensitivity": ("sensitivity", *DEFENSES, "--attacks", "pgd-3", "--vary", "k=8,64", "--vary", "sigma=0,0.05"),
    "loss-surface": ("loss-surface", *DEFENSES, "--grid", "3"),
    "cost": ("cost", "--defenses", "none,loir-8,hedge", "--repetitions", "3"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("analyses")


def analyze(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    """Run one analysis and return its rows."""
    assert main(["analyze", *words, *SMALL, "--catalog", str(folder / "results"), "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "results").rglob("*.parquet"))


def test_every_analysis_has_a_command_here() -> None:
    assert set(COMMANDS) == set(ANALYSES)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_analysis_is_kept_resumed_and_drawn(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = folder / f"{name}.svg"
    rows = analyze(folder, capsys, *COMMANDS[name], "--figure", str(figure))
    assert rows
    assert figure.read_text().startswith("<svg ")
    before = files_of(folder)
    assert analyze(folder, capsys, *COMMANDS[name]) == rows
    assert files_of(folder) == before, "the second time nothing is left to compute"


def test_masks_that_keep_all_neurons_without_noise_are_no_defense(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = analyze(folder, capsys, *COMMANDS["sensitivity"])
    (none,) = [row for row in rows if row["defense"] == "none"]
    (neutral,) = [row for row in rows if (row["place"], row["other_place"]) == ("64", "0")]
    assert (neutral["clean"], neutral["robust"]) == (none["clean"], none["robust"])
    assert len(rows) == 1 + 2 * 2


def test_an_evaluation_of_a_place_computes_nothing_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vary", "eps=0.05,0.15"]
    rows = analyze(folder, capsys, "sensitivity", *DEFENSES, "--attacks", "pgd-3", *words)
    attacked = len(list((folder / "results" / "adversarials").glob("*.parquet")))
    given = [
        *DEFENSES,
        "--attacks",
        "pgd-3",
        "--eps",
        "0.05",
        "--sigma",
        "0.075",
        *SMALL,
        "--catalog",
        str(folder / "results"),
    ]
    assert main(["evaluate", *given]) == 0
    capsys.readouterr()
    assert len(list((folder / "results" / "adversarials").glob("*.parquet"))) == attacked
    evaluated = run_query(
        Catalog(folder / "results"),
        "SELECT defense, round(100 * robust_accuracy, 2) AS robust FROM accuracy JOIN runs USING (run_id) "
        "WHERE verb = 'evaluate' AND attack = 'pgd-3'",
    ).to_pylist()
    there = {row["defense"]: row["robust"] for row in rows if row["place"] == "0.05"}
    assert {row["defense"]: row["robust"] for row in evaluated} == there


def test_the_hedge_of_twenty_steps_costs_many_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = analyze(folder, capsys, *COMMANDS["cost"])
    found = {(row["defense"], row["quantity"]): row["forward_passes"] for row in rows}
    assert float(str(found["hedge", "inference"])) > 5
    assert {quantity for _, quantity in found} == {"forward pass", "inference", "ranking"}


def test_a_dry_run_counts_the_units_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", *COMMANDS["activations"], *SMALL, "--catalog", str(tmp_path / "none"), "--dry-run", "--json"]
    assert main(words) == 0
    costs = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert costs["activation-changes under pgd-3, loir-8"]["forward_passes"] == 16
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sensitivity",), "needs what varies"),
        (("sensitivity", "--vary", "kk=1"), "did you mean 'k'"),
        (("sensitivity", "--vary", "k=1", "--vary", "k=2"), "given twice"),
        (("sensitivity", "--vary", "k=1", "--vary", "tau=1", "--vary", "eps=0.1"), "two for a heat map, not 3"),
        (("sensitivity", "--vary", "k=many"), "'many' is not a number that k can be"),
        (("sensitivity", "--vary", "probe-share=0"), r"lies in \(0, 1\]"),
        (("sensitivity", "--vary", "eps=1/255", "--attacks", "audit-line"), "is not for analyses"),
        (("sensitivity", "--vary", "steps=3", "--attacks", "square"), "has no number of steps"),
        (("sensitivity", "--vary", "k=65", "--defenses", "loir-8"), "k must lie in 1…64"),
        (("overlap", "--defenses", "loir-8"), "compares two rankings at least"),
        (("overlap", "--defenses", "loir-8", "--vary", "k=1"), "changes no ranking"),
        (("activations",), "needs masks"),
        (("cost", "--vary", "k=1"), "--vary is of another analysis than cost"),
        (("cost", "--attacks", "pgd"), "--attacks is of another analysis than cost"),
        (("loss-surface", "--grid", "4"), "grid must be odd"),
        (("loss-surface", "--norm", "l2", "--sigma", "0"), "infinity norm"),
    ],
)
def test_what_cannot_be_used_is_said_before_work_starts(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["analyze", *words, *SMALL, "--catalog", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "none").exists()
