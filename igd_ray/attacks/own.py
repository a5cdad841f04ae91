"""What attacks take from files of the user's.

`mine=FILE.py:Attack` is an attack, held to the contract of every attack. The class is a subclass of
`igd_ray.attacks.Attack` that takes no arguments. `tr-mine=…` computes its points on the base model; `audit-mine=…`
attacks what others left robust; `audit-mine@loir-16=…` attacks that defense only.

`tr-aa@FILE.py:factory` is a transfer from another model, the one that `factory()` returns with its weights;
`tr-aa@FILE.py:factory#WEIGHTS` gives it the weights of another file.
"""

import inspect
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

from igd_ray.attacks.base import Attack
from igd_ray.attacks.registry import (
    CLEAN,
    LABEL,
    REGISTERED,
    NamedAttack,
    Registration,
    is_in_a_file,
    parse_attack,
)
from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.identity import require_plain
from igd_ray.models.sources import exits_refused, import_sources
from igd_ray.protocol import ATTACK_GROUPS, AUDIT_PREFIX, TRANSFER_PREFIX
from igd_ray.values.file_parts import PART


class OwnAttack(NamedTuple):
    """What NAME=FILE.py:Attack or NAME@DEFENSE=FILE.py:Attack says.

    Attributes:
        label: the name.
        defense: the label of the only defense that it attacks; None for all.
        file, class_name: where it is.
    """

    label: str
    defense: str | None
    file: Path
    class_name: str

    def imported(self) -> NamedAttack:
        """Import the file and return the attack.

        Raises:
            InputError: if the file cannot be imported, or the class is not an attack that takes no arguments.
        """
        if not self.file.is_file():
            self._refuse(f"no file at {self.file}")
        try:
            # What the file prints must not stand among results.
            with exits_refused("it"), redirect_stdout(sys.stderr):
                module = import_sources(self.file)
                defined = getattr(module, self.class_name, None)
                if not (isinstance(defined, type) and issubclass(defined, Attack)):
                    known = [name for name, value in vars(module).items() if isinstance(value, type)]
                    self._refuse(
                        f"it has no subclass {self.class_name!r} of igd_ray.attacks.Attack"
                        f"{did_you_mean(self.class_name, known)}"
                    )
                return named_own(self.label, defined(), defense=self.defense, file=self.file)
        except InputError as error:
            self._refuse(str(error).removeprefix(self._prefix))
        except Exception as error:  # somebody's code may fail in any way
            self._refuse(f"{type(error).__name__}: {first_line(error)}")

    @property
    def _prefix(self) -> str:
        return f"attack {self.label}={self.file.name}:{self.class_name}: "

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"{self._prefix}{why}")


def named_own(label: str, algorithm: Attack, *, defense: str | None, file: Path | None = None) -> NamedAttack:
    """Return `algorithm`, an attack of the user's own, as the one called `label`.

    Args:
        label: free, see `require_free_label`.
        algorithm: the attack.
        defense: the label of the only defense that it attacks; None for all.
        file: that workers have to import for it; None for what only this program holds.

    Raises:
        InputError: if the source of its class was not found, or its settings cannot be told from others.
    """
    require_plain(algorithm.settings)
    defined = type(algorithm)
    idea = (inspect.getdoc(defined) or defined.__name__).partition("\n")[0]
    registration = Registration(label, defined, idea=idea, file=file, defense=defense)
    return NamedAttack(label, algorithm, label.startswith(TRANSFER_PREFIX), registration)


def parse_own(entry: str) -> OwnAttack:
    """Return the attack in a file that `entry` names; nothing is read.

    Raises:
        InputError: if it is not of that form, or the name is taken.
    """
    name, _, spec = entry.partition("=")
    label, at, defense = name.partition("@")
    file, colon, class_name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not class_name or (at and not defense):
        raise InputError(
            f"an attack of your own is given as NAME=FILE.py:Attack or NAME@DEFENSE=FILE.py:Attack, not {entry!r}"
        )
    require_free_label(label, f"--attacks {entry}")
    return OwnAttack(label, defense or None, Path(file).resolve(), class_name)


