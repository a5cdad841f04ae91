"""A run whose worst case is not known says so and does not exit 0; the same command again has it, with equal rows."""

import shutil
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.verbs import evaluate

FLAGS = ["evaluate", "--n=8", "--shard-size=4", "--attacks=clean,apgd-ce-2", "--defenses=none", "--executor=local"]
ROWS = "SELECT unit_key, attack, image_id, status FROM outcomes ORDER BY ALL"


def outcomes(catalog: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = run_query(Catalog(catalog), ROWS).to_pylist()
    return rows


def test_a_null_worst_case_exits_1_and_the_same_command_again_gives_equal_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = tmp_path / "results"
    command = [*FLAGS, f"--catalog={catalog}"]
    assert main(command) == 0
    whole = outcomes(catalog)
    assert len(whole) == 16
    capsys.readouterr()
    # The disk cuts a finished result after the run has looked at it, and before it is reduced.
    (file, *_) = sorted((catalog / "outcomes").glob("[0-9a-f]*.parquet"))
    run = evaluate.evaluate

    def then_cut(*arguments: object) -> object:
        summary = run(*arguments)  # type: ignore[arg-type]
        file.write_bytes(file.read_bytes()[:-7])
        return summary

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "evaluate", then_cut)
        assert main(command) == 1
    said = capsys.readouterr()
    (worst,) = run_query(Catalog(catalog), "SELECT robust_accuracy FROM worst_case").to_pylist()
    assert worst == {"robust_accuracy": None}
    assert f"{catalog}/outcomes/{file.name} is damaged, not read: it is cut short" in said.err
    assert said.err.splitlines()[-1] == (
        "igd: error: the worst case of none is not known, as results are missing, damaged or errors; run the same "
        "command again, which computes these"
    )
    assert main(command) == 0
    assert outcomes(catalog) == whole


def swapped(first: Path, second: Path) -> None:
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def emptied(first: Path, _second: Path) -> None:
    first.write_bytes(b"")


def copied(first: Path, second: Path) -> None:
    first.write_bytes(second.read_bytes())


def renamed(first: Path, _second: Path) -> None:
    first.rename(first.with_name(f"{'0' * 32}.parquet"))


def made_a_folder(first: Path, _second: Path) -> None:
    first.unlink()
    first.mkdir()


def linked(first: Path, _second: Path) -> None:
    outside = first.parents[2] / "outside.parquet"
    first.rename(outside)
    first.symlink_to(outside)


DAMAGES = [swapped, emptied, copied, renamed, made_a_folder, linked]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("finished") / "results"
    assert main([*FLAGS, f"--catalog={catalog}"]) == 0
    return catalog


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_after_damage_the_same_command_again_gives_equal_rows(finished: Path, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    catalog = Path(shutil.copytree(finished, tmp_path / "results"))
    first, second, *_ = sorted((catalog / "outcomes").glob("[0-9a-f]*.parquet"))
    damage(first, second)
    assert main([*FLAGS, f"--catalog={catalog}"]) == 0
    assert outcomes(catalog) == outcomes(finished)
