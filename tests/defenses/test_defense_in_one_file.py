"""A defense is added by one file, here outside the package: its label, arguments, costs and rows follow from it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.defenses.registry import KINDS, default_arguments, register
from igd_ray.defenses.specs import defense_arguments, known_defenses, parse_defense
from igd_ray.errors import InputError
from igd_ray.planning.cost import costs
from igd_ray.planning.evaluation import plan_evaluation
from tests.toys.quantised import QuantisedKind
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for

CHOICE = {
    "defenses": "none,quantised",
    "attacks": "apgd-ce-3,tr-apgd-ce-3",
    "defense_arg": {"quantised.levels": 3},
    "draws": 2,
    "n": 8,
}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(QuantisedKind)
    yield
    del KINDS["quantised"]


def test_its_label_and_arguments_are_known() -> None:
    assert "quantised" in known_defenses()
    assert parse_defense("quantised").kind == "quantised"
    assert default_arguments(KINDS["quantised"].arguments) == {"levels": 4}
    with pytest.raises(InputError, match="levels must be at least 2, not 1"):
        defense_arguments({"quantised.levels": 1})
    with pytest.raises(InputError, match=r"quantised\.levels: expected a whole number, such as 4, not 2\.5"):
        defense_arguments({"quantised.levels": 2.5})


def test_it_runs_from_its_label_to_rows(tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    assert not run_evaluation(catalog, **CHOICE).failed
    found = [row for row in rows(catalog) if row["defense"] == "quantised"]
    assert {row["attack"] for row in found} == {"apgd-ce-3", "tr-apgd-ce-3"}
    assert {row["status"] for row in found} <= {"robust", "broken", "misclassified"}
    assert all(json.loads(str(row["defense_arguments"])) == {"levels": 3} for row in found)
    assert {(row["draws"], row["tau"], row["layer"]) for row in found} == {(2, None, None)}
    # Each query is two passes, one for each draw.
    assert sum(int(str(row["forwards"])) for row in found) == 2 * sum(int(str(row["queries"])) for row in found) > 0
    assert run_evaluation(catalog, **CHOICE).computed == 0


def test_its_identity_holds_its_code(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "results", **CHOICE)
    with session_for(settings) as session:
        workspace = session.workspace
        evaluation = plan_evaluation(workspace)
        _, quantised = evaluation.needed.defenses
        before = quantised.defense_id
        assert costs(Catalog(tmp_path / "none"), evaluation.units, num_classes=10)

        class Other(QuantisedKind):
            """Another file's class of the same name."""

        Other.__module__ = "igd_ray.defenses.other"
        KINDS["quantised"] = Other()
        assert quantised.defense_id != before


def test_a_name_belongs_to_one_class() -> None:
    class Other(QuantisedKind):
        """Another class of that name."""

    with pytest.raises(ValueError, match="'quantised' is registered as QuantisedKind; choose another name"):
        register(Other)