# FILE.py:factory#WEIGHTS.
MODEL_AND_WEIGHTS = re.compile(rf"(?P<spec>.+\.py:[^:{PART}]+){PART}(?P<weights>.+)")

# What another model may be called in a label.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def is_from_another_model(entry: str) -> bool:
    """Tell whether `entry` is of the form tr-ATTACK@FILE.py:factory or tr-ATTACK@NAME=FILE.py:factory."""
    label, at, rest = entry.partition("@")
    # An attack of the user's own has a name of its own: NAME@DEFENSE=FILE.py:Attack.
    return bool(at) and "=" not in label and ("=" not in rest or _is_transfer(label))


def parse_transfer_from(entry: str) -> NamedAttack:
    """Return the transfer from another model that `entry` names; nothing is read.

    Its label is tr-ATTACK@NAME, by default with the model's file and factory, and the file of its weights, as its name.

    Raises:
        InputError: if it is not of that form, or there is no such transfer.
    """
    label, _, rest = entry.partition("@")
    name, equals, spec = rest.partition("=")
    if not equals or not MODEL_NAME.fullmatch(name):
        name, spec = "", rest
    spec, weights = model_and_weights(spec)
    file, _, factory = spec.rpartition(":")
    if not file.endswith(".py") or not factory:
        raise InputError(
            f"a transfer from another model is given as tr-ATTACK@FILE.py:factory or tr-ATTACK@NAME=FILE.py:factory, "
            f"with {PART}WEIGHTS behind it where a file holds its weights, not {entry!r}"
        )
    attack = parse_attack(label)
    if not attack.transfer:
        raise InputError(
            f"--attacks {entry}: another model is for transfers, such as tr-aa@FILE.py:factory, not {label}"
        )
    path = Path(file)
    own_name, source = f"{path.name}:{factory}", f"{path.resolve()}:{factory}"
    if weights is not None:
        own_name, source = f"{own_name}{PART}{Path(weights).name}", f"{source}{PART}{Path(weights).resolve()}"
    return replace(attack, label=f"{label}@{name or own_name}", source_model=source)


def model_and_weights(spec: str) -> tuple[str, str | None]:
    """Return FILE.py:factory and WEIGHTS of FILE.py:factory#WEIGHTS; any other spec has no weights.

    >>> model_and_weights("net.py:net#net.pt#model_ema")
    ('net.py:net', 'net.pt#model_ema')
    >>> model_and_weights("net.py:net")
    ('net.py:net', None)
    """
    found = MODEL_AND_WEIGHTS.fullmatch(spec)
    return (spec, None) if found is None else (found["spec"], found["weights"])


def _is_transfer(label: str) -> bool:
    try:
        return parse_attack(label).transfer
    except InputError:
        return False


def require_free_label(label: str, what: str) -> None:
    """Check that an attack from outside may be called `label`; `what` is the flag that names it.

    Raises:
        InputError: if it may not.
    """
    bare = label.removeprefix(TRANSFER_PREFIX)
    if not LABEL.fullmatch(bare) or (label != bare and bare.startswith((TRANSFER_PREFIX, AUDIT_PREFIX))):
        raise InputError(
            f"{what}: a name is lower-case words with hyphens between them, none of which begins with a digit, with "
            "tr- or audit- before them or neither; choose another"
        )
    if {label, bare} & {CLEAN, *REGISTERED, *ATTACK_GROUPS}:
        raise InputError(f"{what}: {label!r} is one of this package's own attacks; choose another name")


def check_attack(entry: str) -> None:
    """Check that `entry`, one that `is_in_a_file`, names an attack or another model in a file; no file is read.

    Raises:
        InputError: if it does not.
    """
    if is_from_another_model(entry):
        parse_transfer_from(entry)
    else:
        parse_own(entry)


def named_attack(entry: str) -> NamedAttack:
    """Return the attack that `entry`, a label or one that `is_in_a_file`, names; a file with an attack is imported.

    Raises:
        InputError: if there is no such attack.
    """
    if not is_in_a_file(entry):
        return parse_attack(entry)
    return parse_transfer_from(entry) if is_from_another_model(entry) else parse_own(entry).imported()
