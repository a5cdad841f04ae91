"""What is said of a run in sentences: claims, what broke a defense, what an audit leaves, what was not measured."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from igd_ray.protocol import (
    AUDIT_ATTACKS,
    AUDIT_PREFIX,
    IDEA,
    NONE,
    NOT_MEASURED,
    TRANSFER_PREFIX,
    attack_order,
    audits_among,
    unplanned_attacks,
    unplanned_audits,
)
from igd_ray.report.results import Results, noise_shares
from igd_ray.report.tables import Row, percent, points
from igd_ray.statistics import Comparison


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


def audit_sentences(results: Results) -> list[str]:
    """Return a sentence on each defense of a run with an audit: what is left of its gain over the undefended model."""
    before, after = results.compared_before_audit, results.compared
    adaptive: dict[str, list[str]] = defaultdict(list)
    for found in results.audit_attacks:
        adaptive[found["defense"]].append(found["attack"])
    unknown = unfinished(results)
    sentences = []
    for row in results.worst_cases:
        defense = row["defense"]
        if row["audit_attacks"] is None or defense == NONE:
            continue
        if not adaptive[defense]:
            sentences.append(f"No audit attack was planned on {defense}: its worst case is not audited.")
        elif NONE not in unknown:
            sentences.append(f"{defense} has no gain to audit: the run has no undefended model to compare it with.")
        elif unknown[defense] or unknown[NONE]:
            why = "; ".join(reason for reason in (unknown[defense], unknown[NONE]) if reason)
            sentences.append(f"What the audit leaves of the gain of {defense} is not known; {why}.")
        else:
            faced = audits_among(adaptive[defense])
            sentences.append(audit_sentence(row, before[defense], after[defense], faced))
    return sentences


def audit_sentence(row: Row, before: Comparison, after: Comparison, faced: int) -> str:
    """Return what the audit leaves of a defense's gain, in one sentence.

    Args:
        row: `defense`, `gain` and `audited_gain`, of one of `worst_cases`.
        before, after: the defense against the undefended model, on the same images, without and with the audit.
        faced: how many of the audit's attacks were run on the defense.
    """
    defense = row["defense"]
    measured = f"{points(row['audited_gain'])} points, p = {after.p:.2g}"
    if after.verdict == "gain":
        # A gain is worth what it was tried with.
        known = len(AUDIT_ATTACKS)
        tried = f"all {known} adaptive attacks of the audit"
        if faced < known:
            count, were = ("one", "was") if faced == 1 else (faced, "were")
            tried = f"the {count} of {known} adaptive attacks that {were} run on it"
        fate = "survives" if before.verdict == "gain" else "shows only after"
        return f"The gain of {defense} {fate} {tried}: {measured}."
    fall = f"from {points(row['gain'])} to {measured}"
    if after.verdict == "loss":
        if before.verdict == "gain":
            return f"The audit turns the gain of {defense} into a loss: {fall}."
        return f"{defense} loses after the audit: {measured}."
    if before.verdict == "gain":
        return f"The audit undoes the gain of {defense}: {fall}, undecided at {_outlook(after)}."
    return f"{defense} is undecided after the audit: {measured}, at {_outlook(after)}."


def _outlook(comparison: Comparison) -> str:
    return f"{comparison.images} images; {comparison.outlook}"


def fall_sentences(results: Results) -> list[str]:
    """Return a sentence on each defense whose accuracy in the worst case is lower than under its first attack.

    First come the direct attacks, then transfers, then the audit, each in the order of the protocol; in a cascade the
    attacks come as they ran. The undefended model and defenses with anything left to measure have no sentence.
    """
    attacks: dict[str, list[Row]] = defaultdict(list)
    for row in results.accuracies:
        if row["attack"] != "clean":
            attacks[row["defense"]].append(row)
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in results.broken_sets:
        sets[row["defense"]].append(row)
    sentences = []
    for defense, broken in sets.items():
        if defense == "none" or not all(row["known"] for row in broken):
            continue
        order = [row["attack"] for row in sorted(attacks[defense], key=_order)]
        images = [(row["attacks"] or [], row["images"]) for row in broken]
        sentence = fall_sentence(defense, order, images)
        if sentence is not None:
            sentences.append(sentence)
    return sentences


def fall_sentence(defense: str, order: Sequence[str], images: Sequence[tuple[Sequence[str], int]]) -> str | None:
    """Return which attacks break images that none before them broke; None where only the first one does.

    Args:
        defense: its label.
        order: its attacks; the first one attacked all images.
        images: each set of attacks that some images did not withstand, with the number of these images.

    >>> fall_sentence("mine", ["aa", "tr-aa", "audit-bpda"], [([], 21), (["aa", "tr-aa"], 22), (["audit-bpda"], 21)])
    'mine falls from 65.6 % under aa to 32.8 %: audit-bpda breaks 21 images that aa leaves.'
    """
    newly = dict.fromkeys(order, 0)
    for attacks, count in images:
        if attacks:
            newly[min(attacks, key=order.index)] += count
    total = sum(count for _, count in images)
    breaking = [(attack, count) for attack, count in list(newly.items())[1:] if count]
    if not breaking:
        return None
    first = order[0]
    before, after = total - newly[first], total - sum(newly.values())
    (attack, count), *others = breaking
    clauses = [f"{attack} breaks {count} image{'s' if count > 1 else ''} that {first} leaves"]
    clauses += [f"{attack} {count} more" for attack, count in others]
    return (
        f"{defense} falls from {percent(before / total)} under {first} to {percent(after / total)}: "
        f"{', '.join(clauses)}."
    )


def _order(row: Row) -> tuple[int, bool, bool, tuple[int, int, str]]:
    """Return the place of an attack by its row of `accuracies`: the later in a cascade, the more images it skipped."""
    attack = row["attack"]
    return row["skipped"], attack.startswith(AUDIT_PREFIX), attack.startswith(TRANSFER_PREFIX), attack_order(attack)


def noise_sentences(results: Results) -> list[str]:
    """Return a sentence for each random defense of a run: how often noise alone makes it wrong."""
    return [
        f"noise alone makes {defense} wrong in {percent(share.value)} of the looks at clean images ({share.why})"
        for defense, share in noise_shares(results).items()
        if share.value is not None
    ]


def looking_sentences(results: Results) -> list[str]:
    """Return sentences on a run whose number of images was not chosen before the first look; none of any other run."""
    again = [row["defense"] for row in results.worst_cases if row["anytime"] and row["defense"] != "none"]
    if not again:
        return []
    validity = (
        "Their tests and intervals hold at every look: mixture martingales, decided at E = 1/p ≥ 20, and confidence "
        "sequences."
    )
    if not results.goes_until_decided:
        return [f"Runs on fewer of the images came before, for {', '.join(again)}. {validity}"]
    most = results.run["n"]
    ends = []
    for row in results.worst_cases:
        if (comparison := results.compared.get(row["defense"])) is not None:
            images = f"all {most}" if row["n"] == most else f"{row['n']} of at most {most}"
            ends.append(f"{row['defense']} is {_DECIDED[comparison.verdict]} after {images} images")
    return [f"Images came in a random order until each gain was decided: {'; '.join(ends)}. {validity}"] if ends else []


_DECIDED = {"gain": "decided as a gain", "loss": "decided as a loss", "undecided": "undecided"}


def warnings(results: Results) -> list[str]:
    """Return a line for each finding of the checks that is more than information."""
    grave = [finding for finding in results.findings if finding["severity"] != "info"]
    return [
        f"check {finding['check']} ({finding['defense']}): {finding['message']}"
        for finding in sorted(
            grave, key=lambda finding: (finding["defense"] is None, finding["defense"], finding["check"])
        )
        for _ in range(finding["times"])
    ]


def unmeasured(results: Results) -> list[str]:
    """Return a sentence for everything that a reader could take for measured and that is not.

    Of the run's notes those count that begin with `NOT_MEASURED`.
    """
    notes = results.run["notes"] or []
    gaps = [note.removeprefix(NOT_MEASURED) for note in notes if note.startswith(NOT_MEASURED)]
    everywhere = [attack for attacks in results.planned.values() for attack in attacks]
    sentences = [*gaps, *unplanned_attacks(results.planned), *unplanned_audits(everywhere, gaps)]
    if results.progress is not None:
        units = results.progress
        waiting = units["planned"] - units["done"] - units["failed"] - units["quarantined"]
        if waiting:
            sentences.append(
                f"{waiting} of {units['planned']} units have not finished; running the same command resumes."
            )
    for row in results.given_up:
        what = " / ".join(part for part in (row["defense"], row["attack"]) if part) or row["kind"]
        sentences.append(f"Unit {row['unit_key']} ({what}) failed, attempts: {row['failures']}; {row['error']}")
    return sentences


def remarks(results: Results) -> list[str]:
    """Return what stands below the tables, a sentence each.

    How far an evaluation looked that may end early, which attack broke each defense that falls, what an audit leaves of
    each gain, what noise alone does, and what the checks warn of.
    """
    sentences = (looking_sentences, fall_sentences, audit_sentences, noise_sentences, warnings)
    return [sentence for said in sentences for sentence in said(results)]


def most_images(results: Results) -> str:
    """Return how many images a run evaluates, or may evaluate, in words."""
    return f"{'at most ' if results.goes_until_decided else ''}{results.run['n']} images"


def own_notes(results: Results) -> list[str]:
    """Return those of a run's notes that tell neither of a gap nor of an attack's idea."""
    return [note for note in results.run["notes"] or [] if not note.startswith((NOT_MEASURED, IDEA))]
