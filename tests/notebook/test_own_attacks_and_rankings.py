"""An attack or a ranking that a cell of a notebook defines runs under its label, and is known by what it computes."""

import linecache
from pathlib import Path
from typing import Any

import pytest

import igd_ray
from igd_ray.attacks import APGD, FGSM
from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.errors import InputError
from igd_ray.models import load_model
from igd_ray.notebook import Evaluation
from tests.toys.own_attacks.corners import Corners as CornersOfAFile

ROOT = Path(__file__).parents[2]
ATTACK = (ROOT / "tests" / "toys" / "own_attacks" / "corners.py").read_text(encoding="utf-8")
# A cell reads a global that another cell may change.
ATTACK = ATTACK.replace("threat.epsilon *", "SHARE * threat.epsilon *").replace(
    "@dataclass", "SHARE = 1.0\n\n\n@dataclass"
)
RANKING = (ROOT / "tests" / "toys" / "mean_activation.py").read_text(encoding="utf-8").replace('@register("toy")\n', "")
RANKING = RANKING.replace("    def update", "    power: float = 1.0\n\n    def update").replace(
    '["counts"][:, None]', '["counts"][:, None] ** self.power'
)


def cell(text: str, name: str, *, source: bool = True) -> dict[str, Any]:
    """What running a cell of a notebook defines; as there, the source is in the cache of lines."""
    if source:
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), defined)
    return defined


def evaluated(catalog: Path | None = None, **given: Any) -> Evaluation:
    return igd_ray.evaluate(load_model("demo"), load_images("digits", n=8), catalog=catalog, shard_size=8, **given)


def test_an_attack_of_a_cell_has_the_rows_of_the_same_attack_in_a_file(tmp_path: Path) -> None:
    corners = cell(ATTACK, "<attack>")["Corners"]
    found = evaluated(tmp_path, attacks=["fgsm", corners(queries=9)], defenses={"loir-8": None})
    assert [(row["defense"], row["attack"]) for row in found.accuracy] == [
        (defense, attack) for defense in ("none", "loir-8") for attack in ("corners", "fgsm")
    ]
    # Another identity, so other seeds: the attack itself is the same at one seed.
    one, other = (
        evaluated(attacks={"mine": attack, "tr-mine": attack}, attack_seed=7, defenses=["loir-8"]).outcomes
        for attack in (corners, CornersOfAFile())
    )
    columns = ["image_id", "defense", "attack", "status", "distance", "queries"]
    assert one.select(columns) == other.select(columns)
    assert set(one["attack"].to_pylist()) == {"mine", "tr-mine"}
    assert sum(one["queries"].to_pylist()) > 0


Ranking = cell(RANKING, "<ranking>")["MeanActivation"]


def run_id(text: str, name: str, catalog: Path, **settings: int) -> str:
    return evaluated(catalog, attacks={"mine": cell(text, name)["Corners"](**settings)}).run_id


def test_attacks_are_told_apart_by_source_and_settings(tmp_path: Path) -> None:
    before = run_id(ATTACK, "<attack 1>", tmp_path)
    assert run_id(ATTACK, "<attack 2>", tmp_path) == before
    assert run_id(ATTACK + "\n# a comment behind it\n", "<attack 3>", tmp_path) == before
    others = {
        run_id(ATTACK, "<attack 4>", tmp_path, queries=5),
        run_id(ATTACK.replace("SHARE = 1.0", "SHARE = 0.5"), "<attack 5>", tmp_path),
        run_id(ATTACK.replace("torch.randint(2, ", "torch.randint(1, "), "<attack 6>", tmp_path),
    }
    assert len({before, *others}) == 4
    # The same class, after another cell has changed what it reads.
    defined = cell(ATTACK, "<attack 7>")
    defined["SHARE"] = 0.25
    assert evaluated(tmp_path, attacks={"mine": defined["Corners"]}).run_id not in {before, *others}


