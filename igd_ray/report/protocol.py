"""The published protocol, by which a report says what a run leaves open."""

from collections.abc import Mapping, Sequence

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

CITATION = (
    "Akshay Kulkarni and Tsui-Wei Weng. Interpretability-Guided Test-Time Adversarial Defense. "
    "European Conference on Computer Vision (ECCV), 2024."
)


def attack_order(attack: str) -> tuple[int, str]:
    """Return what attacks are sorted by: the clean images, the nine with their variants in order, then the others."""
    if attack == "clean":
        return -1, attack
    # The longest name that fits: "tr-apgd-eot-5" is a variant of "tr-apgd-eot".
    places = [place for place, name in enumerate(NINE_ATTACKS) if attack == name or attack.startswith(f"{name}-")]
    return places[0] if places else len(NINE_ATTACKS), attack


def unplanned_attacks(planned: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each of the nine attacks that some defense was not planned to face.

    Args:
        planned: the attacks planned for each defense. On the undefended model attacks and transfers coincide,
            so that its transfers are not asked for.
    """
    sentences = []
    for name in NINE_ATTACKS:
        owing = [defense for defense in planned if not (defense == "none" and name.startswith("tr-"))]
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
