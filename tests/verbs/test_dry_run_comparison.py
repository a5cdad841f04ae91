"""`igd evaluate --dry-run` compares the plan's attacks with the same attacks, each defense by itself."""

import json
from pathlib import Path

import pytest

from igd_ray.cli import main

PLAN = "of which attacks in the plan"
SEPARATE = "the same attacks, each defense by itself"


def priced(catalog: Path, attacks: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, int]]:
    """The printed rows, by what they are of."""
    arguments = ["evaluate", "--catalog", str(catalog), "--n", "12", "--probe-n", "150", "--executor", "local"]
    arguments += ["--defenses", "none,loir-8,random-8", "--attacks", attacks]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len({tuple(row) for row in rows}) == 1, "every row has the same columns"
    return {row.pop("what"): row for row in rows}


def test_what_is_compared_holds_neither_audit_nor_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = priced(tmp_path / "r", "apgd-ce-5,tr-apgd-ce-5,audit-line-9", capsys)
    attacks = [what for what in rows if " on " in what and not what.startswith("audit-")]
    assert any(what.startswith("audit-line-9 on loir-8") for what in rows)
    for number in ("units", "done", "forward_passes", "backward_passes"):
        everything = sum(row[number] for what, row in rows.items() if what not in ("total", PLAN, SEPARATE))
        assert rows["total"][number] == everything
        assert rows[PLAN][number] == sum(rows[what][number] for what in attacks)
    assert list(rows)[-3:] == ["total", PLAN, SEPARATE]
    # Without audit and checks the rows of attacks are the same, but for what the audit starts from.
    alone = priced(tmp_path / "r", "apgd-ce-5,tr-apgd-ce-5", capsys)
    assert alone[SEPARATE]["forward_passes"] == rows[SEPARATE]["forward_passes"]
    # Five steps take a gradient at six points of each of 12 images: once on the base model, twice through two passes,
    # and for either defense by itself once more for the points of its transfer, which the plan computes once.
    steps = 12 * 6
    assert alone[SEPARATE]["backward_passes"] == steps * (1 + 2 * (2 + 1))
    assert alone[PLAN]["backward_passes"] == steps * (1 + 2 * 2 + 1)


def test_an_audit_alone_is_compared_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = priced(tmp_path / "r", "audit-line-9", capsys)
    assert list(rows)[-1] == "total"