def test_an_attack_of_the_package_with_other_settings_has_a_name_of_its_own(tmp_path: Path) -> None:
    found = evaluated(tmp_path, attacks={"apgd-ce-3": None, "mine": APGD("ce", steps=3)}, attack_seed=0)
    by_attack = {row["attack"]: row["broken"] for row in found.accuracy}
    assert by_attack["mine"] == by_attack["apgd-ce-3"]
    only = evaluated(tmp_path, attacks={"audit-mine@loir-8": APGD("ce", steps=3)}, defenses=["loir-8"])
    assert [(row["defense"], row["attack"]) for row in only.accuracy] == [("loir-8", "audit-mine")]


def test_a_ranking_of_a_cell_ranks_for_its_defense(tmp_path: Path) -> None:
    small: dict[str, Any] = {"attacks": ["clean"], "probe_n": 100, "search_n": 50}
    first, again, other = (
        evaluated(tmp_path, method={"mine": cell(text, name)["MeanActivation"]}, defenses=["mine-8"], **small)
        for text, name in (
            (RANKING, "<ranking 1>"),
            (RANKING, "<ranking 2>"),
            (RANKING.replace('["totals"]', '["totals"].square()'), "<ranking 3>"),
        )
    )
    assert [row["defense"] for row in first.worst_case] == ["none", "mine-8"]
    assert first.run_id == again.run_id != other.run_id
    ranking = cell(RANKING, "<ranking 4>")["MeanActivation"]
    powers = [
        evaluated(
            tmp_path, method={"mine": ranking}, method_arg={"mine.power": power}, defenses=["mine-8"], **small
        ).run_id
        for power in (1.0, 2.0)
    ]
    assert powers[0] == first.run_id != powers[1]


def test_what_a_program_held_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = igd_ray.evaluate("demo", "digits", n=4, attacks={"mine": CornersOfAFile}, catalog=tmp_path)
    assert main(["verify", "--catalog", str(tmp_path)]) == 2
    assert f"run {found.run_id!r} evaluated what only a program held, mine=memory:Corners" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": [CornersOfAFile, CornersOfAFile()]}, "two attacks are called 'corners'"),
        ({"attacks": {"fgsm": CornersOfAFile}}, "'fgsm' is one of this package's own attacks"),
        ({"attacks": [FGSM()]}, "attack 'fgsm': 'fgsm' is one of this package's own attacks"),
        ({"attacks": {"mine@loir-8": CornersOfAFile}}, "mine attacks the defense 'loir-8' only"),
        ({"attacks": {"mine": 3}}, "attack 'mine': expected a label, an object or a class of igd_ray.attacks.Attack"),
        ({"attacks": {"mine": "fgsm"}}, "attack 'mine': expected a label"),
        ({"attacks": []}, "attacks"),
        ({"attacks": {"mine": CornersOfAFile(queries=print)}}, "attack mine (Corners): its fields are its settings"),  # type: ignore[arg-type]
        ({"method": {"mine": Ranking}}, "method 'mine': no defense of the run uses it; add mine-K"),
        ({"method": {"loir": Ranking}}, "method 'loir': 'loir' is a name of this package"),
        ({"method": {"mine": CornersOfAFile}}, "Corners must be a subclass of igd_ray.ranking.StatisticRanking"),
        (
            {"method": {"mine": Ranking}, "defenses": ["mine-8"], "method_arg": {"mine.powr": 2}},
            "did you mean 'power'",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        evaluated(tmp_path / "results", **{"attacks": ["clean"], **changes})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_code_whose_source_is_not_found_is_refused_with_what_to_do(tmp_path: Path) -> None:
    attack = cell(ATTACK, "<string>", source=False)["Corners"]
    advice = "was not found, .*define it in a cell of a notebook, or in a file: `igd new"
    with pytest.raises(InputError, match=rf"attack mine \(Corners\): the source of Corners {advice}"):
        evaluated(tmp_path / "results", attacks={"mine": attack})
    ranking = cell(RANKING, "<string>", source=False)["MeanActivation"]
    with pytest.raises(InputError, match=f"the source of MeanActivation {advice}"):
        evaluated(tmp_path / "results", attacks=["clean"], method={"mine": ranking}, defenses=["mine-8"])
    assert not (tmp_path / "results").exists()
