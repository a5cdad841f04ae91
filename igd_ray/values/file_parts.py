"""A file with the name of what is meant in it, such as FILE.pt#model_ema."""

from pathlib import Path

# What stands between a file and the name of what is meant in it.
PART = "#"


def file_and_part(file: str | Path) -> tuple[Path, str | None]:
    """Return the file, and the name of the state dict or array in it where one stands behind a "#".

    >>> file_and_part("net.pt#model_ema")[1]
    'model_ema'
    """
    path = Path(file)
    name, mark, part = path.name.rpartition(PART)
    # A file may have the mark in its name.
    return (path, None) if not mark or path.is_file() else (path.with_name(name), part)
