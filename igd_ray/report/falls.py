"""Which attack broke a defense: the images that each attack breaks and that none before it broke."""

from collections import defaultdict
from collections.abc import Sequence

from igd_ray.protocol import AUDIT_PREFIX, TRANSFER_PREFIX, attack_order
from igd_ray.report.results import Results
from igd_ray.report.tables import Row, percent


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
