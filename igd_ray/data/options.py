"""Options of a data spec, behind its location: ``parquet:FILE?label_column=target&mode=RGB``."""

from collections.abc import Mapping

from igd_ray.errors import InputError, did_you_mean

# How labels are found, and how images are read; `imagenet:` has one more, which it reads itself.
LABEL_COLUMN, MODE = "label_column", "mode"
PREPROCESSING = "preprocessing"

# The settings that stand for them.
SETTINGS = {"label_column": LABEL_COLUMN, "image_mode": MODE}


def split_options(location: str) -> tuple[str, dict[str, str]]:
    """Return a location without its options, and the options.

    A "?" that no option follows is part of the location, as in a pattern of file names. An option that only its
    source reads stays there.

    >>> split_options("test-0000?.parquet?mode=L")
    ('test-0000?.parquet', {'mode': 'L'})

    Raises:
        InputError: if an option is unknown, or has no value.
    """
    before, mark, text = location.rpartition("?")
    if not mark or "=" not in text:
        return location, {}
    options: dict[str, str] = {}
    kept = []
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if name == PREPROCESSING:
            kept.append(part)
        elif name not in (LABEL_COLUMN, MODE) or not value or name in options:
            known = (LABEL_COLUMN, MODE, PREPROCESSING)
            raise InputError(
                f"options of data are {', '.join(f'{each}=…' for each in known)}, each once, not {part!r}"
                f"{did_you_mean(name, known)}"
            )
        else:
            options[name] = value
    return f"{before}?{'&'.join(kept)}" if kept else before, options


def with_options(spec: str, settings: Mapping[str, str]) -> str:
    """Return the data spec with options for those of SETTINGS that are given.

    >>> with_options("parquet:test.parquet", {"label_column": "target"})
    'parquet:test.parquet?label_column=target'

    Raises:
        InputError: if the spec has such an option, or a value cannot be written as one.
    """
    name, colon, location = spec.partition(":")
    _, given = split_options(location)
    parts = []
    for setting, option in SETTINGS.items():
        if setting not in settings:
            continue
        value, flag = settings[setting], "--" + setting.replace("_", "-")
        if option in given:
            raise InputError(f"{spec} has the option {option} already; leave it or {flag} out")
        if not value or set(value) & set("&?="):
            raise InputError(f"{flag} must be a name without &, ? and =, not {value!r}")
        parts.append(f"{option}={value}")
    if not parts:
        return spec
    joined = "&" if given or f"?{PREPROCESSING}=" in location else "?"
    return f"{name}{colon or ':'}{location}{joined}{'&'.join(parts)}"
