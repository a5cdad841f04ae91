"""CITATION.cff and CHANGELOG.md are of this version, and the page on certainty has numbers that are true."""

import re
import tomllib

import pytest
import yaml

from igd_ray.protocol import CITATION
from tests.toys.places import REPOSITORY

DOCS = REPOSITORY / "docs"
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((DOCS / "CITATION.cff").read_text())
    # What the Citation File Format 1.2.0 requires.
    assert {"authors", "cff-version", "message", "title"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == VERSION
    (paper,) = citation["references"]
    assert {"authors", "title", "type"} <= set(paper)
    assert paper["title"] in CITATION
    assert all(author["family-names"] in CITATION for author in paper["authors"])
    assert str(paper["year"]) in CITATION


def test_the_changelog_begins_with_this_version() -> None:
    first = re.findall(r"^## (\S+)", (DOCS / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert first.rstrip(",") == VERSION


ROWS = re.findall(r"^\| ([\d ]+) \| ([\d.]+) % to ([\d.]+) % \|$", (DOCS / "how-sure.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("images", "low", "high"), ROWS)
def test_the_intervals_on_the_page_are_wilson_s(images: str, low: str, high: str) -> None:
    """By hand: (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²))/(1 + z²/n), with p = 1/2."""
    n, z = int(images.replace(" ", "")), 1.959963984540054
    margin = z * (0.25 / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    assert (float(low), float(high)) == (round(50 - 100 * margin, 1), round(50 + 100 * margin, 1))


def test_the_page_has_intervals() -> None:
    assert len(ROWS) == 4


def test_the_glossary_is_in_order_and_has_each_term_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
    greek = {"ε": "epsilon", "σ": "sigma", "τ": "tau"}
    keys = [re.sub("[εστ]", lambda letter: greek[letter[0]], row).lower() for row in rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) > 40
