"""`igd bench attacks`: the engine beside pyautoattack at equal budgets."""

import json

import pytest

from igd_ray.cli import main


@pytest.mark.slow
def test_the_engine_takes_as_many_passes_as_pyautoattack_for_the_same_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "attacks", "--n", "12", "--rounds", "1", "--json"]) == 0
    rows = {(row["attack"], row["until"]): row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [
        ("apgd-ce-20", "the end"),
        ("apgd-ce-20", "broken"),
        ("apgd-t-10", "the end"),
        ("apgd-t-10", "broken"),
        ("apgd-ce-5, EoT 20", "the end"),
        ("square-200", "the end"),
    ]
    for label in ("apgd-ce-20", "apgd-ce-5, EoT 20"):
        assert rows[label, "the end"]["passes"] == rows[label, "the end"]["alternative_passes"] > 0
    for row in rows.values():
        assert row["images"] == 12
        assert row["other_verdicts"] <= 1
        pace = row["passes_per_second"] / row["alternative_passes_per_second"]
        assert row["pace"] == pytest.approx(pace, rel=0.05)
    for label in ("apgd-ce-20", "apgd-t-10"):
        assert rows[label, "broken"]["passes"] < rows[label, "the end"]["passes"]
