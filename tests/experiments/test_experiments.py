"""The shipped experiments: their settings are valid at both scales, and the paper's numbers are the paper's."""

import re
from pathlib import Path

import pytest

from igd_ray.catalog import named_queries
from igd_ray.config import AnalyzeSettings, EvaluateSettings, load_settings
from igd_ray.errors import InputError
from igd_ray.experiments import experiment_names, load_experiment, published_numbers, without_k

TABLES = [f"table{number}" for number in range(1, 13)]
FIGURES = ["fig2", "fig5", "fig6", "fig7", "fig8"]


def test_every_table_and_every_figure_with_results_has_one() -> None:
    assert experiment_names() == [*TABLES, *FIGURES]
    with pytest.raises(InputError, match="figures 1, 3 and 4 of the paper show its method"):
        load_experiment("fig3")


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", [*TABLES, *FIGURES])
def test_its_settings_can_be_used(name: str, small: bool) -> None:
    experiment = load_experiment(name)
    kind = {"evaluate": EvaluateSettings, "analyze": AnalyzeSettings}[experiment.verb]
    runs = experiment.runs(small=small)
    assert runs
    for values in runs.values():
        settings = load_settings(kind, file=None, given=values)
        assert settings.model == ("demo" if small else values["model"])
    assert experiment.query in named_queries()
    assert experiment.differences


@pytest.mark.parametrize("name", TABLES[:11])
def test_each_published_number_has_its_place_in_the_experiment(name: str) -> None:
    experiment = load_experiment(name)
    labels = {label for values in experiment.runs(small=False).values() for label in str(values["defenses"]).split(",")}
    numbers = published_numbers(name)
    assert numbers
    assert {column for _, _, column in numbers} == set(experiment.columns)
    assert {row.split(" ")[0] for _, row, _ in numbers} <= labels
    assert set(experiment.parts) <= {part for part, _, _ in numbers}


@pytest.mark.parametrize("name", TABLES)
def test_each_published_number_stands_in_the_paper(name: str, shared: Path) -> None:
    text = (shared / "paper" / "paper.txt").read_text(encoding="utf-8")
    printed = {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)}
    assert {value for value in published_numbers(name).values() if value not in printed} == set()


def test_rows_are_compared_whatever_k_they_keep() -> None:
    assert without_k("loir-8") == without_k("loir-50") != without_k("cdir-50")
    assert without_k("loir-8 8/255") == without_k("loir-50 8/255") != without_k("loir-8 4/255")
