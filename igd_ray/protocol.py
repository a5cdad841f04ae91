"""The published protocol and the audit beyond it: their attacks, the order of attacks, and what a run leaves out."""

from collections.abc import Iterable, Mapping, Sequence

# The paper whose protocol this is.
CITATION = (
    "Akshay Kulkarni and Tsui-Wei Weng. Interpretability-Guided Test-Time Adversarial Defense. "
    "European Conference on Computer Vision (ECCV), 2024."
)

# The label of the base model without a defense, which every defense is compared with.
NONE = "none"

# The nine attacks of the image-wise worst case (Kulkarni & Weng, ECCV 2024), in their order.
NINE_ATTACKS = (
    "aa",
    "rays",
    "apgd-eot",
    "tr-apgd-ce",
    "tr-apgd-cw",
    "tr-apgd-t-dlr",
    "tr-aa",
    "tr-rays",
    "tr-apgd-eot",
)

# What the names of attacks begin with that are computed on the base model and judged on the defense.
TRANSFER_PREFIX = "tr-"

# Adaptive attacks, aimed at one defense; they attack the images that all others left robust.
AUDIT_PREFIX = "audit-"
AUDIT_ATTACKS = (
    "audit-transfer-start",
    "audit-joint-loss",
    "audit-oracle-mask",
    "audit-detached-mask",
    "audit-identity-mask",
    "audit-line",
    "audit-square-eot",
    "audit-best-start",
)

# What stands for several attacks where attacks are asked for.
ATTACK_GROUPS = {"iwwc": NINE_ATTACKS, "audit": (*AUDIT_ATTACKS, "audit-bpda")}

# How a note on a run begins that tells of a gap.
NOT_MEASURED = "not measured: "

# How a note on a run begins that says the idea of one of its adaptive attacks.
IDEA = "idea of "


def attack_order(attack: str) -> tuple[int, int, str]:
    """Return what attacks are sorted by: the clean images, the nine with their variants in order, others, the audit."""
    if attack == "clean":
        return 0, 0, attack
    if attack.startswith(AUDIT_PREFIX):
        return 3, _place(attack, AUDIT_ATTACKS), attack
    place = _place(attack, NINE_ATTACKS)
    return 2 if place == len(NINE_ATTACKS) else 1, place, attack


def idea_note(attack: str, idea: str) -> str:
    """Return the note by which a run's report knows the idea of an adaptive attack.

    >>> idea_note("audit-line-50", "APGD along a line.")
    'idea of audit-line-50: APGD along a line.'
    """
    return f"{IDEA}{attack}: {idea}"


def noted_ideas(notes: Iterable[str]) -> dict[str, str]:
    """Return the idea of each adaptive attack that the `notes` of a run tell of.

    >>> noted_ideas(["evaluated on 8 images", "idea of audit-line-50: APGD along a line."])
    {'audit-line-50': 'APGD along a line.'}
    """
    told = (note.removeprefix(IDEA).partition(": ") for note in notes if note.startswith(IDEA))
    return {attack: idea for attack, _, idea in told}


def audits_among(attacks: Iterable[str]) -> int:
    """Return how many of the audit's attacks are among `attacks`, whatever their budgets."""
    places = {_place(attack, AUDIT_ATTACKS) for attack in attacks}
    return len(places - {len(AUDIT_ATTACKS)})


def unplanned_audits(planned: Iterable[str], gaps: Sequence[str]) -> list[str]:
    """Return a sentence on the audit's attacks that no defense was planned to face; none where there is no audit.

    Args:
        planned: the attacks planned on any defense.
        gaps: what else is said of what was not measured: an attack named there is not named again.
    """
    audits = sorted({attack for attack in planned if attack.startswith(AUDIT_PREFIX)})
    lacking = [name for name in AUDIT_ATTACKS if name not in audits and not any(name in gap for gap in gaps)]
    if not audits or not lacking:
        return []
    named = []
    for name in lacking:
        variants = [attack for attack in audits if attack.startswith(f"{name}-")]
        named.append(f"{name} (only with another budget: {', '.join(variants)})" if variants else name)
    return [f"Of the audit's {len(AUDIT_ATTACKS)} adaptive attacks no defense faced {', '.join(named)}."]


def _place(attack: str, names: Sequence[str]) -> int:
    """Return the place in `names` of what `attack` is a variant of; their number if of none."""
    places = (place for place, name in enumerate(names) if attack == name or attack.startswith(f"{name}-"))
    return next(places, len(names))


def unplanned_attacks(planned: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each of the nine attacks that some defense was not planned to face.

    Args:
        planned: the attacks planned for each defense. On the undefended model attacks and transfers coincide,
            so that its transfers are not asked for.
    """
    sentences = []
    for name in NINE_ATTACKS:
        owing = [defense for defense in planned if not (defense == NONE and name.startswith(TRANSFER_PREFIX))]
        lacking = [defense for defense in owing if name not in planned[defense]]
        if not lacking:
            continue
        where = "" if lacking == owing else f" on {', '.join(lacking)}"
        variants = sorted(
            {attack for defense in lacking for attack in planned[defense] if attack.startswith(f"{name}-")}
        )
        instead = f"; in its place, with another budget: {', '.join(variants)}" if variants else ""
        sentences.append(f"{name} was not run{where}{instead}.")
    return sentences
