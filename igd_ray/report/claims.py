"""The claim on each defense of a run, in a sentence: what its worst case is beside that of the undefended model."""

from typing import NamedTuple

from igd_ray.protocol import NONE, attack_order
from igd_ray.report.results import Results
from igd_ray.report.tables import Row, percent, points


class Claim(NamedTuple):
    """What a run says of a defense.

    Attributes:
        defense: its label.
        verdict: ``gain``, ``loss`` or ``undecided``; ``unknown`` where there is nothing to compare.
        sentence: what follows the label.
        detail: the counts and the p-value behind the sentence.
    """

    defense: str
    verdict: str
    sentence: str
    detail: str


def claims(results: Results) -> list[Claim]:
    """Return the claim on each defense of a run, over all of its attacks, an audit's too."""
    return [_claim(results, row) for row in results.worst_cases if row["defense"] != NONE]


def baseline(results: Results) -> str:
    """Return the worst case of the undefended model, in a sentence."""
    for row in results.worst_cases:
        if row["defense"] == NONE and worst_accuracy(row) is not None:
            low, high = (
                (row["low"], row["high"])
                if row["audit_attacks"] is None
                else (
                    row["audited_low"],
                    row["audited_high"],
                )
            )
            interval = f"{100 * low:.1f}–{100 * high:.1f}"
            return f"The undefended model keeps {percent(worst_accuracy(row))} ({interval}) of {row['n']} images."
    return "The worst case of the undefended model is not known: without it no gain can be claimed."


def worst_accuracy(row: Row) -> float | None:
    """Return the worst case over all attacks, of one of `worst_cases`."""
    accuracy: float | None = row["robust_accuracy"] if row["audit_attacks"] is None else row["audited_accuracy"]
    return accuracy


def unfinished(results: Results) -> dict[str, str]:
    """Return, for each defense of a run, why its worst case is not known; an empty text where it is."""
    return {
        row["defense"]: "; ".join(
            f"{what} on {row['defense']}: {', '.join(sorted(row[state], key=attack_order))}"
            for state, what in (("failed", "failed"), ("waiting", "not finished"))
            if row[state]
        )
        for row in results.waiting
    }


def _claim(results: Results, row: Row) -> Claim:
    defense, robust = row["defense"], worst_accuracy(row)
    compared = results.compared.get(defense)
    gain = row["gain"] if row["audit_attacks"] is None else row["audited_gain"]
    if compared is None or robust is None or gain is None:
        reasons = unfinished(results)
        why = "; ".join(reason for reason in (reasons.get(defense), reasons.get(NONE)) if reason)
        return Claim(defense, "unknown", "nothing can be claimed", why or "there is nothing to compare it with")
    # That of the undefended model on the images of the defense, which may be fewer than its own.
    against = f"{percent(robust)} against {percent(robust - gain)}"
    if compared.verdict == "undecided":
        sentence = f"shows no gain: {against}, undecided at {compared.images} images"
        return Claim(defense, "undecided", sentence, f"{compared.counts}; {compared.outlook}")
    verb = "gains" if compared.verdict == "gain" else "loses"
    difference = points((compared.gained - compared.lost) / compared.images).lstrip("+−")
    sentence = f"{verb} {difference} points: {against} of {compared.images} images"
    return Claim(defense, compared.verdict, sentence, compared.counts)
