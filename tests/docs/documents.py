"""README and the pages of docs/: their code blocks, and the commands in them."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.toys.places import REPOSITORY

PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: the file's name.
        language: what stands behind the opening fence, such as "sh", or "".
        text: the lines between the fences, each with its line end.
    """

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in `languages`, by default in any, of all pages in their order."""
    return [
        Block(page.name, match["language"], match["text"])
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text())
        if match["language"] in languages or not languages
    ]


def commands(shell: Iterable[Block]) -> list[str]:
    """Return the commands of blocks of shell lines: continued lines joined, without comments."""
    lines = [line for block in shell for line in block.text.replace("\\\n", " ").splitlines()]
    stripped = [re.sub(r"\s+#\s.*$|^#.*$", "", line) for line in lines]
    return [re.sub(r"\s+", " ", line).strip() for line in stripped if line.strip()]


def inline(page: Path) -> list[str]:
    """Return the pieces of inline code of a page."""
    return _INLINE.findall(_BLOCK.sub("", page.read_text()))


def words(command: str) -> list[str]:
    """Return the words of a simple command, as a shell splits them."""
    return shlex.split(command)
