"""Gates: what a claim asks, and when it holds, fails, is undecided or was not measured."""

from xml.etree import ElementTree

import pytest

from igd_ray.catalog import Catalog
from igd_ray.catalog.query import ask
from igd_ray.errors import InputError
from igd_ray.report.records.gates import Gate, judge_gates, junit_file, parse_gate, require_asked
from igd_ray.report.results import Results, find_run, read_results
from igd_ray.statistics import paired_interval


@pytest.fixture(scope="module")
def results(filled: Catalog) -> Results:
    return ask(filled, lambda reader: read_results(reader, find_run(reader, None)))


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("gain >= 0", Gate(None, "gain", 0.0)),
        ("  worst_case>=.3 ", Gate(None, "worst_case", 0.3)),
        ("loir-8: clean >= 1e-1", Gate("loir-8", "clean", 0.1)),
        ("none:worst_case >= 1", Gate("none", "worst_case", 1.0)),
    ],
)
def test_what_a_gate_says(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text", ["", "gain", "gain > 0", "gain >= 0 and clean >= 0", "gain <= 0", "a b: gain >= 0", "gain >= 2", "__x >= 0"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--gate"):
        parse_gate(text)


def verdicts(results: Results, *texts: str) -> dict[str, str]:
    return {each.defense: each.verdict for each in judge_gates(results, [parse_gate(text) for text in texts])}


def test_a_gain_of_at_least_zero_is_what_the_table_claims(results: Results) -> None:
    assert verdicts(results, "gain >= 0") == {
        "loir-12": "holds",
        "random-12": "undecided",
        "cdir-12": "not measured",
        "hedge": "not measured",
    }
    (judged,) = judge_gates(results, [parse_gate("loir-12: gain >= 0")])
    assert judged.why == "gain at 40 images: 20 images gained, 2 lost, p = 0.00012, Holm: 0.00024"


def test_a_gain_holds_where_its_whole_interval_does(results: Results) -> None:
    # 20 images gained and 2 lost of 40: by hand, (18 ± 1.96·√(23 − 324/42))/42.
    low, high = paired_interval(20, 2, 40)
    assert (low, high) == (pytest.approx(0.2461, abs=1e-4), pytest.approx(0.6110, abs=1e-4))
    at = {threshold: verdicts(results, f"loir-12: gain >= {threshold}") for threshold in (0.24, 0.25, 0.61, 0.62)}
    assert [each["loir-12"] for each in at.values()] == ["holds", "undecided", "undecided", "fails"]


def test_an_accuracy_holds_where_wilson_s_interval_does(results: Results) -> None:
    # 26 of 40 images are robust: Wilson's interval is 0.495 to 0.779.
    at = [verdicts(results, f"loir-12: worst_case >= {threshold}")["loir-12"] for threshold in (0.49, 0.5, 0.77, 0.78)]
    assert at == ["holds", "undecided", "undecided", "fails"]
    assert verdicts(results, "none: worst_case >= 0.1") == {"none": "holds"}
    assert set(verdicts(results, "clean >= 0.8").values()) == {"holds"}
    assert verdicts(results, "hedge: worst_case >= 0") == {"hedge": "not measured"}


def test_a_gate_of_no_name_asks_every_defense_or_the_undefended_model_alone(results: Results) -> None:
    assert set(verdicts(results, "worst_case >= 0")) == {"loir-12", "random-12", "cdir-12", "hedge"}
    require_asked(parse_gate("worst_case >= 0.3"), ["none"])
    for text, defenses in [("gain >= 0", ["none"]), ("gain >= 0", ["hedge"]), ("hegde: clean >= 0", ["none", "hedge"])]:
        with pytest.raises(InputError, match="--gate"):
            require_asked(parse_gate(text), defenses)


def test_the_junit_file_has_a_case_for_each_verdict(results: Results) -> None:
    judged = judge_gates(results, [parse_gate("gain >= 0"), parse_gate("loir-12: worst_case >= 0.9")])
    root = ElementTree.fromstring(junit_file("run", judged))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for element in (root, suite):
        assert [element.get(name) for name in ("tests", "failures", "errors")] == ["5", "2", "2"]
    found = {(case.get("classname"), case.get("name")): [child.tag for child in case] for case in suite}
    assert found == {
        ("cdir-12", "gain >= 0"): ["error"],
        ("hedge", "gain >= 0"): ["error"],
        ("loir-12", "gain >= 0"): ["system-out"],
        ("random-12", "gain >= 0"): ["failure"],
        ("loir-12", "worst_case >= 0.9"): ["failure"],
    }
    failure = next(case for case in suite if case.get("classname") == "random-12")[0]
    assert failure.get("type") == "undecided"
    assert "undecided at 40 images: 8 images gained, 6 lost, p = 0.79, Holm: 0.79; about " in str(
        failure.get("message")
    )
