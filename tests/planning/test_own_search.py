"""The search over the arguments of a defense in a file finds what the search over masks finds for the same defense."""

import json
from pathlib import Path
from typing import Any

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.data import probe_and_search
from igd_ray.models import load_model

FOLDER = Path(__file__).parents[1] / "toys" / "own_defenses"
TWO_PASSES, RESIZING = (f"{FOLDER / name}.py:factory" for name in ("two_passes", "resizing"))
LEVELS = f"{FOLDER / 'levels'}.py:factory"
SMALL = ["--probe-n", "200", "--search-n", "100", "--n", "8", "--executor"]

NOISY = """
import torch
from torch import nn

class Noisy(nn.Module):
    def __init__(self, model, generator, k, sigma):
        super().__init__()
        self.model, self.generator, self.k, self.sigma = model, generator, k, sigma
    def forward(self, x):
        return self.model(x + self.sigma / self.k * torch.randn(x.shape, generator=self.generator).to(x))

def factory(model, scores, generator, k: int = 1, sigma: float = 0.5):
    return Noisy(model, generator, k, sigma)
"""


def searched(
    catalog: Path, capsys: pytest.CaptureFixture[str], *words: str, executor: str = "local"
) -> list[dict[str, Any]]:
    """The trials that `igd search` prints."""
    capsys.readouterr()
    assert main(["search", *words, "--json", "--catalog", str(catalog), *SMALL, executor]) in (0, 3)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_a_defense_written_again_is_searched_as_masks_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = ["--taus", "0.01,1", "--tolerance", "0.02"]
    masks = searched(tmp_path / "masks", capsys, "--sigma", "0", *space)
    own = searched(tmp_path / "own", capsys, "--defense", f"mine={TWO_PASSES}", *space)
    names = ("k", "tau", "clean_accuracy", "base_clean_accuracy", "low", "high", "feasible", "pareto", "chosen")
    assert [[trial[name] for name in names] for trial in own] == [[trial[name] for name in names] for trial in masks]
    assert len({trial["k"] for trial in own}) > 4
    assert {trial["method"] for trial in own} == {"mine"}
    # What its factory does not take was not tried.
    assert {(trial["sigma"], trial["draws"]) for trial in own} == {(None, None)}
    # The same command finds every trial there.
    assert searched(tmp_path / "own", capsys, "--defense", f"mine={TWO_PASSES}", *space) == own


def test_the_choice_is_evaluated_as_the_search_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = ["--catalog", str(tmp_path / "results")]
    command = ["search", "--defense", f"mine={TWO_PASSES}", "--ks", "1,4,64", "--refine", "1", "--refine-n", "8"]
    assert main([*command, *catalog, *SMALL, "local"]) == 0
    printed = capsys.readouterr().out
    (row,) = run_query(Catalog(tmp_path / "results"), "SELECT * FROM searches").to_pylist()
    use = f"--defenses none,mine={TWO_PASSES} --defense-arg mine.k={row['k']} --defense-arg mine.tau=0.01"
    assert f"use it with: igd evaluate {use})" in printed
    assert main(["evaluate", *use.split(), "--attacks", "clean", *catalog, *SMALL, "local"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--from-search", row["search_id"], *catalog, *SMALL, "local"]) == 2
    assert "is of a defense in a file, two_passes.py:factory; name it" in capsys.readouterr().err


def test_a_k_of_no_ranking_is_searched_among_those_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--defense", f"levels={LEVELS}", "--ks", "1,2,15", "--sampler", "grid", "--refine", "1"]
    words += ["--refine-n", "8"]
    trials = searched(tmp_path / "results", capsys, *words)
    assert [trial["k"] for trial in trials] == [15, 2, 1]
    # The digits have 17 grey levels: 15 steps lose next to nothing, one step leaves black and white.
    model = load_model("demo")
    _, images = probe_and_search("digits", probe_n=200, search_n=100, search_split="train", class_names=None)
    by_hand = [
        (model((images.images * k).round() / k).argmax(dim=1) == images.labels).double().mean().item()
        for k in (15, 2, 1)
    ]
    assert [trial["clean_accuracy"] for trial in trials] == pytest.approx(by_hand)
    assert by_hand[2] < by_hand[0]
    (row,) = run_query(Catalog(tmp_path / "results"), "SELECT * FROM searches").to_pylist()
    assert (row["ranking_id"], row["layer"], row["sigma"]) == (None, None, None)
    assert run_query(Catalog(tmp_path / "results"), "FROM rankings").num_rows == 0
    assert main(["report", "--catalog", str(tmp_path / "results"), "--output", str(tmp_path / "report.html")]) == 0
    assert "levels, 3 trials" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert searched(tmp_path / "results", capsys, *words, "--dry-run")


def test_noise_is_the_same_for_every_setting_and_follows_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "noisy.py"
    file.write_text(NOISY)
    entry = ["--defense", f"noisy={file}:factory", "--sigmas", "1,4", "--ks", "1,2,4,8", "--sampler", "grid"]
    first, again = (searched(tmp_path / name, capsys, *entry) for name in ("one", "other"))
    other = searched(tmp_path / "third", capsys, *entry, "--seed", "1")
    accuracies = [[trial["clean_accuracy"] for trial in trials] for trials in (first, again, other)]
    assert accuracies[0] == accuracies[1] != accuracies[2]
    by_setting = {(trial["k"], round(trial["sigma"], 9)): trial["clean_accuracy"] for trial in first}
    # σ / k is all that counts: 4 eps over 8, 1 eps over 2.
    assert by_setting[8, 0.6] == by_setting[2, 0.15]
    assert by_setting[1, 0.6] < by_setting[8, 0.15]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--defense", f"mine={RESIZING}"], "a factory that has an argument `k`, which this one does not"),
        (["--defense", f"mine={LEVELS}"], "asks for no `scores`; say with --ks 1,2,4 what is tried"),
        (["--defense", f"mine={TWO_PASSES}", "--sigmas", "1"], "--sigmas: its factory has no argument 'sigma'"),
        (["--defense", f"mine={TWO_PASSES}", "--defense-arg", "mine.k=3"], "k is searched"),
        (["--defense", f"mine={TWO_PASSES}", "--method", "loir"], "names its ranking by --defense-arg"),
        (["--defense", f"mine={TWO_PASSES}", "--ks", "0:3"], "k must lie in 1…64"),
        (["--defense", "hedge"], "--defense is one in a file"),
        (["--defense-arg", "mine.k=3"], "mine.k"),
        (["--method", f"mine={TWO_PASSES}"], "takes that as --defense NAME=FILE.py:factory"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *words, "--catalog", str(tmp_path / "results"), *SMALL, "local"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "results").exists()
