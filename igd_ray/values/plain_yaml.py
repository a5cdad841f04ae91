"""YAML of plain values: what people write in settings files and in NAME=VALUE, and nothing that is code or a trap."""

import math
from collections.abc import Hashable
from pathlib import Path

import yaml

from igd_ray.errors import InputError, first_line

# A settings file is small; anything larger, deeper or with longer words is something else.
MOST_BYTES = 100_000
MOST_DEPTH = 16
LONGEST_VALUE = 1000


def read_yaml(path: str | Path) -> dict[str, object]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: if the file cannot be read, is too large, not YAML, or not a mapping; or it has anchors, a name
            twice, or a value that is too long, too deep or not plain.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"settings: no file at {path}")
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"settings: {path} exceeds {MOST_BYTES} bytes; expected a short YAML mapping")
        content = plain_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"settings: {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"settings: {path} is not plain YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"settings: {path} must map names to values (`model: demo`), not {type(content).__name__}")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def plain_value(text: str) -> object:
    """Return the value that `text` is: None, a bool, a number, a text, or lists and mappings of these.

    >>> plain_value("[1, 2.5, words]")
    [1, 2.5, 'words']

    Raises:
        yaml.YAMLError: for what is not YAML, an alias, a name given twice, or a text too deep or too long.
        ValueError: for a date, a number that is not finite or has thousands of digits, or a text with a NUL.
    """
    _require_small(text)
    try:
        content = yaml.load(text, _UniqueNames)
    except (OverflowError, ArithmeticError) as error:  # time zones and numbers beyond what Python's types hold
        raise ValueError(first_line(error)) from None
    require_plain(content)
    return content


def require_plain(value: object) -> None:
    """Check that `value` can stand in a key, which is JSON.

    Raises:
        ValueError: naming the type, the number or the text that cannot.
    """
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str | int | float | bool):
                raise ValueError(f"{type(name).__name__} is not the name of a value")
            require_plain(each)
    elif isinstance(value, list | tuple):
        for each in value:
            require_plain(each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, str) and "\0" in value:
        raise ValueError(f"{value!r} has the character NUL")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"a {type(value).__name__} is not taken; put it in quotes for a text")


class _UniqueNames(yaml.SafeLoader):
    """Refuses a mapping that gives a name twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    raise yaml.YAMLError(f"{name.value} is given twice")
                seen.add(name.value)
        return super().construct_mapping(node, deep=deep)


def _require_small(text: str) -> None:
    """Refuse what can stand for much more than it is long, before any of it is built.

    Raises:
        yaml.YAMLError: for what is not YAML, an alias, or a text too deep or too long.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{str(event.anchor)[:40]} is not taken; write the value out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_VALUE:
            raise yaml.YAMLError(f"a value has more than {LONGEST_VALUE} characters")
