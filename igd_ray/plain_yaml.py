"""YAML files of settings: plain values only, and nothing that stands for much more than it is long."""

from pathlib import Path

import yaml

from igd_ray.errors import InputError, first_line

# A YAML settings file is small; anything larger, deeper or with longer words is something else.
MOST_CONFIG_BYTES = 100_000
MOST_CONFIG_DEPTH = 16
LONGEST_CONFIG_VALUE = 1000


def read_yaml(path: str | Path) -> dict[str, object]:
    """Return the mapping in a YAML file; only plain values, no code.

    Raises:
        InputError: if the file is missing, too large, not YAML, or no mapping; or it has anchors, or a value that is
            too long or too deep.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"settings: no file at {path}")
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise InputError(f"settings: {path} exceeds {MOST_CONFIG_BYTES} bytes; expected a short YAML mapping")
    try:
        text = path.read_text()
        _require_plain(text)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise InputError(f"settings: {path} is not plain YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"settings: {path} must map names to values (`model: demo`), not {type(content).__name__}")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def _require_plain(text: str) -> None:
    """Refuse what can stand for much more than it is long, before any of it is built.

    Raises:
        yaml.YAMLError: for no YAML, an alias, or what is too deep or too long.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_CONFIG_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_CONFIG_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{str(event.anchor)[:40]} is not taken; write the value out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_CONFIG_VALUE:
            raise yaml.YAMLError(f"a value has more than {LONGEST_CONFIG_VALUE} characters")
