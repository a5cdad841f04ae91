"""A defense, an attack, an adaptive attack and a ranking in files run through every verb under their labels."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.ranking import RANKINGS
from tests.attacks.test_own_attacks import CORNERS
from tests.planning.test_own_defenses import TWO_PASSES
from tests.toys.commands import igd

OWN_RANKINGS = Path(__file__).parents[1] / "toys" / "own_rankings"
SMALL = ["--executor", "local", "--probe-n", "200", "--search-n", "60"]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget what a test registers."""
    yield
    RANKINGS.pop("mine", None)


def test_they_stand_under_their_labels_in_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(OWN_RANKINGS, tmp_path / "code"))
    place = ["--catalog", str(tmp_path / "results")]
    method = ["--method", f"mine={folder / 'powered_activation.py'}:PoweredActivation"]
    power = ["--method-arg", "mine.power=2"]

    assert {row["method"] for row in json.loads(igd(["rank", *method, *power, *SMALL, *place, "--json"], capsys))} == {
        "mine"
    }
    igd(["search", *method, *power, *SMALL, *place, "--tolerance", "0.5"], capsys)
    (search,) = run_query(Catalog(tmp_path / "results"), "SELECT method, k FROM searches").to_pylist()
    assert search["method"] == "mine"

    attacks = [f"fast={CORNERS}:Corners", f"tr-fast={CORNERS}:Corners", f"audit-fast@two={CORNERS}:Corners"]
    defenses = f"none,mine-8,two={TWO_PASSES}"
    words = ["--defenses", defenses, "--attacks", ",".join(attacks)]
    images = ["--n", "8", "--defense-arg", "two.ranking=mine"]
    rows = json.loads(igd(["evaluate", *words, *method, *power, *images, *SMALL, *place, "--json"], capsys))
    assert [row["defense"] for row in rows] == ["none", "mine-8", "two"]
    for row in rows:
        assert row["worst_case"] is not None
        assert set(row["attacked"]) == {"fast", "tr-fast"}
        # The adaptive attack is for one defense only.
        assert (row["audit_attacked"]["audit-fast"] is None) == (row["defense"] != "two")

    igd(["report", *place, "--output", str(tmp_path / "report.html")], capsys)
    page = (tmp_path / "report.html").read_text()
    assert all(label in page for label in ("mine-8", "fast", "tr-fast", "audit-fast"))

    verified = igd(["verify", *place, *words, *method], capsys)
    assert "all 56 verdicts hold" in verified
    assert all(label in verified for label in ("mine-8", "two", "fast", "tr-fast", "audit-fast"))

    # Nothing of it runs where the command does not name it.
    for file in (folder / "powered_activation.py", folder / "powers.py"):
        file.write_text("raise SystemExit('this must not run')")
    assert main(["verify", *place, *words]) == 2
    assert f"name the run's rankings, where they are now: {' '.join(method)}" in capsys.readouterr().err


LEAVING = """
import sys
import torch
from torch import nn

class Leaving(nn.Sequential):
    def forward(self, x):
        if len(x) > 1:
            sys.exit(0)
        return super().forward(x)

def net():
    torch.manual_seed(0)
    return Leaving(nn.Flatten(), nn.Linear(64, 10))
"""


def test_a_model_that_exits_while_a_plan_looks_at_it_does_not_choose_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    words = ["evaluate", "--model", f"{tmp_path / 'leaving.py'}:net", "--weights", "own", "--n", "8", "--dry-run"]
    assert main([*words, "--catalog", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == "igd: error: leaving.py calls sys.exit (status 0); remove the call\n"
    assert not (tmp_path / "results").exists()
