"""The neurons that matter to a class: scores and ranks by hand, on the page and by `igd rank --show`."""

import html
import json
import re

import pytest

from igd_ray.catalog import Catalog, ask
from igd_ray.cli import main
from igd_ray.report.html import write_report
from igd_ray.report.preparation.neurons import labels_of, neuron_table
from igd_ray.report.preparation.stored import read_neurons
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row

# Of each ranking and class, the scores of three neurons.
SCORES = {
    "l": ("loir", {0: [3.0, 2.0, 1.0], 1: [0.0, 5.0, 1.0]}),
    "c": ("cdir", {0: [-9.0, -1.0, -2.0], 1: [-5.0, -6.0, -1.0]}),
}
NAMES = {0: "cat", 1: "<b>dog"}


@pytest.fixture
def ranked(catalog: Catalog) -> Catalog:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    for ranking_id, (method, classes) in SCORES.items():
        rows = []
        for class_id, scores in classes.items():
            order = sorted(range(3), key=lambda neuron: -scores[neuron])
            rows += [
                row(
                    "rankings",
                    ranking_id=ranking_id,
                    method=method,
                    model_id="m0",
                    layer="penultimate",
                    class_id=class_id,
                    class_name=NAMES[class_id],
                    neuron=neuron,
                    score=score,
                    rank=order.index(neuron),
                )
                for neuron, score in enumerate(scores)
            ]
        catalog.commit("rankings", ranking_id, rows)
    return catalog


def test_the_best_neurons_of_each_class_with_scores_ranks_and_who_shares_them(ranked: Catalog) -> None:
    rows = ask(ranked, lambda reader: read_neurons(reader, ["l", "c"], top=1))
    columns = ("class_id", "neuron", "scores", "ranks", "shared_by")
    # Best of cat are 0 (LO-IR) and 1 (CD-IR), of dog 1 (LO-IR) and 2 (CD-IR): they share 1.
    assert [tuple(each[name] for name in columns) for each in rows] == [
        (0, 0, [3.0, -9.0], [0, 2], None),
        (0, 1, [2.0, -1.0], [1, 0], ["<b>dog"]),
        (1, 1, [5.0, -6.0], [0, 2], ["cat"]),
        (1, 2, [1.0, -1.0], [1, 0], None),
    ]
    (one,) = ask(ranked, lambda reader: read_neurons(reader, ["c"], class_id=1, top=1))
    assert (one["neuron"], one["scores"], one["ranks"]) == (2, [-1.0], [0])


def test_a_neuron_that_a_ranking_lacks_has_a_dash() -> None:
    rows = [{"neuron": 7, "ranking_ids": ["c"], "scores": [1.5], "ranks": [0], "shared_by": None}]
    table = neuron_table({"l": "loir", "c": "cdir"}, rows)
    assert [cell.text for _, cell in table.cells(table.rows[0])] == ["7", "–", "–", "0", "1.5", ""]


def test_rankings_of_one_method_are_told_apart_by_their_ids() -> None:
    rankings = [
        {"ranking_id": each, "method": method} for each, method in (("abcdefgh", "loir"), ("bcd", "loir"), ("c", "x"))
    ]
    assert labels_of(rankings) == {"abcdefgh": "loir abcdef", "bcd": "loir bcd", "c": "x"}


def test_the_page_lists_the_neurons_of_each_class(ranked: Catalog) -> None:
    page = write_report(ranked, None, ranked.root.parent / "report.html").read_text()
    (section,) = re.findall(r"<h2>Rankings</h2>.*?</section>", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section)))
    assert "cat · penultimate Neuron cdir rank cdir score loir rank loir score Among the best of" in text
    assert "<b>dog" not in page


def test_rank_shows_a_class(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--probe-n", "60", "--catalog", str(tmp_path), "--executor", "local"]
    assert main(["rank", "--method", "loir,random", "--show", "three", "--top", "2", "--json", *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["class_id"] for each in found} == {3}
    assert [each["ranks"][0] for each in found if each["ranks"][0] < 2] == [0, 1]
    assert found[0]["methods"] == ["loir", "random"]
    assert main(["rank", "--method", "loir", "--show", "3", "--top", "2", *small]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Neurons of three; rank 0 is the best"
    assert len(printed) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--show", "thre"], "not 'thre'; did you mean 'three'"),
        (["--show", "10"], "a number below 10, not '10'"),
        (["--top", "3"], "--top goes with --show"),
        (["--show", "three", "--top", "0"], "--top must be 1 at least, not 0"),
    ],
)
def test_a_class_that_is_not_there_is_refused_before_anything_is_ranked(
    flags: list[str], message: str, catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(catalog.root.parent / "untouched")
    assert main(["rank", "--executor", "local", "--catalog", place, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (catalog.root.parent / "untouched").exists()
