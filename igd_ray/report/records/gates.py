"""Gates: claims that a run must show, for use in continuous integration, and their verdicts as a JUnit file."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import NONE
from igd_ray.report.results import Results
from igd_ray.report.tables import Row
from igd_ray.statistics import Comparison

# What a gate can ask of a defense, and the smallest threshold.
METRICS = {"gain": -1.0, "worst_case": 0.0, "clean": 0.0}

GRAMMAR = "[DEFENSE:] METRIC >= NUMBER"

_GATE = re.compile(r"(?:(?P<defense>[^\s:]+)\s*:)?\s*(?P<metric>\w+)\s*>=\s*(?P<threshold>\S+)")


class Gate(NamedTuple):
    """A claim: that a number of a defense is at least a threshold.

    Attributes:
        defense: whose; None for each defense but the undefended model, or for that one where it is alone.
        metric: one of `METRICS`.
        threshold: a fraction.
    """

    defense: str | None
    metric: str
    threshold: float

    def __str__(self) -> str:
        return f"{f'{self.defense}: ' if self.defense else ''}{self.metric} >= {self.threshold:g}"


def parse_gate(text: str) -> Gate:
    """Return the gate that `text` says.

    Raises:
        InputError: if it does not follow `GRAMMAR`.

    >>> parse_gate("loir-8: gain >= -0.02")
    Gate(defense='loir-8', metric='gain', threshold=-0.02)
    """
    match = _GATE.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f'--gate must be "{GRAMMAR}", such as "gain >= 0" or "loir-8: worst_case >= 0.3", not {text!r}'
        )
    metric = match["metric"]
    if metric not in METRICS:
        raise InputError(f"--gate {text!r}: METRIC is one of {', '.join(METRICS)}{did_you_mean(metric, METRICS)}")
    try:
        threshold = float(match["threshold"])
    except ValueError:
        threshold = math.nan
    if not METRICS[metric] <= threshold <= 1:
        raise InputError(
            f"--gate {text!r}: the number must be a fraction in [{METRICS[metric]:g}, 1], not {match['threshold']!r}"
        )
    return Gate(match["defense"], metric, threshold)


def require_asked(gate: Gate, defenses: Collection[str]) -> None:
    """Check that `gate` can be asked of a run with `defenses`.

    Raises:
        InputError: naming the gate and what to do.
    """
    if gate.defense is not None and gate.defense not in defenses:
        raise InputError(
            f'--gate "{gate}": the run has no defense {gate.defense!r}; it has {", ".join(defenses)}'
            f"{did_you_mean(gate.defense, defenses)}"
        )
    if gate.metric == "gain" and NONE not in defenses:
        raise InputError(f'--gate "{gate}": a gain is over the undefended model; add none to --defenses')
    if gate.metric == "gain" and _asked(gate, defenses) == [NONE]:
        raise InputError(f'--gate "{gate}": the undefended model has no gain over itself; name a defense')


class Judged(NamedTuple):
    """A gate's verdict on one defense.

    Attributes:
        defense: which.
        gate: what was asked.
        verdict: "holds" or "fails" where the 95 % interval lies on one side of the threshold, else "undecided";
            "not measured" where the number is NULL.
        why: the number with its interval, as one phrase.
    """

    defense: str
    gate: Gate
    verdict: Literal["holds", "fails", "undecided", "not measured"]
    why: str

    def __str__(self) -> str:
        return f"{self.defense}: {self.gate.metric} >= {self.gate.threshold:g} {_SAID[self.verdict]} ({self.why})"


_SAID = {"holds": "holds", "fails": "fails", "undecided": "is undecided", "not measured": "was not measured"}


def judge_gates(results: Results, gates: Sequence[Gate]) -> list[Judged]:
    """Return the verdict of each gate on each defense that it asks.

    Worst case and gain are over all attacks of the run, an audit's among them. A gain of at least 0 is what the table
    claims: it holds for `gain`, fails for `loss`, and is undecided otherwise. Any other number holds where its 95 %
    interval lies on its side: Wilson's for accuracies, that of paired differences for gains; in a run that looks
    before its last image, the intervals that hold at every look.
    """
    rows = {row["defense"]: row for row in results.worst_cases}
    return [
        _judge(gate, rows[defense], results)
        for gate in gates
        for defense in _asked(gate, list(rows))
        if defense in rows
    ]


def _asked(gate: Gate, defenses: Collection[str]) -> list[str]:
    if gate.defense is not None:
        return [gate.defense]
    return [defense for defense in defenses if defense != NONE] or [NONE]


def _judge(gate: Gate, row: Row, results: Results) -> Judged:
    defense = row["defense"]
    if gate.metric == "gain":
        return _judge_gain(gate, defense, results.compared.get(defense))
    if gate.metric == "clean":
        value, low, high = row["clean_accuracy"], row["clean_low"], row["clean_high"]
    elif results.is_audited:
        value, low, high = row["audited_accuracy"], row["audited_low"], row["audited_high"]
    else:
        value, low, high = row["robust_accuracy"], row["low"], row["high"]
    if value is None or low is None or high is None:
        return Judged(defense, gate, "not measured", "units are missing or failed")
    why = f"{value:.4f}, 95 % interval {low:.4f} to {high:.4f}, {row['n']} images"
    return Judged(defense, gate, _side(gate.threshold, low, high), why)


def _judge_gain(gate: Gate, defense: str, comparison: Comparison | None) -> Judged:
    if comparison is None:
        return Judged(defense, gate, "not measured", "units are missing or failed")
    if gate.threshold == 0:
        verdicts: dict[str, Literal["holds", "fails", "undecided"]] = {"gain": "holds", "loss": "fails"}
        outlook = f"; {comparison.outlook}" if comparison.verdict == "undecided" else ""
        why = f"{comparison.verdict} at {comparison.images} images: {comparison.counts}{outlook}"
        return Judged(defense, gate, verdicts.get(comparison.verdict, "undecided"), why)
    low, high = comparison.interval
    gain = (comparison.gained - comparison.lost) / comparison.images
    why = f"{gain:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {comparison.images} images"
    return Judged(defense, gate, _side(gate.threshold, low, high), why)


def _side(threshold: float, low: float, high: float) -> Literal["holds", "fails", "undecided"]:
    return "holds" if low >= threshold else "fails" if high < threshold else "undecided"


def junit_file(run_id: str, judged: Sequence[Judged]) -> bytes:
    """Return verdicts as a JUnit file: a test case each, a failure where one fails or is undecided, else an error."""
    failed = [each for each in judged if each.verdict in ("fails", "undecided")]
    unknown = [each for each in judged if each.verdict == "not measured"]
    counts = {"tests": str(len(judged)), "failures": str(len(failed)), "errors": str(len(unknown))}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": f"igd evaluate, run {run_id}", **counts, "skipped": "0"}
    )
    for each in judged:
        name = f"{each.gate.metric} >= {each.gate.threshold:g}"
        case = ElementTree.SubElement(suite, "testcase", {"classname": each.defense, "name": name})
        if each in failed:
            ElementTree.SubElement(case, "failure", {"type": each.verdict, "message": str(each)})
        elif each in unknown:
            ElementTree.SubElement(case, "error", {"type": each.verdict, "message": str(each)})
        else:
            ElementTree.SubElement(case, "system-out").text = str(each)
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
