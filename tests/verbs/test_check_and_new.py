"""`igd new` writes a file that `igd check` accepts; `igd check` says what is wrong with others, and writes nothing."""

import json
from pathlib import Path

import pytest

from igd_ray.cli import main

OWN = Path(__file__).parents[1] / "toys" / "own_defenses"
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


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, str]]:
    """The rows that `igd check` prints, by property."""
    code = main(["check", *words, "--json", "--probe-n", "200", "--search-n", "100"])
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
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert main(["new", "defense", "mine"]) == 2
    assert "there is a file mine.py already" in capsys.readouterr().err
    assert main(["new", "defense", "Mine-2"]) == 2


def test_each_property_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    jpeg = checked(capsys, f"{OWN / 'jpeg.py'}:factory", "--defense-arg", "mine.quality=50")
    assert jpeg["gradient"]["found"] == (
        "none: something in it stops gradients; the identity stands in for it in audit-bpda"
    )
    assert jpeg["passes"]["found"].startswith("1 forward and 0 backward passes a query, 0 backward a gradient")
    resizing = checked(capsys, f"{OWN / 'resizing.py'}:factory")
    assert resizing["randomness"]["found"].startswith("random: two seeds differ by")
    assert resizing["gradient"]["result"] == "ok"
    two = checked(capsys, f"mine={OWN / 'two_passes.py'}:factory")
    assert two["passes"]["found"].startswith("2 forward and 0 backward passes a query, 2 backward a gradient")
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
