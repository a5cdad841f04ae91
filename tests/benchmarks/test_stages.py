"""`igd bench`: this project's stages beside the straightforward alternative, which must give the same numbers."""

import json

import pytest

from igd_ray.cli import main

Row = dict[str, float]


def bench(capsys: pytest.CaptureFixture[str], words: str) -> list[Row]:
    assert main(["bench", *words.split(), "--rounds", "1", "--json"]) == 0
    rows: list[Row] = json.loads(capsys.readouterr().out)
    assert all(row["seconds"] > 0 for row in rows)
    return rows


def test_one_pass_gives_the_scores_that_one_pass_per_neuron_gives(capsys: pytest.CaptureFixture[str]) -> None:
    plain, per_neuron = bench(capsys, "ranking --probe-n 100 --search-n 50 --n 1")
    assert plain["alternative"] == "one plain pass"
    assert (per_neuron["neurons"], per_neuron["images"], per_neuron["alternative_passes"]) == (64, 100, 65)
    # The layer is found to be linear on an image more.
    assert 1 <= per_neuron["passes"] <= 1.05
    assert per_neuron["largest_difference"] < 1e-5
    assert per_neuron["speedup"] > 5


def test_a_layer_within_the_model_takes_less_than_a_pass_per_neuron(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench(capsys, "ranking --layer layer2 --probe-n 40 --search-n 20 --n 1")
    assert row["passes"] < 4 < row["alternative_passes"]
    assert row["largest_difference"] < 1e-5


def test_cached_trials_are_those_of_the_whole_defense(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench(capsys, "search --probe-n 100 --search-n 100 --n 1")
    assert row["trials"] >= 3
    # The second pass of a defense is the classifier alone; the layer is looked for on two images.
    assert row["trials"] <= row["alternative_passes"] <= 1.1 * row["trials"]
    assert row["largest_difference"] == 0


def test_a_cascade_finds_the_worst_case_of_separate_runs_in_fewer_passes(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--defenses none,loir-8 --attacks apgd-ce-5,tr-apgd-ce-5,tr-square-20 --n 8 --probe-n 100 --search-n 50"
    (row,) = bench(capsys, f"iwwc {words}")
    assert (row["defenses"], row["images"], row["verdicts_that_differ"]) == (2, 8, 0)
    assert row["passes"] < row["alternative_passes"]
    assert row["share"] == pytest.approx(row["passes"] / row["alternative_passes"], abs=1e-3)


@pytest.mark.slow
def test_verbs_that_compute_nothing_start_in_little_more_than_what_they_import(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {row["command"]: row for row in bench(capsys, "start")}
    assert rows["sql SELECT 1"]["processor_ratio"] < 5
    assert rows["evaluate --dry-run --n 1 --attacks apgd-ce"]["processor_ratio"] < 3
