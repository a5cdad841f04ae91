"""Whose code searches, pyautoattack's or the engine's: the choice, and what a run says of it."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from igd_ray.attacks.base import ENGINES, POOLED, PYAUTOATTACK
from igd_ray.attacks.own import named_attack
from igd_ray.attacks.registry import NamedAttack, expand_attacks, is_in_a_file, parse_attack


def asked_attacks(
    labels: Iterable[str], engine: str, held: Mapping[str, NamedAttack] = MappingProxyType({})
) -> list[NamedAttack]:
    """Return the attacks that `labels` and groups ask for, searched by `engine` where they have the choice.

    Args:
        labels: labels, groups and entries of attacks in files.
        engine: see `ENGINES`.
        held: what only this program holds, by its entry.

    Raises:
        InputError: if there is no such attack.
    """
    return [
        on_engine(held.get(entry) or (named_attack(entry) if is_in_a_file(entry) else parse_attack(entry)), engine)
        for entry in expand_attacks(labels)
    ]


def on_engine(attack: NamedAttack, engine: str) -> NamedAttack:
    """Return `attack`, searched by `engine` where it has the choice."""
    return attack if attack.algorithm is None else attack.of(attack.algorithm.on_engine(engine))


def engine_notes(attacks: Sequence[NamedAttack], engine: str) -> list[str]:
    """Return a note for each of `attacks` that says which engine searched at which of its stages.

    Where pyautoattack was asked for, as it is by default, there are none but for attacks that only the engine has.
    """
    notes = []
    for attack in attacks:
        by = {} if attack.algorithm is None else attack.algorithm.searched_by
        if engine == PYAUTOATTACK and POOLED not in by.values():
            continue
        stages = {each: [stage for stage in by if by[stage] == each] for each in ENGINES}
        said = [f"{each} for {', '.join(named)}" for each, named in stages.items() if named]
        if said:
            notes.append(f"engine of {attack.label}: {'; '.join(said)}")
    return notes
