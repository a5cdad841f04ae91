"""`igd new` writes a file that `igd check` accepts; `igd check` says what is wrong with others, and writes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.ranking import RANKINGS

TOYS = Path(__file__).parents[1] / "toys"
OWN = TOYS / "own_defenses"
SMALL = ["--probe-n", "200", "--search-n", "100"]
PROPERTIES = [
    "module",
    "base model",
    "logits",
    "seed",
    "randomness",
    "memory",
    "batch",
    "passes",
    "gradient",
    "two passes",
]


@pytest.fixture(autouse=True)
def no_rankings_left() -> Iterator[None]:
    known = dict(RANKINGS)
    yield
    RANKINGS.clear()
    RANKINGS.update(known)


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, str]]:
    """The rows that `igd check` prints, by property."""
    code = main(["check", *words, "--json", *SMALL])
    captured = capsys.readouterr()
    assert code == (2 if any(row["result"] == "error" for row in json.loads(captured.out)) else 0)
    return {row["property"]: row for row in json.loads(captured.out)}


def test_a_new_file_passes_and_says_what_an_evaluation_has_to_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "defense", "mine"]) == 0
    assert "igd check mine.py:factory" in capsys.readouterr().out
    rows = checked(capsys, "mine.py:factory")
    assert list(rows) == PROPERTIES
    assert {name for name, row in rows.items() if row["result"] != "ok"} == {"gradient"}
    assert (
        rows["gradient"]["found"]
        == "all zero or not finite on 8 of 8 images; the identity stands in for it in audit-bpda"
    )
    assert "random: two seeds differ" in rows["randomness"]["found"]
    assert all(row["meaning"] for row in rows.values())
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]
    assert main(["new", "defense", "mine"]) == 2
    assert "there is a file mine.py already" in capsys.readouterr().err
    assert main(["new", "defense", "Mine-2"]) == 2


def test_each_property_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    jpeg = checked(capsys, f"{OWN / 'jpeg.py'}:factory", "--defense-arg", "mine.quality=50")
    assert jpeg["gradient"]["found"] == (
        "none: something in it stops gradients; the identity stands in for it in audit-bpda"
    )
    assert jpeg["passes"]["found"].startswith("1 forward and 0 backward passes per query, 0 backward per gradient")
    resizing = checked(capsys, f"{OWN / 'resizing.py'}:factory")
    assert resizing["randomness"]["found"].startswith("random: two seeds differ by")
    assert resizing["gradient"]["result"] == "ok"
    two = checked(capsys, f"mine={OWN / 'two_passes.py'}:factory")
    assert two["passes"]["found"].startswith("2 forward and 0 backward passes per query, 2 backward per gradient")
    assert two["two passes"]["found"].startswith("offered; taken one by one they differ by 0")


def test_an_error_is_in_the_table_and_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from torch import nn\ndef factory(model): return nn.Sequential(model, nn.Softmax(dim=1))\n")
    assert main(["check", f"{file}:factory"]) == 2
    captured = capsys.readouterr()
    assert "logits" in captured.out
    assert captured.err == (
        "igd: error: defense mine=mine.py:factory: logits: it returns probabilities, which sum to 1; return logits, "
        "before the softmax\n"
    )
    assert main(["check", "hedge"]) == 2
    assert "NAME=FILE.py:factory" in capsys.readouterr().err


ATTACK_PROPERTIES = ["settings", "fit", "points", "finite", "range", "norm", "counts", "verdict", "seed", "batch"]
ATTACK_PROPERTIES += ["misclassified", "cost"]
RANKING_PROPERTIES = ["settings", "states", "model", "seed", "storage", "merge", "scores", "shards"]


def test_a_new_attack_passes_and_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "attack", "my_own"]) == 0
    assert "igd check my_own.py:Search" in capsys.readouterr().out
    rows = checked(capsys, "my_own.py:Search")
    assert list(rows) == ATTACK_PROPERTIES
    assert {row["result"] for row in rows.values()} == {"ok"}
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["my_own.py"]
    assert "--attacks my-own=my_own.py:Search,tr-my-own=my_own.py:Search" in Path("my_own.py").read_text()
    attacks = "my-own=my_own.py:Search,tr-my-own=my_own.py:Search"
    command = ["evaluate", "--defenses", "none,loir-8", "--attacks", attacks, "--n", "8", "--executor", "local"]
    assert main([*command, *SMALL]) == 0
    broken = "SELECT count(*) AS broken FROM outcomes WHERE attack = 'my-own' AND status = 'broken'"
    assert run_query(Catalog("results"), broken).to_pylist()[0]["broken"] > 0
    capsys.readouterr()
    assert main(["evaluate", "--attacks", "my-own=my_own.py:Search", "--norm", "l2", "--eps", "0.5"]) == 2
    assert capsys.readouterr().err.endswith("its steps are those of the infinity norm; use --norm linf\n")


def test_a_new_ranking_passes_ranks_and_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "ranking", "mine"]) == 0
    assert "igd check mine.py:Ranking" in capsys.readouterr().out
    rows = checked(capsys, "mine.py:Ranking", "--method-arg", "mine.power=2")
    assert list(rows) == RANKING_PROPERTIES
    assert {row["result"] for row in rows.values()} == {"ok"}
    assert rows["settings"]["found"] == "Ranking: power=2.0"
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]
    small = ["--n", "8", "--executor", "local", *SMALL]
    assert main(["rank", "--method", "mine=mine.py:Ranking", *small]) == 0
    masks = ["--method", "mine=mine.py:Ranking", "--defenses", "none,mine-8", "--attacks", "tr-fgsm"]
    assert main(["evaluate", *masks, *small]) == 0
    found = run_query(Catalog("results"), "SELECT DISTINCT defense FROM outcomes ORDER BY ALL").to_pylist()
    assert found == [{"defense": "mine-8"}, {"defense": "none"}]


def test_the_attacks_and_rankings_of_the_tests_pass(capsys: pytest.CaptureFixture[str]) -> None:
    attack = checked(capsys, f"corners={TOYS / 'own_attacks' / 'corners.py'}:Corners")
    assert list(attack) == ATTACK_PROPERTIES
    assert attack["seed"]["found"] == "random, the same again with the same seed"
    ranking = checked(capsys, f"{TOYS / 'own_rankings' / 'powered_activation.py'}:PoweredActivation")
    assert {row["result"] for row in ranking.values()} == {"ok"}


@pytest.mark.parametrize("label", ["audit-joint-loss", "audit-bpda"])
def test_an_attack_that_aims_at_parts_of_a_defense_gets_them(
    label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from igd_ray.attacks.registry import parse_attack\n"
        f"known = type(parse_attack('{label}-3').algorithm)\n"
        "@dataclass(frozen=True, repr=False)\n"
        "class Mine(known):\n    steps: int = 3\n"
    )
    rows = checked(capsys, f"{file}:Mine")
    assert list(rows) == ATTACK_PROPERTIES
    assert not [row for row in rows.values() if row["result"] == "error"]


def test_a_model_is_checked_alone(capsys: pytest.CaptureFixture[str]) -> None:
    rows = checked(capsys)
    assert {row["result"] for row in rows.values()} == {"ok"}
    assert rows["layer"]["found"] == "penultimate: 64 neurons"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Mine(Attack):\n    def most_passes(self, c): return 1, 1\n", "abstract"),
        (
            "class Mine(Attack):\n    def most_passes(self, c): return 1, 1\n"
            "    def search(self, target, images, labels, threat, seed): return images\n",
            "points: search returns Tensor",
        ),
        ("class Mine(Ranking):\n    def compute(self, state): return state\n", "lacks statistics"),
        (
            "class Mine(StatisticRanking):\n    def update(self, batch): raise KeyError('a')\n"
            "    def compute(self, state): return state\n",
            "ranking mine=mine.py:Mine: states: KeyError: 'a'",
        ),
        ("raise RuntimeError('boom')\n", "importing it: RuntimeError: boom"),
        ("class Other: pass\n", "it has no factory 'Mine'"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_line(
    code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from igd_ray.attacks import Attack\nfrom igd_ray.ranking import Ranking, StatisticRanking\n" + code
    )
    assert main(["check", f"{file}:Mine", *SMALL]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
