"""The figures of analyses say what the rows say, also where rows lack values, and take names as text."""

import re

import pytest

from igd_ray.report.figures.analyses import analysis_figure

NOTHING = {"setting": None, "place": None, "other_setting": None, "other_place": None}

ROWS = {
    "sensitivity": [
        {"defense": "none", "attack": "pgd", **NOTHING, "clean": 90.0, "robust": 40.0, "low": 30.0, "high": 50.0},
        *(
            {
                "defense": "<b>loir",
                "attack": "pgd",
                **NOTHING,
                "setting": "k",
                "place": place,
                "clean": value,
                "robust": value,
                "low": value,
                "high": value,
            }
            for place, value in (("8", 41.0), ("16", None), ("32", 43.0))
        ),
    ],
    "loss-surface": [
        {"defense": "<b>loir", "x": x, "y": y, "loss": None if x == y == 1 else x + y} for x in (0, 1) for y in (0, 1)
    ],
    "activations": [
        {"attack": "<b>loir", "broken": True, "neurons": "no class", "change": None, "low": None, "high": None},
        {"attack": "<b>loir", "broken": True, "neurons": "true class", "change": -9.0, "low": -12.0, "high": -6.0},
    ],
    "classwise": [
        {"defense": "<b>loir", "label": 0, "robust": None, "low": None, "high": None},
        {"defense": "<b>loir", "label": 1, "robust": 50.0, "low": 40.0, "high": 60.0},
    ],
    "cost": [{"quantity": "<b>loir", "defense": "d", "forward_passes": 2.0, "least": 1.9, "most": 2.1}],
    "overlap": [
        {
            "ranking": "<b>loir",
            "other_ranking": other,
            "class_name": "zero",
            "spearman": 0.5,
            "rank_biased_overlap": 0.25,
            "jaccard_8": None,
        }
        for other in ("a", "b")
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_figure_is_the_same_each_time_and_names_are_text(name: str) -> None:
    figure = analysis_figure(name, ROWS[name])
    assert figure == analysis_figure(name, ROWS[name])
    assert "<b>" not in figure
    assert "&lt;b&gt;loir" in figure


def test_a_heat_map_writes_each_value_into_its_cell_and_a_dash_for_none() -> None:
    values = {("8", "0"): 41.2, ("8", "0.1"): None, ("16", "0"): 55.0, ("16", "0.1"): 60.6}
    rows = [
        {"defense": "loir", "attack": "pgd", "setting": "k", "place": k, "other_setting": "sigma", "other_place": sigma}
        | {"robust": value}
        for (k, sigma), value in values.items()
    ]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", analysis_figure("sensitivity", rows))
    for text in ("41", "–", "55", "61", "k", "sigma"):
        assert text in texts


def test_what_is_not_known_is_said_and_never_zero() -> None:
    assert "not known" in analysis_figure("classwise", ROWS["classwise"])
